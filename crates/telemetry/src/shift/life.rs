//! Whether the program of a shift lives.

use std::time::Duration;

use super::Shift;
use crate::liveness::{Life, Liveness};

impl Shift {
    /// What is known of its life when nothing was heard of it for `silence` seconds.
    pub fn life(&self, silence: f64) -> Life {
        if self.end.is_some() {
            return Life::Ended;
        }
        let told = self.start.lease_timeout_s.map(u64::from);
        let liveness = told.map_or_else(Liveness::default, |seconds| {
            Liveness::new(Duration::from_secs(seconds))
        });
        liveness.life(self.start.process.as_ref(), silence)
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
    use crate::process::Process;

    fn shift(process: Option<Process>, lease_timeout_s: Option<u32>) -> Shift {
        Shift {
            id: "w".to_owned(),
            start: ShiftStart {
                process,
                lease_timeout_s,
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
    fn a_shift_lives_by_what_its_journal_tells() {
        assert_eq!(shift(None, None).life(59.0), Life::Silent);
        assert_eq!(shift(None, None).life(61.0), Life::Dead);
        assert_eq!(shift(None, Some(5)).life(6.0), Life::Dead);
        let own = Process::own().clone();
        let gone = Process {
            started: own.started + 1,
            ..own
        };
        assert_eq!(shift(Some(gone), None).life(1.0), Life::Dead);
        let mut over = shift(None, None);
        assert!(over.goes_on(150.0) && !over.goes_on(161.0));
        over.end = Some((100.0, ShiftEnd::Done));
        assert_eq!(over.life(0.0), Life::Ended);
    }
}
