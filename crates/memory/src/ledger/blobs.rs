//! Content-addressed files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{MemoryError, Result};
use crate::ledger::storage::{Storage, UNFINISHED, temporary_name};

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
    ///
    /// A name proves nothing: a file under it that has other content is written over, and a folder is
    /// moved out of the way.
    pub fn put(&self, content: &[u8]) -> Result<BlobRef> {
        let blob = BlobRef::of(content);
        let path = self.checked_path(&blob)?;
        if self.holds(&path, content) {
            // As young as if it were new, so that a sweep leaves it alone until it is referred to.
            self.storage.touch(&path)?;
            // Looked at again: a sweep may have been faster.
            if self.storage.exists(&path) {
                return Ok(blob);
            }
        }
        if self.is_folder(&path) {
            let aside = temporary_name(&path).with_extension("aside");
            tracing::warn!(path = %path.display(), aside = %aside.display(), "a folder stood where a blob belongs");
            self.storage.give_name(&path, &aside)?;
        }
        self.storage.write(&path, content)?;
        Ok(blob)
    }

    /// Whether the file is there and is just this. One that cannot be read is not.
    fn holds(&self, path: &Path, content: &[u8]) -> bool {
        let found = self.storage.metadata(path);
        found.is_some_and(|found| found.bytes == content.len() as u64)
            && self.storage.read(path).is_ok_and(|kept| kept == content)
    }

    fn is_folder(&self, path: &Path) -> bool {
        let found = self.storage.metadata(path);
        found.is_some_and(|found| found.is_folder)
    }

    /// Makes sure that blobs are still there.
    ///
    /// # Errors
    /// One is not: a sweep has removed it, since nothing named it yet.
    pub fn find_all<'a>(&self, digests: impl IntoIterator<Item = &'a String>) -> Result<()> {
        for digest in digests {
            let blob = BlobRef {
                blake3: digest.clone(),
                bytes: 0,
            };
            let path = self.checked_path(&blob)?;
            if !self.storage.exists(&path) {
                let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(MemoryError::storage("find", path, gone));
            }
        }
        Ok(())
    }

    /// Removes a blob; one that is not there is fine.
    pub fn remove(&self, blob: &BlobRef) -> Result<()> {
        self.storage.remove(&self.checked_path(blob)?)
    }

    /// Removes every blob and every unfinished file that is older than `grace` and whose digest
    /// `used` does not give.
    ///
    /// Ages are taken from the file system's own clock. What is to go is first given another name;
    /// then `used` is asked again, and what it gives by now gets its name back. A program that makes a
    /// record looks for its blobs when the record can be listed already
    /// ([`create_if`](Storage::create_if)). So either it misses the blob, or the sweep sees the record,
    /// however long each of them is held up in between.
    ///
    /// # Errors
    /// `used` fails, or files cannot be moved or removed.
    pub fn sweep(
        &self,
        used: &dyn Fn() -> Result<BTreeSet<String>>,
        grace: Duration,
    ) -> Result<Sweep> {
        let mut sweep = Sweep::default();
        let before = used()?;
        if !self.is_folder(&self.root) {
            return Ok(sweep);
        }
        let now = self.clock()?;
        let mut going = Vec::new();
        for shelf in self.storage.list(&self.root)? {
            let shelf = self.root.join(shelf);
            if !self.is_folder(&shelf) {
                continue;
            }
            for name in self.storage.list(&shelf)? {
                let Some(found) = Found::of(&shelf, &name) else {
                    continue;
                };
                let metadata = self.storage.metadata(&found.path);
                let Some(metadata) = metadata.filter(|found| found.is_file) else {
                    continue;
                };
                let age = metadata.modified.map(|then| now.duration_since(then));
                let old = matches!(age, Some(Ok(age)) if age > grace);
                let is_used = found.digest.is_some_and(|digest| before.contains(digest));
                match found.blob() {
                    // Of a sweep that was cut off.
                    Some(blob) if found.is_leaving() => going.push((blob, metadata.bytes)),
                    _ if !old || is_used => sweep.kept += 1,
                    Some(blob) => {
                        self.storage.give_name(&blob, &leaving(&blob))?;
                        going.push((blob, metadata.bytes));
                    }
                    None => {
                        self.storage.remove(&found.path)?;
                        sweep.removed += 1;
                        sweep.freed_bytes += metadata.bytes;
                    }
                }
            }
        }
        let after = if going.is_empty() { before } else { used()? };
        for (blob, bytes) in going {
            let digest = blob.file_stem().and_then(|digest| digest.to_str());
            if digest.is_some_and(|digest| after.contains(digest)) {
                self.storage.give_name(&leaving(&blob), &blob)?;
                sweep.kept += 1;
            } else {
                self.storage.remove(&leaving(&blob))?;
                sweep.removed += 1;
                sweep.freed_bytes += bytes;
            }
        }
        Ok(sweep)
    }

    /// The present by the clock that dates the blobs, which may be another machine's.
    fn clock(&self) -> Result<SystemTime> {
        let path = temporary_name(&self.root.join("clock"));
        self.storage.write(&path, b"")?;
        let modified = self
            .storage
            .metadata(&path)
            .and_then(|found| found.modified);
        self.storage.remove(&path)?;
        let untold = || std::io::Error::other("the storage does not tell when files were written");
        modified.ok_or_else(|| MemoryError::storage("read", path, untold()))
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

/// The ending of blobs, and that of blobs which a sweep is about to remove.
const BLOB: &str = "safetensors";
const LEAVING: &str = "leaving";

/// The name of a blob that a sweep is about to remove.
fn leaving(blob: &Path) -> PathBuf {
    blob.with_extension(LEAVING)
}

/// A file that a sweep has found.
struct Found<'a> {
    path: PathBuf,
    /// `None` for what was never finished.
    digest: Option<&'a str>,
}

