//! The files that an engine was loaded from, and whether they are still what they were.
//!
//! Tensors that are used as they are stored are views of their file: what is written to it is computed
//! with. So nothing is proven by the digests of the start alone.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::checkpoint::{Change, Checkpoint, Stamps};
use crate::error::{ModelError, Result};

/// Where the tensors of a part lie.
#[derive(Debug, Clone)]
pub enum Source {
    /// A component folder.
    Folder(PathBuf),
    /// A file of its own.
    File(PathBuf),
}

impl Source {
    fn open(&self) -> Result<Checkpoint> {
        match self {
            Self::Folder(folder) => Checkpoint::open(folder),
            Self::File(file) => {
                Checkpoint::from_files(file, serde_json::Value::Null, std::slice::from_ref(file))
            }
        }
    }
}

/// A part of an engine.
#[derive(Debug)]
struct Part {
    name: String,
    digest: String,
    source: Source,
    stamps: Stamps,
}

/// The parts of an engine, with their digests.
#[derive(Debug)]
pub struct LoadedFiles(Mutex<Vec<Part>>);

impl LoadedFiles {
    /// Opens parts and reads all of them.
    ///
    /// # Errors
    /// A file cannot be read or is no checkpoint.
    pub fn read(parts: impl IntoIterator<Item = (String, Source)>) -> Result<Self> {
        let read = |(name, source): (String, Source)| {
            let checkpoint = source.open()?;
            Ok(Part {
                // Before the content is read: what is written meanwhile is seen.
                stamps: checkpoint.stamps()?,
                digest: checkpoint.digest()?,
                name,
                source,
            })
        };
        let parts = parts.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Self(Mutex::new(parts)))
    }

    /// Names and digests in the order in which the parts were given.
    pub fn digests(&self) -> Vec<(String, String)> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = parts
            .iter()
            .map(|part| (part.name.clone(), part.digest.clone()));
        pairs.collect()
    }

    /// Fails if a file is not any more what it was when it was read.
    ///
    /// Where only rights or names of a file have changed, its content is read once more.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] names the file.
    pub fn check(&self) -> Result<()> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts.iter_mut() {
            let Some((path, change)) = part.stamps.change() else {
                continue;
            };
            let changed = || {
                let reason = format!(
                    "the weights {} have changed since they were loaded, so what is made with them \
                     cannot be proven; put the file back as it was and run the same command again, or \
                     give another --out for the new weights",
                    part.name
                );
                ModelError::bad_file(path, reason)
            };
            if change == Change::Content {
                return Err(changed());
            }
            let again = part.source.open().map_err(|_| changed())?;
            let stamps = again.stamps()?;
            if again.digest()? != part.digest {
                return Err(changed());
            }
            tracing::info!(path = %path.display(), "only the attributes of this file have changed");
            part.stamps = stamps;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes, Permissions};
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::path::Path;

    use super::*;

    fn small(path: &Path) {
        let data: Vec<u8> = (0..16_u8).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4], &data);
        let tensors = [("weight", view.unwrap())];
        safetensors::serialize_to_file(tensors, None, path).unwrap();
    }

    #[test]
    fn weights_that_change_are_refused_and_rights_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lora.safetensors");
        small(&path);
        let part = || ("lora/high".to_owned(), Source::File(path.clone()));
        let loaded = LoadedFiles::read([part()]).unwrap();
        loaded.check().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::hard_link(&path, folder.path().join("backup")).unwrap();
        loaded.check().unwrap();
        // Written in place, with the time set back as some programs that copy do.
        let file = File::options().write(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        let end = file.metadata().unwrap().len();
        file.write_at(&[99], end - 1).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
        let error = loaded.check().unwrap_err().to_string();
        assert!(
            error.contains("lora/high have changed") && error.contains("lora.safetensors"),
            "{error}"
        );
        assert_ne!(
            LoadedFiles::read([part()]).unwrap().digests(),
            loaded.digests()
        );
    }
}
