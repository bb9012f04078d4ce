//! Errors of the memory bank.

use std::io;
use std::path::PathBuf;

use storyloom_story::ErrorClass;

/// What can go wrong with stored things.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Storage {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A stored thing is not what its record says.
    #[error("{path}: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// A sound file of a later version of the program.
    #[error(
        "{path}: format {found} is not known, this version reads format {known}; use the version \
         that wrote it", path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this program reads.
        known: u32,
    },
    /// Another process has the index open.
    #[error("the memory index {path} is in use by another process", path = path.display())]
    IndexBusy {
        /// The database.
        path: PathBuf,
    },
    /// The index database failed in a way that opening it again may mend.
    #[error("memory index {path}: {reason}", path = path.display())]
    Index {
        /// The database.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// The result of memory operations.
pub type Result<T, E = MemoryError> = std::result::Result<T, E>;

impl MemoryError {
    /// An error of the file system.
    pub fn storage(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Storage {
            action,
            path: path.into(),
            source,
        }
    }

    /// A file whose content is not what it should be.
    pub fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// What the error means for the run.
    ///
    /// A full or read-only disk stops everything; any other error of storage is transient.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Storage { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::PermissionDenied => ErrorClass::Run,
                _ => ErrorClass::Transient,
            },
            Self::Damaged { .. } => ErrorClass::Shot,
            Self::Newer { .. } => ErrorClass::Run,
            Self::Index { .. } => ErrorClass::Transient,
            Self::IndexBusy { .. } => ErrorClass::ServiceAway,
        }
    }
}
