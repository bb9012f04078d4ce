//! Where the time of a replica went, while it works.

use super::accounting::{Piece, own_pieces, piece_of_plan, split};
use super::{Attempt, PlanAttempt, Split};

/// Accounts for a shift as it goes on. It forgets what is settled, so it stays small.
#[derive(Debug)]
pub(super) struct Ledger {
    ranks: f64,
    settled: Split,
    /// Everything before this moment is settled.
    until: f64,
    loaded: Option<f64>,
    pieces: Vec<Piece>,
}

impl Ledger {
    pub(super) fn new(begun: f64, ranks: usize) -> Self {
        Self {
            ranks: ranks as f64,
            settled: Split::default(),
            until: begun,
            loaded: None,
            pieces: Vec::new(),
        }
    }

    pub(super) fn loaded(&mut self, at: f64) {
        self.loaded = Some(at);
    }

    /// An attempt has ended.
    pub(super) fn add(&mut self, attempt: &Attempt) {
        self.pieces.extend(own_pieces(attempt));
    }

    /// An attempt at a plan has ended.
    pub(super) fn add_plan(&mut self, plan: &PlanAttempt) {
        self.pieces.extend(piece_of_plan(plan, false));
    }

    /// Settles everything before `at`: no attempt will end that ran then.
    pub(super) fn settle(&mut self, at: f64) {
        if at <= self.until {
            return;
        }
        let loaded = self.loaded.unwrap_or(at);
        let part = split((self.until, at), loaded, &self.pieces);
        self.settled += part.times(self.ranks);
        self.until = at;
        self.pieces.retain(|piece| piece.end > at);
    }

    pub(super) fn split(&self) -> Split {
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::{ShotId, Stage, StoryId};

    use super::*;
    use crate::AttemptEnd;
    use crate::shift::{Saved, StageSpan};

    fn attempt(begun: f64, ended: f64, end: AttemptEnd) -> Attempt {
        Attempt {
            story: StoryId::new("neo").unwrap(),
            shot: ShotId { scene: 1, shot: 1 },
            attempt: 0,
            begun,
            end: Some(end),
            resumed_step: None,
            stages: vec![StageSpan {
                stage: Stage::Denoise,
                begun,
                seconds: ended - begun,
                waited: 0.0,
            }],
            saved: vec![Saved {
                step: 1,
                at: begun + 1.0,
            }],
            recorded: None,
            reason: None,
            ended,
        }
    }

    #[test]
    fn it_settles_in_parts_what_it_would_settle_at_once() {
        let mut ledger = Ledger::new(0.0, 2);
        ledger.settle(0.5);
        ledger.loaded(1.0);
        ledger.add(&attempt(2.0, 6.0, AttemptEnd::Committed));
        // Another goes on since 3.
        ledger.settle(3.0);
        ledger.settle(2.0);
        ledger.add(&attempt(3.0, 8.0, AttemptEnd::Failed));
        ledger.add(&attempt(8.0, 10.0, AttemptEnd::Stopped));
        ledger.settle(11.0);
        let split = ledger.split();
        let parts = [split.load, split.useful, split.wasted, split.idle];
        assert_eq!(parts, [2.0, 10.0, 6.0, 4.0]);
        assert_eq!(split.lost_to_failure, 4.0);
        assert!(ledger.pieces.is_empty());
    }
}
