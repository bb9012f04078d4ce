//! What happens in a run, as typed events.
//!
//! The orchestrator reports [`Event`]s; a [`Reporter`] turns them into log lines and progress. No
//! other crate writes progress.

pub mod logs;
mod progress;

use storyloom_story::{ShotId, Stage, StoryId};

pub use progress::PlainProgress;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A run begins; the counts include what was done before.
    RunStarted {
        /// Stories asked for.
        stories: usize,
        /// Shots asked for.
        shots: usize,
        /// Shots that exist already.
        shots_done: usize,
    },
    /// A stage of a shot ended.
    StageFinished {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// The stage.
        stage: Stage,
        /// How long it took.
        seconds: f64,
        /// How long it waited for its turn before.
        waited: f64,
    },
    /// One step of a sampling loop ended.
    StepFinished {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// A shot goes on where it was saved.
    ShotResumed {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// Steps that need not be done again.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// What was saved of a shot does not fit; it is made from the start.
    CheckpointIgnored {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// Why.
        reason: &'a str,
    },
    /// A story was taken over from a worker that is dead.
    LeaseTaken {
        /// The story.
        story: &'a StoryId,
        /// The worker.
        from: &'a str,
    },
    /// A shot exists now.
    ShotCommitted {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// From plan to commit.
        seconds: f64,
    },
    /// An attempt at a shot failed.
    AttemptFailed {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// Which attempt, from 0.
        attempt: u32,
        /// Why.
        reason: &'a str,
    },
    /// All shots of a story exist, and its whole video.
    StoryFinished {
        /// The story.
        story: &'a StoryId,
    },
    /// A story was given up, and nobody tries it again before it is released.
    StoryQuarantined {
        /// The story.
        story: &'a StoryId,
        /// Why.
        reason: &'a str,
    },
    /// A story was given up for now.
    StoryFailed {
        /// The story.
        story: &'a StoryId,
        /// Why.
        reason: &'a str,
    },
    /// The memory index did not open and was started anew.
    IndexRebuilt {
        /// Where the broken one lies.
        moved_to: &'a std::path::Path,
    },
    /// The run stops before everything is done.
    RunStopped {
        /// Shots that exist.
        shots_done: usize,
    },
}

/// Hears of events.
pub trait Reporter: Sync {
    /// Called for every event, from the threads that run the stories.
    fn report(&self, event: &Event);
}

/// Hears and says nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: &Event) {}
}
