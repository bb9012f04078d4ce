//! A run as it goes on, seen from its folder: what every program is at, how fast, and until when.

mod eta;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;
use storyloom_story::{ShotId, Stage, StoryId};
use storyloom_telemetry::liveness::Life;
use storyloom_telemetry::shift::{Follower, Incident, LiveShot, Shift};

pub use eta::{Pace, Range, pace};

use crate::error::RunError;
use crate::folder::journals::follower;
use crate::folder::run_folder::{RunFolder, StoryState};
use crate::folder::set_aside::marks;
use crate::view::status::{Status, StoryStatus, measure, now, read_status};

/// Share of the time that may go into reading the whole run folder again: one in this number.
const SHARE: u32 = 200;
/// Time between two such readings at least.
const PAUSE: Duration = Duration::from_secs(1);

/// A run at one moment; its JSON form is that of `storyloom status --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// Stories and shots by state, throughput, goodput.
    #[serde(flatten)]
    pub status: Status,
    /// The time left in seconds, from and to; `None` if nobody works or nothing is known yet.
    pub eta_range_seconds: Option<[f64; 2]>,
    /// Programs that work on the run, and those that were not heard of while they did.
    pub workers: Vec<WorkerView>,
}

impl View {
    /// Whether the run has its stories: before, its first programs load what they need.
    pub fn is_begun(&self) -> bool {
        self.status.stories.total > 0
    }

    /// The programs that were heard of a moment ago.
    pub fn alive(&self) -> impl Iterator<Item = &WorkerView> + Clone {
        alive(&self.workers)
    }
}

fn alive(workers: &[WorkerView]) -> impl Iterator<Item = &WorkerView> + Clone {
    let workers = workers.iter();
    workers.filter(|worker| !matches!(worker.state, WorkerState::Stale | WorkerState::Dead))
}

/// A program that makes or plans stories: the leader of a replica, or a rank that only plans.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    /// What the leases call it.
    pub id: String,
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Its rank in its world.
    pub rank: usize,
    /// Ranks of its replica, itself included.
    pub ranks: usize,
    /// What computes.
    pub device: String,
    /// Whether it only plans stories and makes no shots.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plans_only: bool,
    /// What it does.
    pub state: WorkerState,
    /// Seconds since it was heard of.
    pub silent_seconds: f64,
    /// Shots that it has made.
    pub shots_done: usize,
    /// Shots that it is making.
    pub now: Vec<ShotView>,
    /// Stories that it is planning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub planning: Vec<PlanView>,
}

/// A story that is being planned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// The story.
    pub story: StoryId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// Seconds since the attempt began.
    pub seconds: f64,
}

/// What a program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It loads what it needs.
    Loading,
    /// It makes stories, or looks for some.
    Working,
    /// It was not heard of for a while: it hangs, or is gone.
    Stale,
    /// Its process is gone, or it was silent for so long that others take its stories over.
    Dead,
}

/// A shot that is being made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShotView {
    /// The story.
    pub story: StoryId,
    /// The shot.
    pub shot: ShotId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// The stage that works; `None` while it waits for its turn.
    pub stage: Option<Stage>,
    /// Denoise steps that are done; 0 before the first.
    pub step: usize,
    /// Denoise steps in all; 0 before the first.
    pub steps: usize,
    /// Seconds since the attempt began.
    pub seconds: f64,
}

/// When a program was heard of last.
#[derive(Debug, Clone, Copy)]
struct Beat {
    /// What its own clock said.
    theirs: f64,
    /// What ours said when that changed; `None` if it never did while we looked.
    ours: Option<f64>,
}

/// What was heard of a shift up to now.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    attempts: usize,
    plans: usize,
    incidents: usize,
}

/// Looks at a run again and again. What has not changed is not read again.
#[derive(Debug)]
pub struct Watcher {
    folder: RunFolder,
    follower: Follower,
    heard: HashMap<String, Heard>,
    beats: HashMap<String, Beat>,
    status: Option<Status>,
    /// When the whole folder was read last, and how long it took the last two times.
    read: Option<(Instant, [Duration; 2])>,
}

impl Watcher {
    /// Watches the run in `folder`. Nothing is read yet.
    pub fn new(folder: RunFolder) -> Self {
        Self {
            follower: follower(&folder),
            folder,
            heard: HashMap::new(),
            beats: HashMap::new(),
            status: None,
            read: None,
        }
    }

    /// The run as it is now.
    ///
    /// # Errors
    /// The folder is no run, or it cannot be read.
    pub fn look(&mut self) -> Result<View, RunError> {
        self.look_at(now())
    }

    /// The journals as of the last look.
    pub fn shifts(&self) -> Vec<&Shift> {
        self.follower.shifts().collect()
    }

