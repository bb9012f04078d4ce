//! How far a run is, from its folder alone.

mod observed_state;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;
use storyloom_story::{Method, StoryId};
use storyloom_telemetry::shift::{Extent, Shift, Split, accounting};

pub use crate::folder::journals::shifts;
pub(crate) use observed_state::Hands;
pub use observed_state::{Looks, ObservedState};
pub use storyloom_telemetry::shift::now;

use crate::error::RunError;
use crate::folder::no_keyframes::NoKeyframes;
use crate::folder::records::readable_record;
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::folder::set_aside::marks;
use crate::folder::story_cost::StoryCost;

/// Stories or shots by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Asked for.
    pub total: usize,
    /// Finished.
    pub done: usize,
    /// Begun, and a program works on them.
    pub running: usize,
    /// Waiting for a program: not begun, or interrupted.
    pub pending: usize,
    /// Given up.
    pub failed: usize,
    /// Set aside so that nobody tries them again.
    pub quarantined: usize,
    /// Of the pending ones, those that were begun and that nobody works on any more. Of stories only.
    #[serde(skip_serializing_if = "is_nothing")]
    pub interrupted: usize,
    /// Of the failed ones, those that were set aside since something else is asked for than what was
    /// made of them. Of stories only.
    #[serde(skip_serializing_if = "is_nothing")]
    pub set_aside: usize,
}

fn is_nothing(count: &usize) -> bool {
    *count == 0
}

/// The status of a run; its JSON form is a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Stories by state.
    pub stories: Counts,
    /// Shots by state.
    pub shots: Counts,
    /// Seconds until everything is made at the pace so far; `None` before the first shot.
    pub eta_seconds: Option<f64>,
    /// Finished shots per hour of work.
    pub shots_per_hour: Option<f64>,
    /// Share of the time of all ranks that went into work that was kept; `None` before anything
    /// has run.
    pub goodput: Option<f64>,
    /// How far planning is; `None` for a run without briefs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plans: Option<Plans>,
    /// What the time of all ranks went into, in seconds: useful, wasted, load and idle add up to it.
    pub time: Split,
    /// Stories by state of every tenant; empty if no story has one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, Counts>,
    /// Stories by state of every method that makes some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub methods: BTreeMap<&'static str, Counts>,
    /// Finished stories that were to remember and kept no keyframe.
    #[serde(skip_serializing_if = "is_nothing")]
    pub without_keyframes: usize,
    /// Every story.
    #[serde(skip)]
    pub list: Vec<StoryStatus>,
}

/// How far the briefs of a run are planned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Plans {
    /// Briefs.
    pub total: usize,
    /// Briefs that have a plan.
    pub done: usize,
}

/// How far one story is.
#[derive(Debug, Clone, PartialEq)]
pub struct StoryStatus {
    /// The story.
    pub id: StoryId,
    /// Its state.
    pub state: StoryState,
    /// Whose it is.
    pub tenant: Option<String>,
    /// How its shots are conditioned; `None` where nothing but a mark is known of it.
    pub method: Option<Method>,
    /// Whether it was begun and nobody works on it any more.
    pub interrupted: bool,
    /// Why the last start has set it aside, if it has. What was made of it stays.
    pub set_aside: Option<String>,
    /// Shots asked for.
    pub shots: usize,
    /// Shots that exist.
    pub done: usize,
    /// Whether its brief has a plan; `None` for a story that came with its script.
    pub planned: Option<bool>,
    /// Why it has kept no keyframe, if it is finished and was to.
    pub no_keyframes: Option<NoKeyframes>,
}

/// Reads the status of the run in `folder`.
pub fn status(folder: &RunFolder) -> Result<Status, RunError> {
    let shifts = shifts(folder);
    let mut status = read_status(folder, &shifts)?;
    let moment = now();
    status.settle(folder, shifts.iter(), |shift| shift.goes_on(moment));
    Ok(status)
}

/// As [`status`], with the journals already read; what was begun counts as running until it is settled.
pub(crate) fn read_status<S: Borrow<Shift>>(
    folder: &RunFolder,
    shifts: &[S],
) -> Result<Status, RunError> {
    let run = folder.run_file()?;
    let mut status = Status::of_nothing(shifts);
    status.list.reserve(run.stories.len());
    let mut useful_seconds = 0.0;
    let measured = run
        .stories
        .par_iter()
        .map(|id| measure(folder, &folder.story_to_show(id)));
    for (story, work) in measured.collect::<Vec<_>>() {
        status.list.push(story);
        useful_seconds += work.useful;
    }
    status.mark(marks(folder)?);
    status.count();
    let done = status.shots.done as f64;
    if done > 0.0 && useful_seconds > 0.0 {
        let left = (status.shots.pending + status.shots.running) as f64;
        status.shots_per_hour = Some(done / useful_seconds * 3600.0);
        status.eta_seconds = Some(left * useful_seconds / done);
    }
    Ok(status)
}

