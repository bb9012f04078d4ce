//! What all questions of a command know of their server.
//!
//! As long as it has answered none, one question is asked at a time: what it refuses is then
//! refused once and not once for every brief, and a server that answers nobody ends the command
//! before anybody is set aside.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use storyloom_story::ErrorClass;

use super::Stop;
use super::gate::LOOK;
use super::terms::Terms;
use crate::chat::ChatError;

/// What is agreed with a server.
pub(super) struct Agreement {
    /// As the settings want it.
    wanted: Terms,
    state: Mutex<State>,
    changed: Condvar,
    /// One question at a time finds out what its refusal means.
    pub(super) talks: Mutex<()>,
}

struct State {
    terms: Terms,
    /// Counts the changes of `terms`.
    version: u64,
    /// Whether the server has ever answered.
    answered: bool,
    /// Whether a question is on its way that finds that out.
    first: bool,
    /// Why nothing more is asked.
    over: Option<ChatError>,
}

/// The leave to ask.
pub(super) struct Leave<'a> {
    agreement: &'a Agreement,
    first: bool,
}

impl Agreement {
    pub(super) fn new(wanted: Terms) -> Self {
        let state = State {
            terms: wanted.clone(),
            version: 0,
            answered: false,
            first: false,
            over: None,
        };
        Self {
            wanted,
            state: Mutex::new(state),
            changed: Condvar::new(),
            talks: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a question may be asked.
    ///
    /// # Errors
    /// Nothing more is asked, or it was asked to stop.
    pub(super) fn enter(&self, stop: &Stop) -> Result<Leave<'_>, ChatError> {
        let mut state = self.state();
        loop {
            if let Some(error) = &state.over {
                return Err(error.clone());
            }
            if stop() {
                return Err(ChatError::stopped());
            }
            if state.answered || !state.first {
                let first = !state.answered;
                state.first |= first;
                return Ok(Leave {
                    agreement: self,
                    first,
                });
            }
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How questions are asked now, and the number of that.
    pub(super) fn terms(&self) -> (Terms, u64) {
        let state = self.state();
        (state.terms.clone(), state.version)
    }

    /// Whether the server has ever answered.
    pub(super) fn is_answered(&self) -> bool {
        self.state().answered
    }

    /// The server has answered a question.
    pub(super) fn answered(&self) {
        self.state().answered = true;
        self.changed.notify_all();
    }

    /// Asks again although the server could not be reached.
    pub(super) fn reopen(&self) {
        let mut state = self.state();
        let is_away = |error: &ChatError| error.class == ErrorClass::ServiceAway;
        if state.over.as_ref().is_some_and(is_away) {
            state.over = None;
        }
    }

    /// Asks in another way from now on; says what is new about it.
    pub(super) fn change(&self, terms: Terms) -> Vec<String> {
        let mut state = self.state();
        let before = state.terms.departures_from(&self.wanted);
        let mut new = terms.departures_from(&self.wanted);
        new.retain(|departure| !before.contains(departure));
        state.terms = terms;
        state.version += 1;
        new
    }

    /// What is otherwise in `terms` than the settings want it.
    pub(super) fn departures(&self, terms: &Terms) -> Vec<String> {
        terms.departures_from(&self.wanted)
    }
}

impl Leave<'_> {
    /// Takes note of an error that every other question would meet as well.
    pub(super) fn note(&self, error: &ChatError) {
        let mut state = self.agreement.state();
        let ends = match error.class {
            ErrorClass::Run => true,
            ErrorClass::ServiceAway => !state.answered,
            _ => false,
        };
        if ends {
            state.over.get_or_insert_with(|| error.clone());
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.first {
            self.agreement.state().first = false;
            self.agreement.changed.notify_all();
        }
    }
}
