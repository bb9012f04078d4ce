//! Reading and writing [files of the run folder](crate::folder::folder_file) that are no records. One that
//! is damaged moves out of the way and is written anew.

use std::path::Path;

use storyloom_memory::ledger::record::newer;
use storyloom_memory::soundness::why_unreadable;
use storyloom_memory::storage::move_aside;

use crate::error::RunError;
use crate::folder::folder_file::{
    FOLDER_FORMAT, FolderFile, Found, Unfit, parse, parse_with_seal, to_json,
};
use crate::folder::run_folder::RunFolder;
use crate::folder::seal::Seal;

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
        self.read_with_seal(path).map(|(file, _)| file)
    }

    /// Reads a file that must be there, and whether it carries a seal.
    pub(crate) fn read_with_seal<T: FolderFile>(&self, path: &Path) -> Result<(T, Seal), RunError> {
        let bytes = self.storage().read(path)?;
        if let Some(error) = newer(path, &bytes, FOLDER_FORMAT) {
            return Err(error.into());
        }
        parse_with_seal(&bytes).map_err(|unfit| unfit.at(path))
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
