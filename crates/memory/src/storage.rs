//! The few things the bank asks of a file system, so that tests can make each of them fail.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{MemoryError, Result};

/// Durable files. A file under its final name is whole, or it is not there.
pub trait Storage: Debug + Send + Sync {
    /// Reads a whole file.
    fn read(&self, path: &Path) -> Result<Vec<u8>>;

    /// Writes a file durably: under a temporary name, synced, renamed, its folder synced.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()>;

    /// Gives a finished temporary file its final name, durably.
    fn publish(&self, temporary: &Path, path: &Path) -> Result<()>;

    /// Whether the file is there.
    fn exists(&self, path: &Path) -> bool;
}

/// The real file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Disk;

/// A name beside `path` that no other writer uses. Its start marks it as unfinished.
pub fn temporary_name(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    // Programs on other machines may have the same process id.
    let moment = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    path.with_file_name(format!(
        ".unfinished.{}.{moment}.{number}.{name}",
        std::process::id()
    ))
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

impl Storage for Disk {
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        fs::read(path).map_err(|error| MemoryError::storage("read", path, error))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let folder = folder_of(path);
        fs::create_dir_all(folder)
            .map_err(|error| MemoryError::storage("create the folder", folder, error))?;
        let temporary = temporary_name(path);
        let written = write_file(&temporary, bytes)
            .map_err(|error| MemoryError::storage("write", path, error))
            .and_then(|()| self.publish(&temporary, path));
        if written.is_err() {
            // Best effort: an unfinished file is never mistaken for a finished one.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn publish(&self, temporary: &Path, path: &Path) -> Result<()> {
        let folder = folder_of(path);
        File::open(temporary)
            .and_then(|file| file.sync_all())
            .map_err(|error| MemoryError::storage("sync", temporary, error))?;
        fs::rename(temporary, path).map_err(|error| MemoryError::storage("rename", path, error))?;
        File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|error| MemoryError::storage("sync the folder", folder, error))
    }

    fn exists(&self, path: &Path) -> bool {
        path.is_file()
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.flush()
}

/// A storage on which the n-th durable operation fails; for tests of what survives.
#[derive(Debug)]
pub struct FailingStorage {
    inner: Disk,
    left: AtomicU64,
    /// Operations asked for so far.
    pub seen: AtomicU64,
}

impl FailingStorage {
    /// Fails once, on the operation after `successes` successful ones, with "no space left".
    pub fn after(successes: u64) -> Self {
        Self {
            inner: Disk,
            left: AtomicU64::new(successes),
            seen: AtomicU64::new(0),
        }
    }

    fn tick(&self, path: &Path) -> Result<()> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let before = self.left.fetch_sub(1, Ordering::SeqCst);
        if before == 0 {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(MemoryError::storage("write", path, full));
        }
        Ok(())
    }
}

impl Storage for FailingStorage {
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.inner.read(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.tick(path)?;
        self.inner.write(path, bytes)
    }

    fn publish(&self, temporary: &Path, path: &Path) -> Result<()> {
        self.tick(path)?;
        self.inner.publish(temporary, path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.inner.exists(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_whole_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/file.bin");
        Disk.write(&path, b"one").unwrap();
        Disk.write(&path, b"two").unwrap();
        assert_eq!(Disk.read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_path_and_their_class() {
        let error = Disk.read(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"));
        let folder = tempfile::tempdir().unwrap();
        let failing = FailingStorage::after(1);
        failing.write(&folder.path().join("a"), b"").unwrap();
        let error = failing.write(&folder.path().join("b"), b"").unwrap_err();
        assert_eq!(error.class(), storyloom_story::ErrorClass::Run);
        assert!(!failing.exists(&folder.path().join("b")));
    }
}
