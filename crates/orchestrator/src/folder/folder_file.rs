//! JSON files of the run folder that are no records: all that they say follows from others. One that is
//! damaged moves out of the way and is written anew.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_memory::commit::newer;
use storyloom_memory::soundness::why_unreadable;
use storyloom_memory::storage::move_aside;

use crate::error::RunError;
use crate::folder::run_folder::{FOLDER_FORMAT, RunFolder};

/// What stands where a file belongs.
#[derive(Debug)]
pub(crate) enum Found<T> {
    /// Nothing.
    Gone,
    /// The file.
    Sound(T),
    /// Something else, and why it is not the file.
    Damaged(String),
}

impl RunFolder {
    /// Looks what stands at `path`.
    ///
    /// # Errors
    /// It cannot be read now, or a later version of the program has written it.
    pub(crate) fn find_json<T: for<'de> Deserialize<'de>>(
        &self,
        path: &Path,
    ) -> Result<Found<T>, RunError> {
        if path.symlink_metadata().is_err() {
            return Ok(Found::Gone);
        }
        let bytes = match self.storage().read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = why_unreadable(&error).ok_or(error)?;
                return Ok(Found::Damaged(reason.to_owned()));
            }
        };
        if let Some(error) = newer(path, &bytes, FOLDER_FORMAT) {
            return Err(error.into());
        }
        Ok(match parse(&bytes) {
            Ok(value) => Found::Sound(value),
            Err(reason) => Found::Damaged(reason),
        })
    }

    /// Reads a file that must be there.
    pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(
        &self,
        path: &Path,
    ) -> Result<T, RunError> {
        let bytes = self.storage().read(path)?;
        if let Some(error) = newer(path, &bytes, FOLDER_FORMAT) {
            return Err(error.into());
        }
        parse(&bytes).map_err(|reason| RunError::Folder {
            path: path.to_owned(),
            reason,
        })
    }

    /// Moves what stands at `path` out of the way, unless it is sound by now: another program may have
    /// written it anew meanwhile.
    pub(crate) fn give_way<T: for<'de> Deserialize<'de>>(
        &self,
        path: &Path,
        reason: &str,
    ) -> Result<(), RunError> {
        let aside = match move_aside(self.storage().as_ref(), path) {
            // Another program was faster.
            Err(_) if path.symlink_metadata().is_err() => return Ok(()),
            aside => aside?,
        };
        if let Ok(bytes) = self.storage().read(&aside)
            && parse::<T>(&bytes).is_ok()
        {
            self.storage().create(path, &bytes)?;
            self.storage().remove(&aside)?;
            return Ok(());
        }
        let (path, kept) = (path.display(), aside.display());
        tracing::warn!(
            "{path}: {reason}; it is written anew, and what stood there is kept as {kept}"
        );
        Ok(())
    }

    /// Writes a file durably, over whatever is there.
    pub(crate) fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), RunError> {
        Ok(self.storage().write(path, &to_json(path, value)?)?)
    }

    /// Writes the file unless it is there; tells whether it did.
    pub(crate) fn create_json(
        &self,
        path: &Path,
        value: &impl Serialize,
    ) -> Result<bool, RunError> {
        if self.storage().exists(path) {
            return Ok(false);
        }
        Ok(self.storage().create(path, &to_json(path, value)?)?)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("the file is damaged: {error}"))?;
    if value["format"].as_u64() != Some(u64::from(FOLDER_FORMAT)) {
        let found = match value.get("format") {
            Some(format) => format!("format {format}"),
            None => "no format".to_owned(),
        };
        return Err(format!("the file is damaged: it has {found}"));
    }
    serde_json::from_value(value).map_err(|error| format!("the file is damaged: {error}"))
}

/// A file's bytes; errors name `path`.
pub(crate) fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, RunError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| RunError::Folder {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}