    /// As [`Watcher::look`], at `now` by our clock, in seconds since 1970.
    fn look_at(&mut self, now: f64) -> Result<View, RunError> {
        if let Err(error) = self.follower.look() {
            tracing::warn!(%error, "the journals of the run cannot be read");
        }
        let touched = self.touched();
        let due = self
            .read
            // One hiccup of the file system is no reason to look away for minutes.
            .is_none_or(|(begun, [one, two])| begun.elapsed() >= PAUSE.max(one.min(two) * SHARE));
        let mut status = match self.status.take() {
            Some(status) if !due => self.recount(status, &touched)?,
            _ => self.read_all()?,
        };
        self.listen(now);
        let works = |shift: &Shift| self.life(shift, now).goes_on();
        status.settle(&self.folder, self.follower.shifts(), works);
        let workers = self.workers(&status, now);
        let range = self.pace_into(&mut status, &workers, now);
        let view = View {
            status: status.clone(),
            eta_range_seconds: range.map(|range| [range.low, range.high]),
            workers,
        };
        self.status = Some(status);
        Ok(view)
    }

    fn read_all(&mut self) -> Result<Status, RunError> {
        if self.is_loading() {
            return Ok(Status::of_nothing(&self.shifts()));
        }
        let begun = Instant::now();
        let status = read_status(&self.folder, &self.shifts())?;
        let took = begun.elapsed();
        let before = self.read.map_or(took, |(_, [last, _])| last);
        self.read = Some((begun, [took, before]));
        Ok(status)
    }

    /// Whether there is no run yet, but a program that is about to begin it.
    fn is_loading(&self) -> bool {
        let run = self.folder.root().join("run.json");
        !self.folder.storage().exists(&run)
            && self.follower.shifts().any(|shift| shift.goes_on(now()))
    }

    /// Stories of which something was heard since the last look.
    fn touched(&mut self) -> BTreeSet<StoryId> {
        let mut touched = BTreeSet::new();
        for shift in self.follower.shifts() {
            let heard = self.heard.entry(shift.id.clone()).or_default();
            let attempts = shift.attempts[heard.attempts..].iter();
            touched.extend(attempts.map(|attempt| attempt.story.clone()));
            let plans = shift.plans[heard.plans..].iter();
            touched.extend(plans.map(|plan| plan.story.clone()));
            let incidents = shift.incidents[heard.incidents..].iter();
            touched.extend(
                incidents
                    .filter_map(|(_, incident)| story_of(incident))
                    .cloned(),
            );
            *heard = Heard {
                attempts: shift.attempts.len(),
                plans: shift.plans.len(),
                incidents: shift.incidents.len(),
            };
        }
        touched
    }

    /// Reads these stories again, and those that somebody has begun.
    fn recount(&self, mut status: Status, touched: &BTreeSet<StoryId>) -> Result<Status, RunError> {
        let shifts = self.follower.shifts().filter(|shift| shift.end.is_none());
        let begun: BTreeSet<&StoryId> = shifts.flat_map(live).map(|shot| &shot.story).collect();
        for story in &mut status.list {
            let is_due = match story.state {
                StoryState::Done => false,
                StoryState::Pending if begun.contains(&story.id) => true,
                _ => touched.contains(&story.id),
            };
            if is_due {
                *story = measure(&self.folder, &self.folder.story_to_show(&story.id)).0;
            }
        }
        status.mark(marks(&self.folder)?);
        Ok(status)
    }

    /// Notes who was heard of.
    fn listen(&mut self, now: f64) {
        for shift in self.follower.shifts() {
            let theirs = shift.last_seen;
            match self.beats.get_mut(&shift.id) {
                None => {
                    let beat = Beat { theirs, ours: None };
                    self.beats.insert(shift.id.clone(), beat);
                }
                Some(beat) if beat.theirs != theirs => {
                    *beat = Beat {
                        theirs,
                        ours: Some(now),
                    };
                }
                Some(_) => {}
            }
        }
    }

    /// Seconds since a program was heard of. Its clock is compared with ours only until we have
    /// seen it change.
    fn silence(&self, shift: &Shift, now: f64) -> f64 {
        let beat = self.beats.get(&shift.id);
        let last = beat.and_then(|beat| beat.ours).unwrap_or(shift.last_seen);
        (now - last).max(0.0)
    }

    fn life(&self, shift: &Shift, now: f64) -> Life {
        shift.life(self.silence(shift, now))
    }

    fn is_heard(&self, shift: &Shift, now: f64) -> bool {
        self.life(shift, now) == Life::Alive
    }

    fn workers(&self, status: &Status, now: f64) -> Vec<WorkerView> {
        let over: BTreeSet<&StoryId> = status
            .list
            .iter()
            .filter(|story| !matches!(story.state, StoryState::Running | StoryState::Pending))
            .map(|story| &story.id)
            .collect();
        let open = self.follower.shifts().filter(|shift| shift.end.is_none());
        let (heard, silent): (Vec<_>, Vec<_>) = open.partition(|shift| self.is_heard(shift, now));
        let in_hands: BTreeSet<(&StoryId, ShotId)> = heard
            .iter()
            .flat_map(|shift| live(shift).map(|shot| (&shot.story, shot.shot)))
            .collect();
        let mut workers: Vec<_> = heard
            .iter()
            .map(|shift| self.worker(shift, now, live(shift).collect()))
            .collect();
        // Of those who may be gone, what nobody has taken over.
        workers.extend(silent.iter().filter_map(|shift| {
            let left = live(shift).filter(|shot| {
                let name = (&shot.story, shot.shot);
                !over.contains(&shot.story) && !in_hands.contains(&name) && !self.is_committed(shot)
            });
            let left: Vec<_> = left.collect();
            (!left.is_empty()).then(|| self.worker(shift, now, left))
        }));
        workers
            .sort_by(|one, two| (&one.host, one.pid, &one.id).cmp(&(&two.host, two.pid, &two.id)));
        workers
    }

