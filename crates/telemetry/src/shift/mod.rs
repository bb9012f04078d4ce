//! What every program of a run did, instant by instant.
//!
//! A *shift* is the life of one program that makes or plans stories: the leader of a replica, or a
//! rank that only plans. Its journal is
//! two files, named by the worker that the leases know it by:
//!
//! ```text
//! DIR/logs/shifts/WORKER.jsonl      what has happened, one JSON object a line
//! DIR/logs/shifts/WORKER.live.json  what it is at right now, rewritten several times a second
//! ```
//!
//! A shift whose journal has no end was killed, at some time after its live file was written last.

mod accounting;
mod files;
mod follow;
mod journal;
mod ledger;
mod life;
mod moment;
mod read;
mod recovered;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storyloom_story::{ShotId, Stage, StoryId};

use crate::AttemptEnd;
use crate::process::Process;

pub use accounting::{Accounting, Extent, Split, accounting};
pub use files::{JournalFiles, LocalFiles};
pub use follow::Follower;
pub use journal::Journal;
pub use moment::{now, process_start};
pub use read::{read_shift, read_shifts, read_shifts_in};

/// The folder of all journals of a run folder.
pub fn shifts_folder(run: &Path) -> PathBuf {
    run.join("logs").join("shifts")
}

/// What is known of a shift when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftStart {
    /// What the run is called: the name of its folder.
    pub run: String,
    /// Name of the machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// Rank of the leader in its world.
    pub rank: usize,
    /// Ranks of the world.
    pub world_size: usize,
    /// Which replica of the world it leads, from 0.
    pub replica: usize,
    /// Ranks of the replica, the leader included.
    pub ranks: usize,
    /// Whether it only plans stories and makes no shots.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plans_only: bool,
    /// What computes: `cpu` or `cuda`.
    pub device: String,
    /// Version of the program.
    pub version: String,
    /// The process, as those of the same machine find it; older versions did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Seconds without a sign of life after which others take its stories over (`run.lease_timeout`).
    #[serde(
        rename = "patience_s",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub lease_timeout_s: Option<u32>,
}

/// How a shift ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShiftEnd {
    /// Nothing was left to do.
    Done,
    /// Somebody asked it to stop.
    Stopped,
    /// By an error.
    Failed,
}

/// A stage of an attempt. Times are in seconds, moments in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StageSpan {
    /// The stage.
    pub stage: Stage,
    /// When it began to work.
    pub begun: f64,
    /// How long it worked.
    pub seconds: f64,
    /// How long it waited for its turn before.
    pub waited: f64,
}

impl StageSpan {
    /// When it ended.
    pub fn end(&self) -> f64 {
        self.begun + self.seconds
    }
}

/// A sampling loop was saved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Steps that were done.
    pub step: usize,
    /// When it was saved.
    pub at: f64,
}

/// An attempt at a shot that has ended, or one that the program was at when it was killed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The story.
    pub story: StoryId,
    /// The shot.
    pub shot: ShotId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// When it began, in seconds since 1970.
    pub begun: f64,
    /// How it ended; `None` while it goes on, and if the program was killed meanwhile.
    pub end: Option<AttemptEnd>,
    /// Steps that an earlier attempt had done and this one did not do again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_step: Option<usize>,
    /// Its stages, in order. The last one may be one that did not end well.
    pub stages: Vec<StageSpan>,
    /// When its sampling loop was saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saved: Vec<Saved>,
    /// Seconds of stage `commit` as the record of the shot has them: those until the record itself was
    /// written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<f64>,
    /// Why it was not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ended, or was last known to go on, in seconds since 1970.
    #[serde(skip)]
    pub ended: f64,
}

/// An attempt at the plan of a story that has ended, or one that the program was at when it was
/// killed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanAttempt {
    /// The story.
    pub story: StoryId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// When it began, in seconds since 1970.
    pub begun: f64,
    /// How it ended; `None` while it goes on, and if the program was killed meanwhile.
    pub end: Option<AttemptEnd>,
    /// Times the planner was asked to mend what it had written.
    #[serde(default)]
    pub repairs: u32,
    /// Tokens that it wrote.
    #[serde(default)]
    pub tokens: u64,
    /// Why it was not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ended, or was last known to go on, in seconds since 1970.
    #[serde(skip)]
    pub ended: f64,
}

