//! Files of the report: replaced whole, and only if they change. Nothing is synced, since all of it
//! can be made again.

use std::path::Path;

use storyloom_memory::Storage;

use crate::error::RunError;

/// Writes `bytes` to `path` unless they are there already; tells whether it did.
pub(super) fn write(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<bool, RunError> {
    if storage.read(path).is_ok_and(|before| before == bytes) {
        return Ok(false);
    }
    storage.write_unsynced(path, bytes)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use storyloom_memory::Disk;

    use super::*;

    #[test]
    fn what_does_not_change_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/page.html");
        assert!(write(&Disk, &path, b"one").unwrap());
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(!write(&Disk, &path, b"one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert!(write(&Disk, &path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(write(&Disk, &path.join("below/a/file"), b"").is_err());
    }
}
