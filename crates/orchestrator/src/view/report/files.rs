//! Files of the report: replaced whole, and only if they change. Nothing is synced, since all of it
//! can be made again.

use std::fs;
use std::path::Path;

use storyloom_memory::MemoryError;
use storyloom_memory::storage::temporary_name;

use crate::error::RunError;

/// Writes `bytes` to `path` unless they are there already; tells whether it did.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<bool, RunError> {
    if fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(false);
    }
    replace(path, bytes)?;
    Ok(true)
}

/// Writes `bytes` to `path`, so that a reader sees all of the old file or all of the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let failed = |error| MemoryError::storage("write", path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let temporary = temporary_name(path);
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    Ok(written.map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/page.html");
        assert!(write(&path, b"one").unwrap());
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(!write(&path, b"one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert!(write(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(write(&path.join("below/a/file"), b"").is_err());
    }
}