/// A plan that is being made, in the live file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LivePlan {
    /// The story.
    pub story: StoryId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// When it began, in seconds since 1970.
    pub begun: f64,
}

/// An attempt that goes on, in the live file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveShot {
    /// The story.
    pub story: StoryId,
    /// The shot.
    pub shot: ShotId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// When the attempt began, in seconds since 1970.
    pub attempt_begun: f64,
    /// The stage that works; `None` while it waits for its turn in the next.
    pub stage: Option<Stage>,
    /// When that stage began; when the wait began if there is none.
    pub begun: f64,
    /// How long that stage waited for its turn.
    pub waited: f64,
    /// Steps of the sampling loop that are done; 0 before it.
    pub step: usize,
    /// Steps in all; 0 before the first has ended.
    pub steps: usize,
    /// Steps that an earlier attempt had done.
    pub resumed_step: Option<usize>,
    /// Steps that are saved by this attempt.
    pub saved_step: Option<usize>,
    /// When that was.
    pub saved_at: Option<f64>,
    /// The stages that have ended.
    pub stages: Vec<StageSpan>,
    /// When its sampling loop was saved.
    pub saved: Vec<Saved>,
}

/// The live file: what a program is at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// When this was true, in seconds since 1970.
    pub at: f64,
    /// Shots that the program has committed.
    pub shots_done_here: usize,
    /// The attempts that go on.
    pub now: Vec<LiveShot>,
    /// The plans that are being made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planning: Vec<LivePlan>,
    /// Whether it is still loading.
    pub load: bool,
}

/// Something else that happened in a shift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Incident {
    /// A story was taken over from a worker that is dead.
    LeaseTaken {
        /// The story.
        story: StoryId,
        /// The worker.
        from: String,
    },
    /// What was saved of a shot did not fit.
    CheckpointIgnored {
        /// The story.
        story: StoryId,
        /// The shot.
        shot: ShotId,
        /// Why.
        reason: String,
    },
    /// A story was given up, and nobody tries it again before it is released.
    Quarantined {
        /// The story.
        story: StoryId,
        /// Why.
        reason: String,
    },
    /// All shots of a story exist, and its whole video.
    StoryFinished {
        /// The story.
        story: StoryId,
    },
    /// A story was given up for now.
    StoryFailed {
        /// The story.
        story: StoryId,
        /// Why.
        reason: String,
    },
    /// The memory index did not open and was started anew.
    IndexRebuilt {
        /// Where the broken one lies.
        moved_to: PathBuf,
    },
}

/// One life of a program that made stories.
#[derive(Debug, Clone, PartialEq)]
pub struct Shift {
    /// The worker that the leases know it by.
    pub id: String,
    /// What it was.
    pub start: ShiftStart,
    /// When it began, in seconds since 1970.
    pub begun: f64,
    /// When it had loaded everything; `None` if it has not.
    pub loaded: Option<f64>,
    /// Attempts that have ended, in that order.
    pub attempts: Vec<Attempt>,
    /// Attempts that committed their shot, and whose program was killed before it could say so.
    pub recovered: Vec<Attempt>,
    /// Attempts at plans that have ended, in that order.
    pub plans: Vec<PlanAttempt>,
    /// What else happened, each with its moment in seconds since 1970.
    pub incidents: Vec<(f64, Incident)>,
    /// Moment and kind of its end; `None` while it goes on, and if it was killed.
    pub end: Option<(f64, ShiftEnd)>,
    /// What it was at when it was heard of last; `None` if there is no live file.
    pub live: Option<Live>,
    /// The last moment it was known to live.
    pub last_seen: f64,
}

impl Shift {
    /// When it ended, or the last moment it was known to live.
    pub fn until(&self) -> f64 {
        self.end.map_or(self.last_seen, |(at, _)| at)
    }

    /// All attempts: those that have ended, then those it was at when it was heard of last.
    pub fn all_attempts(&self) -> Vec<Attempt> {
        let mut all = self.attempts.clone();
        let open = self.open_attempts().into_iter().map(|open| {
            let said = self.recovered.iter().find(|recovered| recovered.is(&open));
            said.cloned().unwrap_or(open)
        });
        all.extend(open);
        all
    }

