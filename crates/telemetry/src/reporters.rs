//! Several reporters as one.

use crate::{Event, Reporter};

/// Passes every event on to each of its reporters, in order.
#[derive(Default)]
pub struct Reporters<'a> {
    list: Vec<&'a dyn Reporter>,
}

impl<'a> Reporters<'a> {
    /// Nobody hears anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more that hears of everything, after those before.
    #[must_use]
    pub fn and(mut self, reporter: &'a dyn Reporter) -> Self {
        self.list.push(reporter);
        self
    }
}

impl Reporter for Reporters<'_> {
    fn report(&self, event: &Event) {
        for reporter in &self.list {
            reporter.report(event);
        }
    }
}
