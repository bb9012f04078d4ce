//! Opening the run folder that a command looks at.

use std::path::Path;
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_orchestrator::{RunError, RunFolder};

use crate::exit::{Exit, Failure};

/// The run folder at `path`.
pub fn open(path: &Path) -> RunFolder {
    RunFolder::new(path, Arc::new(Disk))
}

/// What a look at a run folder failed of: a folder that is no run is wrong input.
pub fn failure(error: RunError) -> Failure {
    match error {
        RunError::Folder { .. } => Failure::new(Exit::Input, error),
        error => error.into(),
    }
}
