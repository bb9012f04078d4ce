//! The exit codes, and errors that know theirs.

use std::fmt;
use std::process::ExitCode;

use storyloom_orchestrator::RunError;
use storyloom_story::ErrorClass;

/// How the program ends. This table is part of the contract with schedulers and scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for is done.
    Done = 0,
    /// Something nobody thought of, or shots that failed.
    Unexpected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The input is wrong: a script, a manifest, a picture.
    Input = 65,
    /// A program or service that is needed is away.
    Away = 69,
    /// Storage: disk full, a file that cannot be read or written.
    Storage = 74,
    /// Stopped early, everything is saved: run the same command again.
    Stopped = 75,
    /// The config or a checkpoint it names is wrong.
    Config = 78,
}

impl Exit {
    /// Every code with its meaning, as shown by `--help`.
    pub const TABLE: &'static str = "\
Exit codes:
   0  all done
   1  unexpected, or some shots failed
   2  wrong usage
  65  wrong input
  69  a needed program or service is away
  74  storage
  75  stopped early, everything saved, run me again
  78  wrong config or checkpoint";
}

impl Exit {
    /// The meaning of a code.
    pub fn of_code(code: u8) -> Option<Self> {
        let known = [
            Self::Done,
            Self::Unexpected,
            Self::Usage,
            Self::Input,
            Self::Away,
            Self::Storage,
            Self::Stopped,
            Self::Config,
        ];
        known.into_iter().find(|&exit| exit as u8 == code)
    }

    /// Which of two ends of ranks is that of their world. What needs somebody's hand counts more
    /// than what only needs another start.
    pub fn graver(self, other: Self) -> Self {
        let gravity = |exit: Self| match exit {
            Self::Done => 0,
            Self::Stopped => 1,
            Self::Unexpected => 2,
            Self::Input => 3,
            Self::Away => 4,
            Self::Storage => 5,
            Self::Config => 6,
            Self::Usage => 7,
        };
        if gravity(other) > gravity(self) {
            other
        } else {
            self
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ErrorClass> for Exit {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Transient => Self::Storage,
            ErrorClass::Shot => Self::Unexpected,
            ErrorClass::Run => Self::Config,
            ErrorClass::ServiceAway => Self::Away,
            ErrorClass::Interrupted => Self::Stopped,
        }
    }
}

/// An error at the edge: what to tell the user, and the code to end with.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What happened; empty if it was already told.
    pub message: String,
}

impl Failure {
    /// A failure with a message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }

    /// A failure whose reasons are already on the screen.
    pub fn told(exit: Exit) -> Self {
        Self {
            exit,
            message: String::new(),
        }
    }
}

impl From<storyloom_models::ModelError> for Failure {
    fn from(error: storyloom_models::ModelError) -> Self {
        Self::new(error.class().into(), error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let exit = match error {
            RunError::Quarantine { .. } => Exit::Input,
            _ if error.is_storage() => Exit::Storage,
            _ => error.class().into(),
        };
        Self::new(exit, error)
    }
}

/// The result of a command; its data is already on stdout.
pub type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_code() {
        for exit in [
            Exit::Done,
            Exit::Unexpected,
            Exit::Usage,
            Exit::Input,
            Exit::Away,
            Exit::Storage,
            Exit::Stopped,
            Exit::Config,
        ] {
            let line = format!("\n{:>4}  ", exit as u8);
            assert!(Exit::TABLE.contains(&line), "{exit:?}");
            assert_eq!(Exit::of_code(exit as u8), Some(exit));
            assert_eq!(Exit::Done.graver(exit), exit);
        }
    }
}