    /// Whether a shot exists, as far as journals tell.
    fn is_committed(&self, shot: &LiveShot) -> bool {
        let mut committed = self.follower.shifts().flat_map(Shift::committed);
        committed.any(|attempt| (&attempt.story, attempt.shot) == (&shot.story, shot.shot))
    }

    fn worker(&self, shift: &Shift, now: f64, shots: Vec<&LiveShot>) -> WorkerView {
        let silence = self.silence(shift, now);
        let live = shift.live.as_ref();
        // What they say of their moments counts from their own last sign of life.
        let theirs = live.map_or(shift.last_seen, |live| live.at);
        WorkerView {
            id: shift.id.clone(),
            host: shift.start.host.clone(),
            pid: shift.start.pid,
            rank: shift.start.rank,
            ranks: shift.start.ranks,
            device: shift.start.device.clone(),
            plans_only: shift.start.plans_only,
            state: match (shift.life(silence), shift.loaded) {
                (Life::Silent, _) => WorkerState::Stale,
                (Life::Dead, _) => WorkerState::Dead,
                (_, None) => WorkerState::Loading,
                (_, Some(_)) => WorkerState::Working,
            },
            silent_seconds: silence,
            shots_done: live.map_or(0, |live| live.shots_done_here),
            now: shots
                .into_iter()
                .map(|shot| shot_view(shot, theirs))
                .collect(),
            planning: live
                .iter()
                .flat_map(|live| &live.planning)
                .map(|plan| PlanView {
                    story: plan.story.clone(),
                    attempt: plan.attempt,
                    seconds: (theirs - plan.begun).max(0.0),
                })
                .collect(),
        }
    }

    /// Fills throughput and time left in, as far as journals tell them.
    fn pace_into(&self, status: &mut Status, workers: &[WorkerView], now: f64) -> Option<Range> {
        let until = |shift: &Shift| match self.is_heard(shift, now) {
            true => now,
            false => shift.until(),
        };
        let engines = |shift: &&Shift| !shift.start.plans_only;
        let shifts: Vec<&Shift> = self.follower.shifts().filter(engines).collect();
        let pace = pace(shifts.iter().copied(), until, now)?;
        let replicas = alive(workers).filter(|worker| !worker.plans_only).count();
        status.shots_per_hour = Some(pace.per_replica * replicas.max(1) as f64 * 3600.0);
        let range = pace.time_left(&chains(status, workers, pace.elapsed), replicas)?;
        status.eta_seconds = Some(range.middle());
        Some(range)
    }
}

/// The shots left of every story that is not over; of a shot that is being made, the part that is
/// left of `elapsed` seconds.
fn chains(status: &Status, workers: &[WorkerView], elapsed: f64) -> Vec<f64> {
    let mut begun: BTreeMap<&StoryId, f64> = BTreeMap::new();
    for shot in alive(workers).flat_map(|worker| &worker.now) {
        // Those that take longer than others still have something left.
        let part = (shot.seconds / elapsed).min(0.95);
        begun.insert(&shot.story, part);
    }
    let list = status.list.iter();
    let is_left = |story: &&StoryStatus| {
        story.set_aside.is_none()
            && matches!(story.state, StoryState::Pending | StoryState::Running)
    };
    list.filter(is_left)
        .map(|story| {
            let left = story.shots.saturating_sub(story.done) as f64;
            (left - begun.get(&story.id).copied().unwrap_or(0.0)).max(0.0)
        })
        .collect()
}

fn live(shift: &Shift) -> impl Iterator<Item = &LiveShot> {
    shift.live.iter().flat_map(|live| &live.now)
}

fn shot_view(shot: &LiveShot, at: f64) -> ShotView {
    ShotView {
        story: shot.story.clone(),
        shot: shot.shot,
        attempt: shot.attempt,
        stage: shot.stage,
        step: shot.step,
        steps: shot.steps,
        seconds: (at - shot.attempt_begun).max(0.0),
    }
}

fn story_of(incident: &Incident) -> Option<&StoryId> {
    match incident {
        Incident::LeaseTaken { story, .. }
        | Incident::CheckpointIgnored { story, .. }
        | Incident::Quarantined { story, .. }
        | Incident::StoryFinished { story }
        | Incident::StoryFailed { story, .. } => Some(story),
        Incident::IndexRebuilt { .. } => None,
    }
}

#[cfg(test)]
mod tests;
