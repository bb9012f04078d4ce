//! The exit codes, and errors that know theirs.

use std::fmt;
use std::fmt::Write as _;
use std::process::ExitCode;

use storyloom_orchestrator::RunError;
use storyloom_story::ErrorClass;

// A row has the code, how severe it is beside the others, its meaning, and what a scheduler or an
// operator does about it. Everything else about exit codes is made from these rows.
macro_rules! exits {
    ($( $name:ident = $code:literal, severity $severity:literal: $meaning:literal => $then:literal; )+) => {
        /// How the program ends. This table is part of the contract with schedulers and scripts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit {
            $(
                #[doc = $meaning]
                $name = $code,
            )+
        }

        impl Exit {
            /// Every exit, by its code.
            pub const ALL: &'static [Self] = &[$( Self::$name ),+];

            /// What the code means, in a few words.
            pub fn meaning(self) -> &'static str {
                match self {
                    $( Self::$name => $meaning, )+
                }
            }

            /// What is to be done about it.
            pub fn what_follows(self) -> &'static str {
                match self {
                    $( Self::$name => $then, )+
                }
            }

            /// How severe the end is: what needs a person counts more than what only needs another
            /// start.
            fn severity(self) -> u8 {
                match self {
                    $( Self::$name => $severity, )+
                }
            }
        }
    };
}

exits! {
    Done = 0, severity 0: "all done" => "Nothing.";
    Unexpected = 1, severity 2: "unexpected, or some shots failed" =>
        "Look at the last lines on stderr and at `storyloom status DIR --failed`. The same command tries again.";
    Usage = 2, severity 7: "wrong usage" =>
        "Correct the command line; the message names the nearest known word.";
    Input = 65, severity 3: "wrong input, or too many stories in quarantine" =>
        "Correct the lines that are named (also those of stories that were set aside); `storyloom validate` finds all of them.";
    Away = 69, severity 4: "a needed program or service is away" =>
        "Start or install the program or service that is named, then run the same command again.";
    Storage = 74, severity 5: "storage: disk full, or a file that cannot be read or written" =>
        "Make room or repair the mount, then run the same command again.";
    Stopped = 75, severity 1: "stopped early, everything saved, run me again" =>
        "Run the same command again. A scheduler requeues the job.";
    Config = 78, severity 6: "wrong config or checkpoint" =>
        "Correct the option or the checkpoint that is named; another start would find the same.";
}

impl Exit {
    /// Every code with its meaning, as shown by `--help`.
    pub fn table() -> String {
        let mut text = "Exit codes:".to_owned();
        for exit in Self::ALL {
            // Writing to a text cannot fail.
            let _ = write!(text, "\n{:>4}  {}", *exit as u8, exit.meaning());
        }
        text
    }

    /// The exit with this code.
    pub fn of_code(code: u8) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|&exit| exit as u8 == code)
    }

    /// The more severe of two ends of ranks, which is that of their world.
    pub fn worse_of(self, other: Self) -> Self {
        match other.severity() > self.severity() {
            true => other,
            false => self,
        }
    }

    /// The text of `docs/exit-codes.md`.
    pub fn markdown() -> String {
        let mut text = String::from(
            "# Exit codes\n\n\
             Made from the table in `crates/cli/src/exit.rs`; a test \
             compares the two.\nThe codes are part of the contract with schedulers and scripts: none \
             changes its meaning. What launchers and\nschedulers make of them is in \
             [launch/](../launch/README.md#exit-codes).\n\n\
             | code | means | what to do |\n|---|---|---|\n",
        );
        for exit in Self::ALL {
            let (code, meaning) = (*exit as u8, exit.meaning());
            // Writing to a text cannot fail.
            let _ = writeln!(text, "| {code} | {meaning} | {} |", exit.what_follows());
        }
        text.push_str(
            "\nThe ranks of a world end with one code: the most severe of theirs, in the order ",
        );
        let mut order = Self::ALL.to_vec();
        order.sort_by_key(|exit| exit.severity());
        let order: Vec<String> = order.iter().map(|exit| (*exit as u8).to_string()).collect();
        text + &order.join(", ") + " (most severe last).\n"
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

impl From<storyloom_nn::ModelError> for Failure {
    fn from(error: storyloom_nn::ModelError) -> Self {
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

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    #[test]
    fn every_exit_has_a_code_and_a_severity_of_its_own() {
        for (place, &exit) in Exit::ALL.iter().enumerate() {
            assert_eq!(Exit::of_code(exit as u8), Some(exit));
            assert_eq!(Exit::Done.worse_of(exit), exit);
            assert!(Exit::table().contains(&format!("\n{:>4}  ", exit as u8)));
            for &other in &Exit::ALL[place + 1..] {
                assert!((exit as u8) < (other as u8), "{exit:?}, {other:?}");
                let worse = exit.worse_of(other);
                assert_eq!(worse, other.worse_of(exit), "{exit:?}, {other:?}");
            }
        }
    }

    /// Schedulers, scripts and the files in `launch/` have these numbers.
    #[test]
    fn codes_stay_as_they_are() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|&exit| exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 65, 69, 74, 75, 78]);
        assert_eq!(Exit::Stopped.worse_of(Exit::Unexpected), Exit::Unexpected);
        assert_eq!(Exit::Input.worse_of(Exit::Stopped), Exit::Input);
        assert_eq!(Exit::Config.worse_of(Exit::Usage), Exit::Usage);
        assert_eq!(Exit::of_code(64), None);
    }

    #[test]
    fn the_page_in_docs_is_the_one_of_the_code() {
        let path = format!("{ROOT}/docs/exit-codes.md");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, Exit::markdown()).unwrap();
        } else {
            assert_eq!(text, Exit::markdown(), "run this test with UPDATE_EXPECT=1");
        }
    }
}
