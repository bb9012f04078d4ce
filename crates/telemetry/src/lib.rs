//! What happens in a run, as typed events.
//!
//! The orchestrator reports [`Event`]s; [`Reporter`]s turn them into log lines, the journal of the
//! program and figures.

pub mod bystander;
mod event_log;
#[cfg(test)]
mod event_pins;
pub mod liveness;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod proxy;
mod reporters;
pub mod shift;

use serde::{Deserialize, Serialize};
use storyloom_story::{ShotId, Stage, StoryId};

pub use event_log::EventLog;
pub use reporters::Reporters;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A run begins: everything is loaded. The counts include what was done before.
    RunStarted {
        /// Stories asked for.
        stories: usize,
        /// Shots asked for.
        shots: usize,
        /// Shots that exist already.
        shots_done: usize,
    },
    /// An attempt at the plan of a story begins. It ends with [`Event::PlanEnded`], whatever
    /// happens.
    PlanBegun {
        /// The story.
        story: &'a StoryId,
        /// Which attempt, from 0.
        attempt: u32,
    },
    /// An attempt at the plan of a story ended.
    PlanEnded {
        /// The story.
        story: &'a StoryId,
        /// Which attempt, from 0.
        attempt: u32,
        /// How it ended.
        end: AttemptEnd,
        /// How long it took, with the others of its batch beside it.
        seconds: f64,
        /// Times the planner was asked to correct what it had written.
        repairs: u32,
        /// Tokens that it wrote.
        tokens: u64,
        /// Why, unless it was committed.
        reason: Option<&'a str>,
    },
    /// Planned stories that wait to be made, as far as the program knows.
    PlansAhead {
        /// Stories.
        stories: usize,
    },
    /// How long a slot for a story was idle since no story was planned yet.
    PlanAwaited {
        /// Seconds.
        seconds: f64,
    },
    /// Something happened to a shot.
    Shot {
        /// The story.
        story: &'a StoryId,
        /// The shot.
        shot: ShotId,
        /// What happened.
        event: ShotEvent<'a>,
    },
    /// The program holds a story now.
    StoryTaken {
        /// The story.
        story: &'a StoryId,
    },
    /// The program does not hold a story any more.
    StoryLeft {
        /// The story.
        story: &'a StoryId,
    },
    /// A story was taken over from a worker that is dead.
    LeaseTaken {
        /// The story.
        story: &'a StoryId,
        /// The worker.
        from: &'a str,
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
    /// Something else is asked for than what was made of a story, or its pictures cannot be read: it is
    /// left alone.
    StorySetAside {
        /// The story.
        story: &'a StoryId,
        /// Why.
        reason: &'a str,
    },
    /// The memory index is open.
    IndexOpened {
        /// Where it lies.
        folder: &'a std::path::Path,
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

/// Something that happened to a shot.
#[derive(Debug, Clone, PartialEq)]
pub enum ShotEvent<'a> {
    /// An attempt at a shot begins. It ends with [`ShotEvent::AttemptEnded`], whatever happens.
    AttemptBegun {
        /// Which attempt, from 0.
        attempt: u32,
    },
    /// A stage of a shot begins to work; it has waited for its turn.
    StageBegun {
        /// The stage.
        stage: Stage,
        /// How long it waited for its turn before, in seconds.
        waited: f64,
    },
    /// A stage of a shot ended well.
    StageFinished {
        /// The stage.
        stage: Stage,
        /// How long it took.
        seconds: f64,
        /// How long it waited for its turn before.
        waited: f64,
    },
    /// One step of a sampling loop ended.
    StepFinished {
        /// Steps done.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// A shot goes on where it was saved.
    Resumed {
        /// Steps that need not be done again.
        done: usize,
        /// Steps in all.
        total: usize,
    },
    /// A shot that is being made was saved: a kill now loses only what comes after.
    CheckpointSaved {
        /// Steps that are saved.
        done: usize,
        /// How long saving took.
        seconds: f64,
    },
    /// What was saved of a shot does not fit; it is made from the start.
    CheckpointIgnored {
        /// Why.
        reason: &'a str,
    },
    /// A shot exists now.
    Committed {
        /// From plan to commit.
        seconds: f64,
        /// Keyframes of it that went into the memory bank.
        keyframes: usize,
    },
    /// An attempt at a shot ended.
    AttemptEnded {
        /// Which attempt, from 0.
        attempt: u32,
        /// How it ended.
        end: AttemptEnd,
        /// Why, unless it was committed.
        reason: Option<&'a str>,
    },
    /// An attempt at a shot failed, and there will be another.
    AttemptFailed {
        /// Which attempt, from 0.
        attempt: u32,
        /// Why.
        reason: &'a str,
    },
}

/// How an attempt at a shot, or at the plan of a story, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The shot or the plan exists.
    Committed,
    /// It could not be made.
    Failed,
    /// Somebody asked to stop, or another program took the story over.
    Stopped,
}

/// Takes events.
pub trait Reporter: Sync {
    /// Called for every event, from the threads that run the stories.
    fn report(&self, event: &Event);
}

/// Ignores events.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: &Event) {}
}
