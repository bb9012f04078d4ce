//! Who goes first: the way into the stages, into the stories and into planning.
//!
//! The rules are pure: no lock, no clock, no disk. [`gate`](super::gate) and `run_queue` keep them behind a
//! mutex, [`forecast`](mod@crate::forecast) runs the same ones in virtual time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use storyloom_story::{Capacities, Stage};

/// The stages that networks limit. A shot waits before them while others use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateName {
    /// Stage `encode`.
    Encode,
    /// Stage `denoise`.
    Denoise,
    /// Stages `decode` and `select`, which have one way in.
    Decode,
}

impl GateName {
    /// The gate that a shot goes through before `stage`.
    pub fn before(stage: Stage) -> Option<Self> {
        match stage {
            Stage::Encode => Some(Self::Encode),
            Stage::Denoise => Some(Self::Denoise),
            Stage::Decode => Some(Self::Decode),
            Stage::Plan | Stage::Select | Stage::Commit => None,
        }
    }

    /// The gate that a shot has left behind after `stage`.
    pub fn after(stage: Stage) -> Option<Self> {
        match stage {
            Stage::Encode => Some(Self::Encode),
            Stage::Denoise => Some(Self::Denoise),
            Stage::Select => Some(Self::Decode),
            Stage::Plan | Stage::Decode | Stage::Commit => None,
        }
    }
}

/// One value for each gate.
#[derive(Debug, Clone)]
pub struct PerGate<T> {
    /// That of stage `encode`.
    pub encode: T,
    /// That of stage `denoise`.
    pub denoise: T,
    /// That of stages `decode` and `select`.
    pub decode: T,
}

impl<T> PerGate<T> {
    /// What `make` makes of the places behind each gate.
    pub fn of(capacities: Capacities, make: impl Fn(usize) -> T) -> Self {
        Self {
            encode: make(capacities.encode),
            denoise: make(capacities.denoise),
            decode: make(capacities.decode),
        }
    }

    /// The value of one gate.
    pub fn at_mut(&mut self, gate: GateName) -> &mut T {
        match gate {
            GateName::Encode => &mut self.encode,
            GateName::Denoise => &mut self.denoise,
            GateName::Decode => &mut self.decode,
        }
    }
}

/// How urgent, and in which order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(Reverse<usize>, u64);

/// A limited number of places, and those who wait for one: the most urgent first, among equals the one
/// that came first.
#[derive(Debug, Clone)]
pub(crate) struct Queue<W> {
    free: usize,
    waiting: BTreeMap<Ticket, W>,
    tickets: u64,
}

impl<W> Queue<W> {
    /// A queue for `places` at a time, at least one.
    pub(crate) fn new(places: usize) -> Self {
        Self {
            free: places.max(1),
            waiting: BTreeMap::new(),
            tickets: 0,
        }
    }

    /// `who` waits from now on. Larger `urgency` goes first.
    pub(crate) fn join(&mut self, urgency: usize, who: W) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(Reverse(urgency), self.tickets);
        self.waiting.insert(ticket, who);
        ticket
    }

    /// Whose turn it is, if there is a place.
    pub(crate) fn next(&self) -> Option<Ticket> {
        let (ticket, _) = self.waiting.first_key_value()?;
        (self.free > 0).then_some(*ticket)
    }

    /// Lets in the one whose turn it is, if there is a place.
    pub(crate) fn admit(&mut self) -> Option<W> {
        self.next()?;
        let (_, who) = self.waiting.pop_first()?;
        self.free -= 1;
        Some(who)
    }

    /// Somebody who was let in gives the place back.
    pub(crate) fn leave(&mut self) {
        self.free += 1;
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Stories that a program takes at most, of `unfinished` ones: no program shall have all its places full
/// while another is idle.
pub(crate) fn fair_share(unfinished: usize, replicas: usize) -> usize {
    unfinished.div_ceil(replicas.max(1)).max(1)
}

/// Whether one more brief may be planned, where at most `limit` planned stories may wait: `in_flight` are
/// planned and wait or are being planned, and `before` come before it and have a script, or will have one
/// first. Nobody hurries to plan what comes after many that are ready.
pub(crate) fn may_plan_ahead(limit: usize, in_flight: usize, before: usize) -> bool {
    in_flight < limit && before < limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_goes_first_and_among_equals_the_first() {
        let mut queue = Queue::new(2);
        for (urgency, who) in [(1, 'a'), (5, 'b'), (3, 'c'), (5, 'd')] {
            queue.join(urgency, who);
        }
        assert_eq!((queue.admit(), queue.admit()), (Some('b'), Some('d')));
        assert_eq!((queue.next(), queue.admit()), (None, None));
        queue.leave();
        assert_eq!((queue.admit(), queue.admit()), (Some('c'), None));
        queue.leave();
        queue.leave();
        let late = queue.join(9, 'e');
        assert_eq!(queue.next(), Some(late));
        assert_eq!((queue.admit(), queue.admit()), (Some('e'), Some('a')));
    }

    #[test]
    fn a_gate_is_left_after_the_last_stage_behind_it() {
        let way = [
            Stage::Plan,
            Stage::Encode,
            Stage::Denoise,
            Stage::Decode,
            Stage::Select,
            Stage::Commit,
        ];
        let mut inside = None;
        for stage in way {
            if let Some(gate) = GateName::before(stage) {
                assert_eq!(inside.replace(gate), None, "{stage}");
            }
            if let Some(gate) = GateName::after(stage) {
                assert_eq!(inside.take(), Some(gate), "{stage}");
            }
        }
        assert_eq!(inside, None);
    }

    #[test]
    fn planning_goes_only_so_far_ahead() {
        assert!(may_plan_ahead(2, 1, 1));
        assert!(!may_plan_ahead(2, 2, 0));
        assert!(!may_plan_ahead(2, 0, 2));
    }
}
