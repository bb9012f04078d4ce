//! Reading the small files of a checkpoint.

use std::path::Path;

use crate::error::{ModelError, Result};

/// Reads a small file of a checkpoint.
///
/// # Errors
/// It cannot be read, or something else stands in its place.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|error| ModelError::io(path, error))?;
    refuse_stand_in(path, &bytes)?;
    Ok(bytes)
}

/// Reads a JSON file of a checkpoint.
///
/// # Errors
/// The file cannot be read or is not JSON.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|error| ModelError::bad_file(path, error.to_string()))
}

/// Refuses what is sometimes found in the place of a file that should have been downloaded.
pub(super) fn refuse_stand_in(path: &Path, bytes: &[u8]) -> Result<()> {
    let start = bytes.trim_ascii_start();
    let has = |tag: &[u8]| {
        let start = start.get(..tag.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(tag))
    };
    let reason = if has(b"version https://git-lfs.github.com/") {
        "this is a git-lfs pointer and not the file itself; run `git lfs pull` where it was cloned, \
         or download the file"
    } else if has(b"<!doctype html") || has(b"<html") {
        "this is a web page and not the file itself; a download was answered with it (is a login \
         needed?); download the file again"
    } else if has(b"/annex/objects/") || has(b"../.git/annex/") {
        "this is a git-annex pointer and not the file itself; run `git annex get` where it was cloned"
    } else if bytes.starts_with(b"GGUF") {
        "this is a GGUF file, whose weights are quantised in blocks, which is not supported; take the \
         safetensors file of these weights"
    } else {
        return Ok(());
    };
    Err(ModelError::bad_file(path, reason))
}
