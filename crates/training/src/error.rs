//! What can go wrong while training.

use std::path::{Path, PathBuf};

use storyloom_nn::ModelError;
use storyloom_nn::tch::TchError;

/// The result of a training function.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Why training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A network refused its inputs or a file is wrong.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is there but cannot be what it should be.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A stage was asked for whose first stages are not there yet.
    #[error("stage {stage} needs the result of stage {needs}: train that first")]
    TooEarly {
        /// The stage.
        stage: &'static str,
        /// What it starts from.
        needs: &'static str,
    },
    /// A stage was asked for that a run which goes on from a set cannot train.
    #[error("stage {stage} comes finished with the set that this run goes on from; leave it out")]
    Finished {
        /// The stage.
        stage: &'static str,
    },
    /// The loss is no number any more.
    #[error("the loss of stage {stage} is {loss} at step {step}: lower the learning rate")]
    Diverged {
        /// The stage.
        stage: &'static str,
        /// Step counted from the start of the stage.
        step: u64,
        /// The value.
        loss: f64,
    },
}

impl TrainError {
    /// A file system error with its path.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, source }
    }

    /// A file whose content is wrong.
    pub fn bad_file(path: &Path, reason: impl ToString) -> Self {
        Self::BadFile {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}