/// How far a story is, and what it took so far.
pub(crate) fn measure(folder: &RunFolder, file: &StoryFile) -> (StoryStatus, StoryCost) {
    let (done, work) = match (&file.state, file.work) {
        // A finished story has noted what it cost; that its records are there is enough.
        (StoryState::Done, Some(work)) => (recorded(folder, file), work),
        _ => {
            let mut work = StoryCost::default();
            // Of ten thousand stories that nobody has taken, nothing else is to be looked for.
            let begun = folder.storage().is_taken(&folder.story(&file.id));
            let shots = file.shots().filter(|_| begun);
            let records = shots.filter_map(|(shot, _)| readable_record(folder, &file.id, shot));
            (records.inspect(|record| work.add(record)).count(), work)
        }
    };
    let story = StoryStatus {
        id: file.id.clone(),
        state: file.state.clone(),
        tenant: file.tenant.clone(),
        method: Some(folder.method_of(file)),
        interrupted: false,
        set_aside: None,
        shots: file.shot_count(),
        done,
        planned: file.brief.as_ref().map(|_| file.script.is_some()),
        no_keyframes: file.no_keyframes,
    };
    (story, work)
}

impl StoryStatus {
    /// A story that could not be read when it was first asked for.
    fn only_marked(id: StoryId, reason: String) -> Self {
        Self {
            id,
            state: StoryState::Pending,
            tenant: None,
            method: None,
            interrupted: false,
            set_aside: Some(reason),
            shots: 0,
            done: 0,
            planned: None,
            no_keyframes: None,
        }
    }

    /// Whether nothing else is known of it. Every other story has shots, or is known to have failed.
    fn is_only_marked(&self) -> bool {
        self.shots == 0 && self.state == StoryState::Pending
    }

    /// Where it stands; `Running` also if it was interrupted.
    pub fn observed_state(&self) -> ObservedState {
        ObservedState::of(&self.state, self.shots - self.done)
    }

    /// How it is shown to an operator.
    pub fn looks(&self) -> Looks {
        Looks::of(
            self.observed_state(),
            self.interrupted,
            self.set_aside.is_some(),
        )
    }

    /// Counts it.
    fn tally(&self, stories: &mut Counts, shots: &mut Counts) {
        self.looks().tally(self.shots, self.done, stories, shots);
    }
}

impl Status {
    /// A run that has no story yet, of which only the journals are known.
    pub(crate) fn of_nothing<S: Borrow<Shift>>(shifts: &[S]) -> Self {
        let time = accounting(shifts, now(), Extent::Everything).total();
        Self {
            stories: Counts::default(),
            shots: Counts::default(),
            eta_seconds: None,
            shots_per_hour: None,
            goodput: time.goodput(),
            plans: None,
            time,
            tenants: BTreeMap::new(),
            methods: BTreeMap::new(),
            without_keyframes: 0,
            list: Vec::new(),
        }
    }

    /// Finds out which of the begun stories nobody works on, and counts stories and shots of the list
    /// again. `works` says of a program whether it may go on with what it was at.
    pub(crate) fn settle<'a>(
        &mut self,
        folder: &RunFolder,
        shifts: impl Iterator<Item = &'a Shift>,
        works: impl Fn(&Shift) -> bool,
    ) {
        let hands = Hands::of(folder, shifts, works);
        for story in &mut self.list {
            story.interrupted = story.set_aside.is_none()
                && story.observed_state() == ObservedState::Running
                && !hands.have(&story.id);
        }
        self.count();
    }

    /// Notes which stories are set aside, and why; also those of which the run has nothing but the mark.
    pub(crate) fn mark(&mut self, mut marks: BTreeMap<StoryId, String>) {
        self.list.retain(|story| !story.is_only_marked());
        for story in &mut self.list {
            story.set_aside = marks.remove(&story.id);
        }
        let others = marks.into_iter();
        self.list
            .extend(others.map(|(id, reason)| StoryStatus::only_marked(id, reason)));
    }

    /// Counts the stories and shots of the list again.
    fn count(&mut self) {
        let (mut stories, mut shots) = (Counts::default(), Counts::default());
        self.tenants.clear();
        self.methods.clear();
        for story in &self.list {
            story.tally(&mut stories, &mut shots);
            if let Some(tenant) = &story.tenant {
                let counts = self.tenants.entry(tenant.clone()).or_default();
                story.tally(counts, &mut Counts::default());
            }
        }
        for (method, story) in self
            .list
            .iter()
            .filter_map(|story| Some((story.method?, story)))
        {
            let counts = self.methods.entry(method.name()).or_default();
            story.tally(counts, &mut Counts::default());
        }
        (self.stories, self.shots) = (stories, shots);
        let forgetful = self
            .list
            .iter()
            .filter(|story| story.no_keyframes.is_some());
        self.without_keyframes = forgetful.count();
        let planned: Vec<bool> = self.list.iter().filter_map(|story| story.planned).collect();
        self.plans = (!planned.is_empty()).then(|| Plans {
            total: planned.len(),
            done: planned.iter().filter(|done| **done).count(),
        });
    }
}

/// How many shots of a finished story have a record, by one listing instead of a look for each: if one is
/// gone, the story counts as unfinished, and the program that takes it looks by name.
fn recorded(folder: &RunFolder, file: &StoryFile) -> usize {
    let commits = folder.story(&file.id).join("commits");
    let names = folder.storage().list(&commits).unwrap_or_default();
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let shots = file.shots();
    shots
        .filter(|(shot, _)| names.contains(format!("{shot}.json").as_str()))
        .count()
}
