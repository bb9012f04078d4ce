//! The way into a stage: a few shots at a time, those with the longest way to go first.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storyloom_story::Capacities;

use super::admission_policy::{PerGate, Queue};

/// The stages that networks limit. A shot waits here while others use them, so that no more than
/// the stories in flight are ever held in memory.
pub type Gates = PerGate<Gate>;

impl PerGate<Gate> {
    /// Gates that let at most these numbers of shots in at once.
    pub fn new(capacities: Capacities) -> Self {
        Self::of(capacities, Gate::new)
    }
}

/// Lets a limited number in, the most urgent first.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    queue: Queue<()>,
    busy: Duration,
}

/// The right to be inside; given back when dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    gate: &'a Gate,
    since: Instant,
}

impl Gate {
    /// A gate for `places` at a time, at least one.
    pub fn new(places: usize) -> Self {
        let state = State {
            queue: Queue::new(places),
            busy: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Waits for its turn. Larger `urgency` goes first; among equals, who came first.
    pub fn enter(&self, urgency: usize) -> Permit<'_> {
        let mut state = self.lock();
        let ticket = state.queue.join(urgency, ());
        while state.queue.next() != Some(ticket) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.queue.admit();
        drop(state);
        // More places may be free for the next one.
        self.changed.notify_all();
        Permit {
            gate: self,
            since: Instant::now(),
        }
    }

    /// Time spent inside by all that have left.
    pub fn busy(&self) -> Duration {
        self.lock().busy
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.queue.leave();
        state.busy += self.since.elapsed();
        drop(state);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_most_urgent_goes_first() {
        let gate = Gate::new(1);
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let permit = gate.enter(0);
            for (waiting, urgency) in [1, 5, 3, 5].into_iter().enumerate() {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _permit = gate.enter(urgency);
                    order.lock().unwrap().push((urgency, waiting));
                });
                while gate.lock().queue.waiting() <= waiting {
                    std::thread::yield_now();
                }
            }
            drop(permit);
        });
        assert_eq!(
            order.into_inner().unwrap(),
            [(5, 1), (5, 3), (3, 2), (1, 0)]
        );
    }

    #[test]
    fn never_more_than_the_places() {
        let (gate, inside, most) = (Gate::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for urgency in 0..8 {
                let (gate, inside, most) = (&gate, &inside, &most);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let _permit = gate.enter(urgency);
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
        assert!(gate.busy() > Duration::ZERO);
    }
}
