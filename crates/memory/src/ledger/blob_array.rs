//! Arrays in blobs, read when somebody asks for them.

use std::path::Path;
use std::sync::Arc;

use storyloom_story::{ArraySource, HostTensor, StoredArray, UnreadableArray};

use crate::error::Result;
use crate::ledger::arrays::decode_array;
use crate::ledger::blobs::{BlobRef, BlobStore};

impl BlobStore {
    /// Reads the array in a blob and checks it against its name.
    pub fn array(&self, blob: &BlobRef) -> Result<HostTensor> {
        decode_array(Path::new(&blob.blake3), &self.get(blob)?)
    }

    /// The array in a blob, which is there and whole, for a later reader: it is checked and let go.
    pub fn stored_array(&self, blob: &BlobRef) -> Result<StoredArray> {
        let shape = self.array(blob)?.shape().to_vec();
        let source = BlobArray {
            blobs: self.clone(),
            blob: blob.clone(),
        };
        Ok(StoredArray::new(shape, source))
    }
}

/// An array in a blob.
#[derive(Debug)]
struct BlobArray {
    blobs: BlobStore,
    blob: BlobRef,
}

impl ArraySource for BlobArray {
    fn read(&self) -> Result<Arc<HostTensor>, UnreadableArray> {
        let array = self
            .blobs
            .array(&self.blob)
            .map_err(|error| UnreadableArray {
                class: error.class(),
                message: error.to_string(),
            })?;
        Ok(Arc::new(array))
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::ErrorClass;

    use super::*;
    use crate::ledger::arrays::encode_array;
    use crate::ledger::storage::Disk;

    /// Whatever happens to a blob after it was found whole.
    #[test]
    fn an_array_that_is_altered_before_it_is_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::new(folder.path(), Arc::new(Disk));
        let array = |value| HostTensor::new(vec![2, 1], vec![value; 2]).unwrap();
        let bytes = encode_array(&array(0.5)).unwrap();
        let blob = store.put(&bytes).unwrap();
        let stored = store.stored_array(&blob).unwrap();
        assert_eq!(stored.shape(), [2, 1]);
        assert_eq!(*stored.read().unwrap(), array(0.5));

        let path = store.path(&blob).unwrap();
        std::fs::write(&path, encode_array(&array(0.25)).unwrap()).unwrap();
        let error = stored.read().unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot);
        let early = store.stored_array(&blob).unwrap_err();
        assert_eq!(error.message, early.to_string());
        let said = [path.to_str().unwrap(), "its content has changed"];
        assert!(
            said.iter().all(|part| error.message.contains(part)),
            "{error}"
        );

        std::fs::remove_file(&path).unwrap();
        let error = stored.read().unwrap_err();
        assert_eq!(
            error.message,
            store.stored_array(&blob).unwrap_err().to_string()
        );
        assert_eq!(error.class, ErrorClass::Transient);
        store.put(&bytes).unwrap();
        assert_eq!(*stored.read().unwrap(), array(0.5));
    }
}
