//! Attempts at the shots of a story, as the journals of the shifts tell them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use storyloom_story::{ShotId, StoryId};
use storyloom_telemetry::AttemptEnd;
use storyloom_telemetry::shift::{Attempt, Shift};

use super::text::{duration, stamp};

/// Attempts at the shots of all stories.
#[derive(Debug, Default)]
pub(super) struct AllAttempts {
    stories: HashMap<StoryId, StoryAttempts>,
    none: StoryAttempts,
}

/// Attempts at the shots of one story.
#[derive(Debug, Default)]
pub(super) struct StoryAttempts {
    shots: BTreeMap<ShotId, Vec<AttemptView>>,
}

/// An attempt at a shot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(super) struct AttemptView {
    /// Which attempt, from 1.
    pub number: u32,
    /// How it ended.
    pub end: Ending,
    /// When it began, and where.
    pub at: String,
    pub place: String,
    pub seconds: String,
    pub waited: String,
    /// Steps that were done before.
    pub resumed: Option<usize>,
    pub reason: Option<String>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ending {
    /// The shot exists.
    Committed,
    /// By an error.
    Failed,
    /// It was asked to stop.
    Stopped,
    /// Its program was killed.
    Killed,
    /// It goes on.
    Running,
}

impl AllAttempts {
    /// Of all shifts; those in `alive` may still go on.
    pub(super) fn of(shifts: &[Shift], goes_on: impl Fn(&Shift) -> bool) -> Self {
        let mut all = Self::default();
        for shift in shifts {
            let open = if goes_on(shift) {
                Ending::Running
            } else {
                Ending::Killed
            };
            for attempt in shift.all_attempts() {
                let story = all.stories.entry(attempt.story.clone()).or_default();
                let shot = story.shots.entry(attempt.shot).or_default();
                shot.push(view(shift, &attempt, open));
            }
        }
        all
    }

    /// Those at one story.
    pub(super) fn story(&self, story: &StoryId) -> &StoryAttempts {
        self.stories.get(story).unwrap_or(&self.none)
    }
}

impl StoryAttempts {
    /// Those at one shot, in the order in which their shifts began.
    pub(super) fn of(&self, shot: ShotId) -> Vec<AttemptView> {
        self.shots.get(&shot).cloned().unwrap_or_default()
    }

    /// How many failed.
    pub(super) fn failed(&self) -> usize {
        let attempts = self.shots.values().flatten();
        attempts
            .filter(|attempt| attempt.end == Ending::Failed)
            .count()
    }

    /// Changes when the attempts do.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (shot, attempts) in &self.shots {
            (shot, attempts).hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn view(shift: &Shift, attempt: &Attempt, open: Ending) -> AttemptView {
    let waited = attempt.stages.iter().map(|stage| stage.waited).sum();
    AttemptView {
        number: attempt.attempt + 1,
        end: match attempt.end {
            Some(AttemptEnd::Committed) => Ending::Committed,
            Some(AttemptEnd::Failed) => Ending::Failed,
            Some(AttemptEnd::Stopped) => Ending::Stopped,
            None => open,
        },
        at: stamp(attempt.begun),
        place: format!("{}, rank {}", shift.start.host, shift.start.rank),
        seconds: duration(attempt.ended - attempt.begun),
        waited: duration(waited),
        resumed: attempt.resumed_step,
        reason: attempt.reason.clone(),
    }
}
