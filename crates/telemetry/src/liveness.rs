//! Whether a program lives: the one answer for leases, `status`, `watch`, the report, figures and the list
//! of targets.
//!
//! | what is known of it | it counts as |
//! |---|---|
//! | it said that it ends | [`Ended`](Life::Ended) |
//! | its process is gone, which only its own machine can tell | [`Dead`](Life::Dead) |
//! | no sign of life for `run.lease_timeout` | [`Dead`](Life::Dead) |
//! | no sign of life for [`SILENT_S`](Liveness::SILENT_S) | [`Silent`](Life::Silent) |
//! | a sign of life since | [`Alive`](Life::Alive) |
//!
//! What a sign of life is differs, and the rules do not: leases raise a beat in a file of theirs and take a
//! story over when they themselves have watched it stand still; all others read the live files of the
//! [journals](crate::shift), which are written several times a second.

use std::time::Duration;

use crate::process::Process;

/// What is known of the life of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It said that it ends.
    Ended,
    /// It was heard of a moment ago.
    Alive,
    /// It was not heard of for a while: it hangs, or is gone.
    Silent,
    /// Its process is gone, or it was silent for so long that others take its stories over.
    Dead,
}

impl Life {
    /// Whether what it was at may still go on.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Alive | Self::Silent)
    }
}

/// How long the programs of a run may be silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Liveness {
    lease_timeout_s: f64,
}

impl Liveness {
    /// The default of `run.lease_timeout`, in seconds, and that of a program whose journal does not tell it.
    pub const LEASE_TIMEOUT_S: u32 = 60;
    /// Seconds without a sign of life after which a program may be gone. Many times the pause between two
    /// signs.
    pub const SILENT_S: f64 = 10.0;
    /// Seconds without a sign of life after which nobody asks a program for its figures any more: so long
    /// that any program that watches the list of targets learns of its death.
    pub const UNASKED_S: f64 = 120.0;

    /// In a run with this `run.lease_timeout`.
    pub fn new(lease_timeout: Duration) -> Self {
        Self {
            lease_timeout_s: lease_timeout.as_secs_f64(),
        }
    }

    /// The pause between two beats of a lease: several of them may come late.
    pub fn pause(self) -> Duration {
        Duration::from_secs_f64(self.lease_timeout_s / 4.0)
    }

    /// What is known of a program that was not heard of for `silence_s` seconds and has not said that it
    /// ends; `process` is its process, if it told.
    pub fn life(self, process: Option<&Process>, silence_s: f64) -> Life {
        if silence_s >= self.lease_timeout_s || process.is_some_and(Process::is_gone) {
            Life::Dead
        } else if silence_s > Self::SILENT_S {
            Life::Silent
        } else {
            Life::Alive
        }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self::new(Duration::from_secs(Self::LEASE_TIMEOUT_S.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_measured_by_the_lease_timeout_of_the_run() {
        for (lease_timeout, silence, life) in [
            (60, 5.0, Life::Alive),
            (60, 11.0, Life::Silent),
            (60, 60.0, Life::Dead),
            (5, 4.0, Life::Alive),
            (5, 6.0, Life::Dead),
            (300, 200.0, Life::Silent),
        ] {
            let liveness = Liveness::new(Duration::from_secs(lease_timeout));
            let found = liveness.life(None, silence);
            assert_eq!(found, life, "{lease_timeout} {silence}");
            assert!(liveness.pause().as_secs_f64() < lease_timeout as f64 / 2.0);
        }
    }

    #[test]
    fn a_process_that_is_gone_needs_no_silence() {
        let own = Process::own().clone();
        let gone = Process {
            started: own.started + 1,
            ..own.clone()
        };
        let life = |process: &Process| Liveness::default().life(Some(process), 1.0);
        assert_eq!(life(&own), Life::Alive);
        assert_eq!(life(&gone), Life::Dead);
        // On another machine nobody knows.
        let elsewhere = Process {
            boot: "elsewhere".to_owned(),
            ..gone
        };
        assert_eq!(life(&elsewhere), Life::Alive);
    }
}
