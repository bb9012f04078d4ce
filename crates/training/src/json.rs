//! Small JSON files beside the tensors.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, TrainError};

/// What the file holds.
///
/// # Errors
/// A file that cannot be read or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|error| TrainError::io(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| TrainError::bad_file(path, error))
}

/// Writes `value` for people to read.
///
/// # Errors
/// A file that cannot be written.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| TrainError::bad_file(path, error))?;
    text.push('\n');
    fs::write(path, text).map_err(|error| TrainError::io(path, error))
}
