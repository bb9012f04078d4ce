//! The form of JSON files of the run folder that are no records: all that they say follows from others.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::RunError;
use crate::folder::seal::{Seal, put_seal, take_seal};

/// The version of the folder's form that this program writes and reads.
pub const FOLDER_FORMAT: u32 = 1;

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
pub(super) enum Unfit {
    /// It is not what was written there.
    Damaged(String),
    /// It is whole, and has something that this build does not know.
    Later(String),
}

impl Unfit {
    pub(super) fn at(self, path: &Path) -> RunError {
        let path = path.to_owned();
        match self {
            Self::Damaged(reason) => RunError::Folder { path, reason },
            Self::Later(reason) => RunError::Later { path, reason },
        }
    }
}

/// Reads the text of a file: its form, its seal if it has one, and then what it says.
pub(super) fn parse<T: FolderFile>(bytes: &[u8]) -> Result<T, Unfit> {
    parse_with_seal(bytes).map(|(file, _)| file)
}

/// As [`parse`], and whether the file carries a seal: a broken one is damage.
pub(super) fn parse_with_seal<T: FolderFile>(bytes: &[u8]) -> Result<(T, Seal), Unfit> {
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
        Seal::None | Seal::Whole => Ok((file, seal)),
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
