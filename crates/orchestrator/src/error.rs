//! Errors of a run.

use std::path::PathBuf;

use storyloom_memory::MemoryError;
use storyloom_story::{ErrorClass, PlanError, StoryId};

use crate::engine::EngineError;

/// What ends a run, a story or an attempt at a shot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A stage failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A brief could not be planned.
    #[error("plan: {0}")]
    Plan(#[from] PlanError),
    /// The run folder could not be read or written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A picture that a story needs cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    Input {
        /// The picture.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The run folder belongs to something else.
    #[error("{path}: {reason}", path = path.display())]
    Folder {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file of the run folder is whole, and says something that this build does not know.
    #[error(
        "{path}: {reason}; a later version of the program has written it, use that one",
        path = path.display()
    )]
    Later {
        /// The file.
        path: PathBuf,
        /// What is not known.
        reason: String,
    },
    /// The record of a shot is gone, others follow from it, and it cannot be made again as it was.
    #[error(
        "the record {lost} is gone, from which {follower} follows, and {why}; put it back from a copy and \
         `storyloom retry` the story, or have it and all later shots made anew by \
         `storyloom repair --anew`", lost = path.display(), follower = follower.display()
    )]
    LostRecord {
        /// The record that is gone.
        path: PathBuf,
        /// The first that follows from it.
        follower: PathBuf,
        /// Why it cannot be made again.
        why: String,
    },
    /// Another program took the story over, since this one showed no sign of life.
    #[error("another program has taken the story {story} over; it is left to that one")]
    LeaseLost {
        /// The story.
        story: StoryId,
    },
    /// Too many stories cannot be made.
    #[error(
        "{count} stories are in quarantine, more than run.quarantine_limit = {limit}; \
         see `storyloom quarantine {path}`", path = path.display()
    )]
    Quarantine {
        /// The run folder.
        path: PathBuf,
        /// How many.
        count: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// The `ffmpeg` program is missing.
    #[error(
        "the program ffmpeg cannot be started ({reason}); install it (Debian: apt-get install ffmpeg)"
    )]
    FfmpegAway {
        /// What the system said.
        reason: String,
    },
    /// The `ffmpeg` program is there, but cannot do what a run needs.
    #[error(
        "the program ffmpeg of this PATH cannot be used: {reason}; put one before it that can \
         (Debian: apt-get install ffmpeg)"
    )]
    FfmpegUnfit {
        /// What it cannot do.
        reason: String,
    },
    /// The `ffmpeg` program failed.
    #[error("ffmpeg failed on {path}: {reason}", path = path.display())]
    Ffmpeg {
        /// The video.
        path: PathBuf,
        /// What it printed.
        reason: String,
    },
    /// A setting does not fit the stories.
    #[error("{0}")]
    Setting(String),
    /// The run was asked to stop.
    #[error("stopped early; everything finished is saved")]
    Stopped,
}

impl RunError {
    /// What the error means for the work.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Engine(error) => error.class,
            Self::Plan(error) => error.class,
            Self::Memory(error) => error.class(),
            Self::Folder { .. }
            | Self::Later { .. }
            | Self::Setting(_)
            | Self::Quarantine { .. } => ErrorClass::Run,
            Self::Input { .. } | Self::LostRecord { .. } => ErrorClass::Shot,
            Self::LeaseLost { .. } => ErrorClass::Interrupted,
            Self::FfmpegAway { .. } | Self::FfmpegUnfit { .. } => ErrorClass::ServiceAway,
            // Somebody has put another ffmpeg into its place since it was tried.
            Self::Ffmpeg { reason, .. } if reason.contains("Unknown encoder") => {
                ErrorClass::ServiceAway
            }
            Self::Ffmpeg { reason, .. } if reason.contains("No space left") => ErrorClass::Run,
            Self::Ffmpeg { .. } => ErrorClass::Transient,
            Self::Stopped => ErrorClass::Interrupted,
        }
    }

    /// Whether storage is to blame, which has an exit code of its own.
    pub fn is_storage(&self) -> bool {
        match self {
            Self::Memory(MemoryError::Storage { .. } | MemoryError::Index { .. }) => true,
            Self::Ffmpeg { reason, .. } => reason.contains("No space left"),
            _ => false,
        }
    }
}
