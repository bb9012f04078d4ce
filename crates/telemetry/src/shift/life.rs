//! Whether a program lives: the one answer for `status`, the report, figures and the list of targets.
//! Leases ask the same process and wait as long, but watch a beat of their own.

use super::Shift;
use crate::process::Process;

/// Seconds without a sign of life after which a program counts as dead whose journal does not tell
/// the `run.lease_timeout` of its run: the default of that.
pub const LEASE_TIMEOUT_S: f64 = 60.0;
/// Seconds without a sign of life after which a program may be gone. Many times the pause between two
/// signs.
pub const SILENT_S: f64 = 10.0;

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

impl Shift {
    /// What is known of its life when nothing was heard of it for `silence` seconds.
    pub fn life(&self, silence: f64) -> Life {
        if self.end.is_some() {
            return Life::Ended;
        }
        let lease_timeout = self.start.patience_s.map_or(LEASE_TIMEOUT_S, f64::from);
        let process = self.start.process.as_ref();
        if silence > lease_timeout || process.and_then(Process::lives) == Some(false) {
            Life::Dead
        } else if silence > SILENT_S {
            Life::Silent
        } else {
            Life::Alive
        }
    }

    /// Whether it seems to go on at `now`, in seconds since 1970.
    pub fn goes_on(&self, now: f64) -> bool {
        self.life(now - self.last_seen).goes_on()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ShiftEnd, ShiftStart};
    use super::*;

    fn shift(process: Option<Process>, patience_s: Option<u32>) -> Shift {
        Shift {
            id: "w".to_owned(),
            start: ShiftStart {
                process,
                patience_s,
                ..ShiftStart::default()
            },
            begun: 0.0,
            loaded: None,
            attempts: Vec::new(),
            recovered: Vec::new(),
            plans: Vec::new(),
            incidents: Vec::new(),
            end: None,
            live: None,
            last_seen: 100.0,
        }
    }

    #[test]
    fn silence_is_measured_by_the_patience_of_the_run() {
        for (lease_timeout, silence, life) in [
            (None, 5.0, Life::Alive),
            (None, 11.0, Life::Silent),
            (None, 61.0, Life::Dead),
            (Some(5), 4.0, Life::Alive),
            (Some(5), 6.0, Life::Dead),
            (Some(300), 200.0, Life::Silent),
        ] {
            assert_eq!(
                shift(None, lease_timeout).life(silence),
                life,
                "{lease_timeout:?} {silence}"
            );
        }
        let mut over = shift(None, None);
        assert!(over.goes_on(150.0) && !over.goes_on(161.0));
        over.end = Some((100.0, ShiftEnd::Done));
        assert_eq!(over.life(0.0), Life::Ended);
    }

    #[test]
    fn a_process_that_is_gone_needs_no_silence() {
        let own = Process::own().clone();
        let gone = Process {
            started: own.started + 1,
            ..own.clone()
        };
        assert_eq!(shift(Some(own.clone()), None).life(1.0), Life::Alive);
        assert_eq!(shift(Some(gone.clone()), None).life(1.0), Life::Dead);
        // On another machine nobody knows.
        let elsewhere = Process {
            boot: "elsewhere".to_owned(),
            ..gone
        };
        assert_eq!(shift(Some(elsewhere), None).life(1.0), Life::Alive);
    }
}
