//! Content-addressed files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{MemoryError, Result};
use crate::storage::{Storage, UNFINISHED, temporary_name};

/// Names a blob by its content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// blake3 of the content, in hexadecimal.
    pub blake3: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl BlobRef {
    /// The name of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self {
            blake3: blake3::hash(content).to_hex().to_string(),
            bytes: content.len() as u64,
        }
    }
}

/// Blobs below one folder, `ab/abcdef….safetensors`.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: PathBuf,
    storage: Arc<dyn Storage>,
}

impl BlobStore {
    /// A store below `root`, which is created with the first blob.
    pub fn new(root: impl Into<PathBuf>, storage: Arc<dyn Storage>) -> Self {
        Self {
            root: root.into(),
            storage,
        }
    }

    /// Where the blob lies, or would lie. `None` if its name is not a blake3 digest.
    pub fn path(&self, blob: &BlobRef) -> Option<PathBuf> {
        let digest = &blob.blake3;
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        is_digest.then(|| {
            self.root
                .join(&digest[..2])
                .join(format!("{digest}.safetensors"))
        })
    }

    /// Stores `content`; nothing is written if it is already there.
    pub fn put(&self, content: &[u8]) -> Result<BlobRef> {
        let blob = BlobRef::of(content);
        let path = self.checked_path(&blob)?;
        if self.storage.exists(&path) {
            // As young as if it were new, so that a sweep leaves it alone until it is referred to.
            touch(&path)?;
        }
        // Looked at again: a sweep may have been faster.
        if !self.storage.exists(&path) {
            self.storage.write(&path, content)?;
        }
        Ok(blob)
    }

    /// Removes a blob; one that is not there is fine.
    pub fn remove(&self, blob: &BlobRef) -> Result<()> {
        self.storage.remove(&self.checked_path(blob)?)
    }

    /// Removes every blob and every unfinished file that is older than `grace` and whose digest
    /// is not in `used`.
    ///
    /// Ages are taken from the file system's own clock. A program that stores blobs refers to them
    /// within `grace`, so a sweep may run beside it.
    pub fn sweep(&self, used: &BTreeSet<String>, grace: Duration) -> Result<Sweep> {
        let mut sweep = Sweep::default();
        if !self.root.is_dir() {
            return Ok(sweep);
        }
        let now = self.clock()?;
        for shelf in self.storage.list(&self.root)? {
            let shelf = self.root.join(shelf);
            if !shelf.is_dir() {
                continue;
            }
            for name in self.storage.list(&shelf)? {
                let path = shelf.join(&name);
                let digest = name.strip_suffix(".safetensors");
                if digest.is_none() && !name.starts_with(UNFINISHED) {
                    continue;
                }
                let Ok(metadata) = std::fs::metadata(&path) else {
                    continue;
                };
                let age = metadata.modified().map(|then| now.duration_since(then));
                let old = matches!(age, Ok(Ok(age)) if age > grace);
                if !old || digest.is_some_and(|digest| used.contains(digest)) {
                    sweep.kept += 1;
                    continue;
                }
                self.storage.remove(&path)?;
                sweep.removed += 1;
                sweep.freed_bytes += metadata.len();
            }
        }
        Ok(sweep)
    }

    /// The present by the clock that dates the blobs, which may be another machine's.
    fn clock(&self) -> Result<SystemTime> {
        let path = temporary_name(&self.root.join("clock"));
        self.storage.write(&path, b"")?;
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
        self.storage.remove(&path)?;
        modified.map_err(|error| MemoryError::storage("read", path, error))
    }

    /// Reads a blob and checks it against its name.
    pub fn get(&self, blob: &BlobRef) -> Result<Vec<u8>> {
        let path = self.checked_path(blob)?;
        let content = self.storage.read(&path)?;
        check(&path, &content, blob)?;
        Ok(content)
    }

    fn checked_path(&self, blob: &BlobRef) -> Result<PathBuf> {
        self.path(blob).ok_or_else(|| {
            MemoryError::damaged(
                &self.root,
                format!("{:?} is not a blake3 digest", blob.blake3),
            )
        })
    }
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sweep {
    /// Files left.
    pub kept: u64,
    /// Files removed.
    pub removed: u64,
    /// Their size in bytes.
    pub freed_bytes: u64,
}

fn touch(path: &Path) -> Result<()> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(MemoryError::storage("open", path, error)),
    };
    let now = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let times = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    rustix::fs::futimens(&file, &times)
        .map_err(|errno| MemoryError::storage("touch", path, errno.into()))
}

/// Fails unless `content` is what `blob` names.
pub fn check(path: &Path, content: &[u8], blob: &BlobRef) -> Result<()> {
    let found = BlobRef::of(content);
    if &found == blob {
        return Ok(());
    }
    let reason = format!(
        "its content has changed: blake3 {} of {} bytes, recorded as {} of {} bytes",
        found.blake3, found.bytes, blob.blake3, blob.bytes
    );
    Err(MemoryError::damaged(path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Disk;

    #[test]
    fn a_sweep_removes_what_is_old_and_unused() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::new(folder.path().join("blobs"), Arc::new(Disk));
        let none = BTreeSet::new();
        assert_eq!(
            store.sweep(&none, Duration::ZERO).unwrap(),
            Sweep::default()
        );
        let [used, unused] = [b"used", b"free"].map(|content| store.put(content).unwrap());
        let names = BTreeSet::from([used.blake3.clone()]);
        let hour = Duration::from_secs(3600);
        assert_eq!(store.sweep(&names, hour).unwrap().removed, 0);
        let old = SystemTime::now() - 2 * hour;
        for blob in [&used, &unused] {
            let file = std::fs::File::open(store.path(blob).unwrap()).unwrap();
            file.set_modified(old).unwrap();
        }
        // Stored again by somebody who has not referred to it yet.
        store.put(b"free").unwrap();
        assert_eq!(store.sweep(&names, hour).unwrap().removed, 0);
        let file = std::fs::File::open(store.path(&unused).unwrap()).unwrap();
        file.set_modified(old).unwrap();
        let sweep = store.sweep(&names, hour).unwrap();
        assert_eq!((sweep.removed, sweep.kept, sweep.freed_bytes), (1, 1, 4));
        assert!(store.get(&used).is_ok() && store.get(&unused).is_err());
    }

    #[test]
    fn blobs_are_stored_once_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::new(folder.path(), Arc::new(Disk));
        let blob = store.put(b"latents").unwrap();
        assert_eq!(store.put(b"latents").unwrap(), blob);
        assert_eq!(store.get(&blob).unwrap(), b"latents");
        let path = store.path(&blob).unwrap();
        std::fs::write(&path, b"latentt").unwrap();
        let error = store.get(&blob).unwrap_err().to_string();
        assert!(error.contains("has changed"), "{error}");
        let outside = BlobRef {
            blake3: "../../../etc/passwd".to_owned(),
            bytes: 1,
        };
        assert!(store.path(&outside).is_none() && store.get(&outside).is_err());
    }
}
