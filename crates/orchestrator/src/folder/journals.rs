//! The journals of the programs of a run, read through its storage. Each program writes its own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use storyloom_memory::{MemoryError, Storage};
use storyloom_telemetry::shift::{Follower, JournalFiles, Shift, read_shifts_in};

use crate::folder::run_folder::RunFolder;

#[derive(Debug)]
struct Stored(Arc<dyn Storage>);

impl JournalFiles for Stored {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.list(folder).map_err(source_of)
    }

    fn read_from(&self, path: &Path, offset: u64) -> io::Result<Vec<u8>> {
        self.0.read_from(path, offset).map_err(source_of)
    }
}

fn source_of(error: MemoryError) -> io::Error {
    match error {
        MemoryError::Storage { source, .. } => source,
        other => io::Error::other(other),
    }
}

/// The journals of all programs that ever worked on the run, as far as they can be read.
pub fn shifts(folder: &RunFolder) -> Vec<Shift> {
    let files = Stored(folder.storage().clone());
    read_shifts_in(&files, folder.root()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the journals of the run cannot be read; their time is not counted");
        Vec::new()
    })
}

/// Follows the journals of a run while they grow.
pub(crate) fn follower(folder: &RunFolder) -> Follower {
    Follower::among(Arc::new(Stored(folder.storage().clone())), folder.root())
}
