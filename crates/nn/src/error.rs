//! Errors of the models.

use std::path::PathBuf;

use storyloom_story::{ErrorClass, UnreadableArray};

/// What can go wrong in a model, from opening its files to its last tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of a checkpoint cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of a checkpoint is there, but is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Tensors that the model needs are not in the checkpoint, or the other way round.
    #[error("{path}: {}", describe_keys(missing, unexpected), path = path.display())]
    Keys {
        /// The component folder or file.
        path: PathBuf,
        /// Wanted but absent.
        missing: Vec<String>,
        /// Present but not used.
        unexpected: Vec<String>,
    },
    /// A tensor of the checkpoint has another shape than its config says.
    #[error(
        "{path}: {name} has shape {found:?}, but the config asks for {wanted:?}",
        path = path.display()
    )]
    WeightShape {
        /// The component folder or file.
        path: PathBuf,
        /// Tensor name in the diffusers layout.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape by the config.
        wanted: Vec<i64>,
    },
    /// An input tensor does not fit the model.
    #[error("{what}: {reason}")]
    Input {
        /// Which input.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that a story remembers is gone or has changed.
    #[error(transparent)]
    Memory(#[from] UnreadableArray),
    /// Not-a-number or infinity where a finite value must be.
    #[error("{what} is not finite")]
    NotFinite {
        /// Which tensor.
        what: String,
    },
    /// The sampling loop was asked to stop between two steps.
    #[error("stopped after step {step} of {steps}")]
    Interrupted {
        /// Steps finished.
        step: usize,
        /// Steps in all.
        steps: usize,
    },
    /// Ranks that share the work are gone, late or at something else.
    #[error("the world of ranks: {0}")]
    World(#[from] storyloom_parallel::CommError),
    /// Another rank of the replica could not do what it was asked.
    #[error("{message}")]
    Rank {
        /// What it means for the work.
        class: ErrorClass,
        /// What it said.
        message: String,
    },
    /// A fused kernel could not be started.
    #[error("kernel: {0}")]
    Kernel(#[from] storyloom_kernels::KernelError),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// The result of model code.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// An [`ModelError::Input`] with its two texts.
    pub fn input(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Input {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// A [`ModelError::BadFile`].
    pub fn bad_file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::BadFile {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// A [`ModelError::Io`].
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    /// What the error means for the run.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. }
            | Self::BadFile { .. }
            | Self::Keys { .. }
            | Self::WeightShape { .. } => ErrorClass::Run,
            Self::Input { .. } | Self::NotFinite { .. } | Self::Kernel(_) | Self::Torch(_) => {
                ErrorClass::Shot
            }
            Self::Interrupted { .. } => ErrorClass::Interrupted,
            Self::Rank { class, .. } => *class,
            Self::Memory(error) => error.class,
            Self::World(error) if error.is_resumable() => ErrorClass::Interrupted,
            Self::World(_) => ErrorClass::Run,
        }
    }
}

fn describe_keys(missing: &[String], unexpected: &[String]) -> String {
    const SHOWN: usize = 20;
    let list = |keys: &[String]| {
        let mut text = keys
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if keys.len() > SHOWN {
            text.push_str(&format!(", and {} more", keys.len() - SHOWN));
        }
        text
    };
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!(
            "{} tensors are missing: {}",
            missing.len(),
            list(missing)
        ));
    }
    if !unexpected.is_empty() {
        parts.push(format!(
            "{} tensors are not known: {}",
            unexpected.len(),
            list(unexpected)
        ));
    }
    parts.join("; ")
}
