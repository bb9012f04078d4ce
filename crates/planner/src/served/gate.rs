//! How many questions are under way, how fast they follow each other, and pauses for all of them.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Stop;
use crate::chat::ChatError;

/// Time between two looks at whether to stop.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Lets questions through.
pub(super) struct Gate {
    most: usize,
    /// Least time between two questions.
    spacing: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    inside: usize,
    /// Nobody enters before.
    opens: Instant,
}

impl Gate {
    pub(super) fn new(most: usize, per_minute: u32) -> Self {
        Self {
            most: most.max(1),
            spacing: match per_minute {
                0 => Duration::ZERO,
                count => Duration::from_secs(60) / count,
            },
            state: Mutex::new(State {
                inside: 0,
                opens: Instant::now(),
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place and for the time.
    ///
    /// # Errors
    /// It was asked to stop.
    pub(super) fn enter(&self, stop: &Stop) -> Result<(), ChatError> {
        let mut state = self.state();
        loop {
            if stop() {
                return Err(ChatError::stopped());
            }
            let now = Instant::now();
            if state.inside < self.most && state.opens <= now {
                state.inside += 1;
                state.opens = now + self.spacing;
                return Ok(());
            }
            let early = state.opens.saturating_duration_since(now);
            let wait = if early.is_zero() {
                LOOK
            } else {
                early.min(LOOK)
            };
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn leave(&self) {
        self.state().inside -= 1;
        self.changed.notify_one();
    }

    /// Lets nobody in before `until`.
    pub(super) fn close_until(&self, until: Instant) {
        let mut state = self.state();
        state.opens = state.opens.max(until);
    }
}

/// Waits.
///
/// # Errors
/// It was asked to stop.
pub(super) fn wait_until(until: Instant, stop: &Stop) -> Result<(), ChatError> {
    loop {
        if stop() {
            return Err(ChatError::stopped());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}