    /// Attempts that made a shot.
    pub fn committed(&self) -> impl Iterator<Item = &Attempt> {
        let all = self.attempts.iter().chain(&self.recovered);
        all.filter(|attempt| attempt.end == Some(AttemptEnd::Committed))
    }

    /// Those it was at when it was heard of last, if it has no end.
    fn open_attempts(&self) -> Vec<Attempt> {
        let live = self.live.iter().filter(|_| self.end.is_none());
        let open = live
            .flat_map(|live| &live.now)
            .map(|shot| shot.so_far(self.until()));
        // The line of an attempt is written before the live file is rewritten.
        open.filter(|open| !self.attempts.iter().any(|known| known.is(open)))
            .collect()
    }
}

impl Shift {
    /// All attempts at plans: those that have ended, then those it was at when it was heard of last.
    pub fn all_plans(&self) -> Vec<PlanAttempt> {
        let mut all = self.plans.clone();
        if let (None, Some(live)) = (self.end, &self.live) {
            let open = live.planning.iter().map(|plan| plan.so_far(self.until()));
            let known = |open: &PlanAttempt| {
                let plans = self.plans.iter();
                plans.clone().any(|plan| {
                    (&plan.story, plan.attempt, plan.begun)
                        == (&open.story, open.attempt, open.begun)
                })
            };
            all.extend(open.filter(|open| !known(open)));
        }
        all
    }
}

impl LivePlan {
    /// The attempt as far as it is known at `at`.
    fn so_far(&self, at: f64) -> PlanAttempt {
        PlanAttempt {
            story: self.story.clone(),
            attempt: self.attempt,
            begun: self.begun,
            end: None,
            repairs: 0,
            tokens: 0,
            reason: None,
            ended: at,
        }
    }
}

impl Attempt {
    /// Seconds of its stages as the record of its shot has them, if it came so far.
    pub fn recorded_seconds(&self) -> Option<BTreeMap<Stage, f64>> {
        let mut seconds: BTreeMap<Stage, f64> = BTreeMap::new();
        // A shot in several passes has been in some stages more than once.
        for span in &self.stages {
            *seconds.entry(span.stage).or_default() += span.seconds;
        }
        if let Some(recorded) = self.recorded {
            seconds.insert(Stage::Commit, recorded);
        }
        let is_whole = Stage::ALL.iter().all(|stage| seconds.contains_key(stage));
        is_whole.then_some(seconds)
    }

    fn is(&self, other: &Self) -> bool {
        (&self.story, self.shot, self.attempt) == (&other.story, other.shot, other.attempt)
            && self.begun == other.begun
    }
}

impl LiveShot {
    /// An attempt that begins at `now`.
    fn begin(story: StoryId, shot: ShotId, attempt: u32, now: f64) -> Self {
        Self {
            story,
            shot,
            attempt,
            attempt_begun: now,
            stage: None,
            begun: now,
            waited: 0.0,
            step: 0,
            steps: 0,
            resumed_step: None,
            saved_step: None,
            saved_at: None,
            stages: Vec::new(),
            saved: Vec::new(),
        }
    }

    /// The attempt as far as it is known at `at`.
    fn so_far(&self, at: f64) -> Attempt {
        let mut stages = self.stages.clone();
        stages.extend(self.stage.map(|stage| StageSpan {
            stage,
            begun: self.begun,
            seconds: (at - self.begun).max(0.0),
            waited: self.waited,
        }));
        Attempt {
            story: self.story.clone(),
            shot: self.shot,
            attempt: self.attempt,
            begun: self.attempt_begun,
            end: None,
            resumed_step: self.resumed_step,
            stages,
            saved: self.saved.clone(),
            recorded: None,
            reason: None,
            ended: at,
        }
    }
}

/// A line of a journal.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    at: f64,
    #[serde(flatten)]
    entry: Entry,
}

/// What a line says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Own(Own),
    Incident(Incident),
}

/// What the journal itself notes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Own {
    Begun(ShiftStart),
    Loaded { seconds: f64 },
    Shot(Attempt),
    Plan(PlanAttempt),
    Ended { how: ShiftEnd },
}
