//! JSON files of the run folder that are no records: all that they say follows from others. One that is
//! damaged moves out of the way and is written anew.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_memory::ledger::record::newer;
use storyloom_memory::soundness::why_unreadable;
use storyloom_memory::storage::move_aside;

use crate::error::RunError;
use crate::folder::run_folder::{FOLDER_FORMAT, RunFolder};
use crate::folder::seal::{Seal, put_seal, take_seal};

/// A JSON file of the run folder that is no record.
pub(crate) trait FolderFile: Serialize + for<'de> Deserialize<'de> {
    /// Whether it is written with a [seal](crate::folder::seal). Files of earlier builds have none.
    const IS_SEALED: bool = false;

    /// What is wrong with a file that was read and has this seal, but for a broken one.
    fn check(&self, _seal: Seal) -> Result<(), String> {
        Ok(())
    }
}

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

/// Why the text of a file is not the file.
enum Unfit {
    /// It is not what was written there.
    Damaged(String),
    /// It is whole, and has something that this build does not know.
    Later(String),
}

impl Unfit {
    fn at(self, path: &Path) -> RunError {
        let path = path.to_owned();
        match self {
            Self::Damaged(reason) => RunError::Folder { path, reason },
            Self::Later(reason) => RunError::Later { path, reason },
        }
    }
}

impl RunFolder {
    /// Looks what stands at `path`.
    ///
    /// # Errors
    /// It cannot be read now, or a later version of the program has written it.
    pub(crate) fn find_json<T: FolderFile>(&self, path: &Path) -> Result<Found<T>, RunError> {
        if !self.storage().is_taken(path) {
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
        match parse(&bytes) {
            Ok(value) => Ok(Found::Sound(value)),
            Err(Unfit::Damaged(reason)) => Ok(Found::Damaged(reason)),
            Err(later) => Err(later.at(path)),
        }
    }

    /// Reads a file that must be there.
    pub(crate) fn read_json<T: FolderFile>(&self, path: &Path) -> Result<T, RunError> {
        let bytes = self.storage().read(path)?;
        if let Some(error) = newer(path, &bytes, FOLDER_FORMAT) {
            return Err(error.into());
        }
        parse(&bytes).map_err(|unfit| unfit.at(path))
    }

    /// Moves what stands at `path` out of the way, unless it is sound by now: another program may have
    /// written it anew meanwhile.
    pub(crate) fn give_way<T: FolderFile>(
        &self,
        path: &Path,
        reason: &str,
    ) -> Result<(), RunError> {
        let aside = match move_aside(self.storage().as_ref(), path) {
            // Another program was faster.
            Err(_) if !self.storage().is_taken(path) => return Ok(()),
            aside => aside?,
        };
        if let Ok(bytes) = self.storage().read(&aside)
            && !matches!(parse::<T>(&bytes), Err(Unfit::Damaged(_)))
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
    pub(crate) fn write_json(&self, path: &Path, value: &impl FolderFile) -> Result<(), RunError> {
        Ok(self.storage().write(path, &to_json(path, value)?)?)
    }

    /// Writes the file unless it is there; tells whether it did.
    pub(crate) fn create_json(
        &self,
        path: &Path,
        value: &impl FolderFile,
    ) -> Result<bool, RunError> {
        if self.storage().exists(path) {
            return Ok(false);
        }
        Ok(self.storage().create(path, &to_json(path, value)?)?)
    }
}

/// Reads the text of a file: its form, its seal if it has one, and then what it says.
fn parse<T: FolderFile>(bytes: &[u8]) -> Result<T, Unfit> {
    let damaged = |reason: String| Unfit::Damaged(format!("the file is damaged: {reason}"));
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if value["format"].as_u64() != Some(u64::from(FOLDER_FORMAT)) {
        return Err(damaged(match value.get("format") {
            Some(format) => format!("it has format {format}"),
            None => "it has no format".to_owned(),
        }));
    }
    let seal = match value.as_object_mut() {
        Some(object) if T::IS_SEALED => take_seal(object),
        _ => Seal::None,
    };
    // What is missing is told by its name.
    let read = serde_json::from_value(value).map_err(|error| match seal {
        Seal::Whole => Unfit::Later(error.to_string()),
        Seal::None | Seal::Broken => damaged(error.to_string()),
    });
    let file: T = read?;
    file.check(seal).map_err(damaged)?;
    match seal {
        Seal::Broken => Err(damaged("it was changed after it was written".to_owned())),
        Seal::None | Seal::Whole => Ok(file),
    }
}

/// A file's bytes; errors name `path`.
pub(crate) fn to_json<T: FolderFile>(path: &Path, value: &T) -> Result<Vec<u8>, RunError> {
    let write = || {
        let mut bytes = serde_json::to_vec_pretty(value)?;
        match T::IS_SEALED {
            true => put_seal(&mut bytes)?,
            false => bytes.push(b'\n'),
        }
        Ok(bytes)
    };
    write().map_err(|error: serde_json::Error| RunError::Folder {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
