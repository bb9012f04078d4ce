//! How a story stands, in one word, for everybody who counts or shows stories.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use storyloom_story::StoryId;
use storyloom_telemetry::shift::Shift;

use super::Counts;
use crate::folder::run_folder::{RunFolder, StoryState};
use crate::run::lease::LeaseFiles;

/// Where a story stands, once its records were looked at as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObservedState {
    /// Not begun.
    Pending,
    /// Begun, or believed to be done while a record is gone.
    Running,
    /// Everything exists.
    Done,
    /// Given up for now.
    Failed,
    /// Set aside.
    Quarantined,
}

impl ObservedState {
    /// Of a story of which `left` shots are missing.
    pub fn of(state: &StoryState, left: usize) -> Self {
        match state {
            // A finished story whose record is gone is not finished.
            StoryState::Done if left == 0 => Self::Done,
            StoryState::Failed { .. } => Self::Failed,
            StoryState::Quarantined { .. } => Self::Quarantined,
            StoryState::Pending => Self::Pending,
            StoryState::Running | StoryState::Done => Self::Running,
        }
    }

    /// Counts a story with `total` shots of which `done` exist.
    pub fn tally(self, total: usize, done: usize, stories: &mut Counts, shots: &mut Counts) {
        let left = total - done;
        stories.total += 1;
        shots.total += total;
        shots.done += done;
        match self {
            Self::Done => stories.done += 1,
            Self::Failed => {
                stories.failed += 1;
                shots.failed += left;
            }
            Self::Quarantined => {
                stories.quarantined += 1;
                shots.quarantined += left;
            }
            Self::Pending => {
                stories.pending += 1;
                shots.pending += left;
            }
            Self::Running => {
                stories.running += 1;
                shots.running += left.min(1);
                shots.pending += left.saturating_sub(1);
            }
        }
    }
}

/// How a story is shown to an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Looks {
    /// Everything exists.
    Done,
    /// A program works on it.
    Running,
    /// Not begun.
    Pending,
    /// Begun, and nobody works on it any more.
    Interrupted,
    /// Given up for now; the next start tries it again.
    Failed,
    /// Set aside until it is let back.
    Quarantined,
    /// Set aside since something else is asked for than what was made, or since what it is made from
    /// cannot be read.
    Changed,
}

impl Looks {
    /// All of them, in the order in which they are drawn.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Running,
        Self::Interrupted,
        Self::Pending,
        Self::Failed,
        Self::Quarantined,
        Self::Changed,
    ];

    /// Of a story that stands so; whether it was interrupted, and whether it is set aside.
    pub fn of(observed: ObservedState, interrupted: bool, set_aside: bool) -> Self {
        match observed {
            _ if set_aside => Self::Changed,
            ObservedState::Running if interrupted => Self::Interrupted,
            ObservedState::Running => Self::Running,
            ObservedState::Done => Self::Done,
            ObservedState::Pending => Self::Pending,
            ObservedState::Failed => Self::Failed,
            ObservedState::Quarantined => Self::Quarantined,
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "running",
            Self::Pending => "pending",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Changed => "changed",
        }
    }

    /// As what it counts.
    fn observed_state(self) -> ObservedState {
        match self {
            Self::Done => ObservedState::Done,
            Self::Running => ObservedState::Running,
            Self::Pending | Self::Interrupted => ObservedState::Pending,
            Self::Failed | Self::Changed => ObservedState::Failed,
            Self::Quarantined => ObservedState::Quarantined,
        }
    }

    /// Counts a story with `total` shots of which `done` exist.
    pub fn tally(self, total: usize, done: usize, stories: &mut Counts, shots: &mut Counts) {
        self.observed_state().tally(total, done, stories, shots);
        stories.interrupted += usize::from(self == Self::Interrupted);
        stories.set_aside += usize::from(self == Self::Changed);
    }

    /// How many of the stories look so.
    pub fn count(self, stories: &Counts) -> usize {
        match self {
            Self::Done => stories.done,
            Self::Running => stories.running,
            Self::Pending => stories.pending - stories.interrupted,
            Self::Interrupted => stories.interrupted,
            Self::Failed => stories.failed - stories.set_aside,
            Self::Quarantined => stories.quarantined,
            Self::Changed => stories.set_aside,
        }
    }
}

impl FromStr for Looks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|looks| looks.name() == text);
        found.ok_or_else(|| format!("{text:?} is no state of a story"))
    }
}

/// Which stories are in somebody's hands.
pub(crate) struct Hands<'a> {
    /// Those of which a program that works says so.
    begun: BTreeSet<&'a StoryId>,
    /// Programs that do not work any more.
    gone: BTreeSet<&'a str>,
    leases: LeaseFiles,
}

impl<'a> Hands<'a> {
    /// By the journals of all programs; `works` says of one whether it may go on with what it was at.
    pub(crate) fn of(
        folder: &RunFolder,
        shifts: impl Iterator<Item = &'a Shift>,
        works: impl Fn(&Shift) -> bool,
    ) -> Self {
        let (at_work, gone): (Vec<_>, Vec<_>) = shifts.partition(|shift| works(shift));
        let live = at_work.iter().filter_map(|shift| shift.live.as_ref());
        Self {
            begun: live
                .flat_map(|live| &live.now)
                .map(|shot| &shot.story)
                .collect(),
            gone: gone.iter().map(|shift| shift.id.as_str()).collect(),
            leases: LeaseFiles::new(folder.leases(), folder.storage().clone()),
        }
    }

    /// Whether somebody has this one.
    pub(crate) fn have(&self, story: &StoryId) -> bool {
        if self.begun.contains(story) {
            return true;
        }
        // Between two shots only the lease tells.
        match self.leases.holder(story) {
            Ok(holder) => holder.is_some_and(|worker| !self.gone.contains(worker.id.as_str())),
            Err(error) => {
                tracing::warn!(%error, %story, "counted as running");
                true
            }
        }
    }
}