impl<'a> Found<'a> {
    /// `None` for what is none of the store's.
    fn of(shelf: &Path, name: &'a str) -> Option<Self> {
        let path = shelf.join(name);
        let digest = match name.rsplit_once('.') {
            Some((digest, BLOB | LEAVING)) if !name.starts_with(UNFINISHED) => Some(digest),
            _ if name.starts_with(UNFINISHED) => None,
            _ => return None,
        };
        Some(Self { path, digest })
    }

    fn is_leaving(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|ending| ending == LEAVING)
    }

    /// The name of the blob that it is or was.
    fn blob(&self) -> Option<PathBuf> {
        self.digest.map(|_| self.path.with_extension(BLOB))
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
    use crate::ledger::storage::Disk;

    #[test]
    fn a_sweep_removes_what_is_old_and_unused() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::new(folder.path().join("blobs"), Arc::new(Disk));
        let none = || Ok(BTreeSet::new());
        assert_eq!(
            store.sweep(&none, Duration::ZERO).unwrap(),
            Sweep::default()
        );
        let [used, unused] = [b"used", b"free"].map(|content| store.put(content).unwrap());
        let names = || Ok(BTreeSet::from([used.blake3.clone()]));
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

    /// A sweep asks twice what is used, and between its two looks a record is made.
    #[test]
    fn what_is_referred_to_during_a_sweep_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::new(folder.path(), Arc::new(Disk));
        let late = store.put(b"late").unwrap();
        let path = store.path(&late).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let asked = std::cell::Cell::new(0);
        let used = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                return Ok(BTreeSet::new());
            }
            // A record that refers to it now would not find it.
            assert!(store.find_all([&late.blake3]).is_err());
            Ok(BTreeSet::from([late.blake3.clone()]))
        };
        let sweep = store.sweep(&used, Duration::ZERO).unwrap();
        assert_eq!((asked.get(), sweep.removed, sweep.kept), (2, 0, 1));
        assert_eq!(store.get(&late).unwrap(), b"late");
        store.find_all([&late.blake3]).unwrap();
        // A sweep that was cut off in the middle.
        std::fs::rename(&path, leaving(&path)).unwrap();
        let used = || Ok(BTreeSet::from([late.blake3.clone()]));
        assert_eq!(store.sweep(&used, Duration::ZERO).unwrap().kept, 1);
        assert!(path.is_file());
        std::fs::rename(&path, leaving(&path)).unwrap();
        let none = || Ok(BTreeSet::new());
        assert_eq!(store.sweep(&none, Duration::ZERO).unwrap().removed, 1);
        assert!(store.get(&late).is_err());
    }

    #[test]
    fn whatever_has_the_name_of_a_blob_gives_way_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::new(folder.path(), Arc::new(Disk));
        let blob = store.put(b"latents").unwrap();
        let path = store.path(&blob).unwrap();
        type Damage = fn(&Path);
        let damages: [Damage; 4] = [
            |path| std::fs::write(path, b"latentt").unwrap(),
            |path| std::fs::write(path, b"").unwrap(),
            |path| {
                std::fs::create_dir(path).unwrap();
                std::fs::write(path.join("kept"), b"by somebody").unwrap();
            },
            |path| std::os::unix::fs::symlink(path, path).unwrap(),
        ];
        for damage in damages {
            std::fs::remove_file(&path).unwrap();
            damage(&path);
            assert!(store.get(&blob).is_err());
            assert_eq!(store.put(b"latents").unwrap(), blob);
            assert_eq!(store.get(&blob).unwrap(), b"latents");
        }
        // What stood there is not lost, and no sweep stumbles over it.
        let none = || Ok(BTreeSet::new());
        assert_eq!(store.sweep(&none, Duration::ZERO).unwrap().removed, 1);
        let shelf = path.parent().unwrap();
        let aside = std::fs::read_dir(shelf).unwrap().next().unwrap().unwrap();
        assert!(aside.path().join("kept").is_file());
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
