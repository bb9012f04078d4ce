//! Content-addressed files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{MemoryError, Result};
use crate::storage::Storage;

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
        if !self.storage.exists(&path) {
            self.storage.write(&path, content)?;
        }
        Ok(blob)
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
