//! Who plans the briefs of a run, when: ahead of the shots, but not far.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storyloom_story::{ErrorClass, Line, PlanError, StoryId};
use storyloom_telemetry::{Event, Reporter};

use super::{StoryPlanner, away};
use crate::config::{RunConfig, StopAt, StopFlag};
use crate::error::RunError;
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::folder::set_aside::{changed, is_marked, set_aside};
use crate::run::admission::Asked;
use crate::run::inputs::open_pictures;
use crate::run::lease::{Claim, Lease, Leases};
use crate::run::run_queue::{Briefs, MOMENT, Rank, RunQueue, Unplanned};

/// Time between two looks at a brief that others plan.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

/// Plans the briefs of a run, or looks whether others have, and hands them to those who make
/// stories.
pub(crate) struct PlanQueue<'a> {
    pub(crate) folder: &'a RunFolder,
    /// What is asked for, in the order in which it is ranked.
    pub(crate) lines: &'a [Line],
    pub(crate) leases: &'a Leases,
    pub(crate) config: &'a RunConfig,
    /// `None` where others plan.
    pub(crate) planner: Option<&'a dyn StoryPlanner>,
    pub(crate) reporter: &'a dyn Reporter,
    pub(crate) stop: &'a StopFlag,
    pub(crate) queue: &'a Mutex<RunQueue>,
    /// Planned stories that may wait to be made.
    pub(crate) ahead: usize,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was planned, or at least seen to.
    Taken,
    /// There is nothing to do for now.
    Idle,
    /// Every brief is planned or given up.
    Over,
}

/// A brief in hand.
pub(super) struct Held<'a> {
    pub(super) rank: Rank,
    pub(super) brief: Unplanned,
    pub(super) file: StoryFile,
    pub(super) lease: Lease<'a>,
}

impl<'a> PlanQueue<'a> {
    pub(super) fn queue(&self) -> MutexGuard<'_, RunQueue> {
        // Nothing panics while holding it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works until every brief is planned or given up, or the run ends.
    pub(crate) fn run(&self) {
        loop {
            match self.step() {
                Ok(Step::Over) => return,
                Ok(Step::Taken) => {}
                Ok(Step::Idle) => std::thread::sleep(MOMENT),
                Err(RunError::Plan(error)) => return self.end_planning(error),
                Err(error) => return self.end_run(error),
            }
        }
    }

    /// Nothing more can be planned. Stories that have their scripts are made all the same, and the
    /// run ends with the error after them.
    fn end_planning(&self, error: PlanError) {
        let mut queue = self.queue();
        let message = format!(
            "{}; {}",
            error.message,
            away::what_is_left(&queue.unplanned())
        );
        let error = PlanError { message, ..error };
        tracing::error!("plan: {error}; stories that have a script are made before the run ends");
        queue.end_planning(error.into());
    }

    /// The planner cannot be reached. As long as anything else is to be made it is asked again after a
    /// while.
    ///
    /// # Errors
    /// Nothing else is.
    fn is_away(&self, error: PlanError) -> Result<(), RunError> {
        let mut queue = self.queue();
        let Some(pause) = queue.planner_is_away(Instant::now()) else {
            return Err(error.into());
        };
        let (tries, others) = (queue.tries(), queue.others_make);
        drop(queue);
        tracing::warn!(
            "plan: {error}; asked again in {} s, stories that have a script are made meanwhile",
            pause.as_secs()
        );
        match others {
            true => away::note(self.folder, &error.message, tries),
            false => Ok(()),
        }
    }

    /// The planner has planned something.
    fn is_back(&self) -> Result<(), RunError> {
        let mut queue = self.queue();
        let was_away = queue.planner_is_back();
        let others = queue.others_make;
        drop(queue);
        match was_away && others {
            true => away::forget(self.folder),
            false => Ok(()),
        }
    }

    /// What those who plan say to those who only wait, when nothing else is to be made.
    ///
    /// # Errors
    /// They cannot reach the planner, and have tried since.
    fn hear(&self) -> Result<(), RunError> {
        let mut queue = self.queue();
        if !queue.is_alone() {
            queue.heard = None;
            return Ok(());
        }
        drop(queue);
        let Some(told) = away::told(self.folder)? else {
            return Ok(());
        };
        match self.queue().hears_again(told.tries) {
            true => Err(PlanError::new(ErrorClass::ServiceAway, told.reason).into()),
            false => Ok(()),
        }
    }

    /// The run cannot go on.
    fn end_run(&self, error: RunError) {
        // Those who make stories save what they are at.
        self.stop.set(StopAt::Step);
        let mut queue = self.queue();
        if queue.error.is_none() || matches!(queue.error, Some(RunError::Stopped)) {
            queue.error = Some(error);
        }
    }

    /// Sees to the briefs that come next.
    ///
    /// # Errors
    /// What ends the run.
    pub(crate) fn step(&self) -> Result<Step, RunError> {
        // A program that makes stories says when the run ends; a request to drain may be withdrawn.
        if self.stop.asked().is_some() && !self.queue().is_ending() {
            return Ok(Step::Idle);
        }
        if self.planner.is_none() {
            self.hear()?;
        }
        let now = Instant::now();
        let most = match self.planner {
            Some(planner) => planner.capacity().max(1),
            None => self.ahead,
        };
        let window = match self.planner {
            Some(_) => usize::MAX,
            // Every program that plans begins with the same ones.
            None => 4 * self.ahead,
        };
        let taken = self.queue().briefs(most, self.ahead, window, now);
        let taken = match taken {
            Briefs::Over => return Ok(Step::Over),
            Briefs::Wait => return Ok(Step::Idle),
            Briefs::Take(taken) => taken,
        };
        let mut held = Vec::with_capacity(taken.len());
        for (rank, brief) in taken {
            held.extend(self.look(rank, brief)?);
        }
        if let (Some(planner), false) = (self.planner, held.is_empty()) {
            match self.plan(planner, held) {
                Err(RunError::Plan(error)) if error.class == ErrorClass::ServiceAway => {
                    self.is_away(error)?;
                }
                Ok(0) => {}
                Ok(_) => self.is_back()?,
                Err(error) => return Err(error),
            }
        }
        let stories = self.queue().ahead();
        self.reporter.report(&Event::PlansAhead { stories });
        Ok(Step::Taken)
    }

    /// Looks how far a brief is; takes it in hand if it is ours to plan.
    fn look(&self, rank: Rank, brief: Unplanned) -> Result<Option<Held<'a>>, RunError> {
        let line = &self.lines[rank.place()];
        let Some(file) = self.still_unplanned(rank, self.folder.asked(line)?)? else {
            return Ok(None);
        };
        if self.planner.is_none() {
            match file.state {
                // By those who plan.
                StoryState::Failed { .. } => {
                    let mut queue = self.queue();
                    queue.outcome.failed += 1;
                    queue.brief_is_over();
                }
                // By those who plan as well, in this start: they have let all others in first.
                _ if is_marked(self.folder, &brief.id) => self.is_set_aside(),
                _ => self.later(rank, brief, PAUSE),
            }
            return Ok(None);
        }
        let Claim::Held { lease, taken_from } = self.leases.claim(&brief.id)? else {
            self.later(rank, brief, PAUSE);
            return Ok(None);
        };
        let story = &brief.id;
        self.reporter.report(&Event::StoryTaken { story });
        if let Some(from) = &taken_from {
            self.reporter.report(&Event::LeaseTaken { story, from });
        }
        // Again: its last holder may have planned it.
        let file = self.still_unplanned(rank, self.folder.take_on(line)?)?;
        match file {
            Some(file) if !self.has_its_picture(&file)? => {
                self.leave(story, lease)?;
                Ok(None)
            }
            Some(file) => Ok(Some(Held {
                rank,
                brief,
                file,
                lease,
            })),
            None => {
                self.leave(story, lease)?;
                Ok(None)
            }
        }
    }

    /// The file of a brief without a plan. One that has a plan or is given up is handed on.
    fn still_unplanned(&self, rank: Rank, asked: Asked) -> Result<Option<StoryFile>, RunError> {
        if let Asked::Changed { file, what } = &asked {
            let reason = changed(self.folder, &file.id, what);
            set_aside(self.folder, self.reporter, &file.id, &reason)?;
            self.is_set_aside();
            return Ok(None);
        }
        let file = asked.into_file();
        let mut queue = self.queue();
        if let StoryState::Quarantined { .. } = file.state {
            queue.outcome.quarantined += 1;
            queue.brief_is_over();
            return Ok(None);
        }
        if file.script.is_some() {
            queue.planned(rank, file.id.clone(), file.shot_count());
            return Ok(None);
        }
        Ok(Some(file))
    }

    /// Whether the picture of a brief can be used. The story is set aside if it cannot: no planner could
    /// look at it.
    fn has_its_picture(&self, file: &StoryFile) -> Result<bool, RunError> {
        match open_pictures(self.config, file) {
            Ok(_) => Ok(true),
            Err(error @ RunError::Input { .. }) => {
                set_aside(self.folder, self.reporter, &file.id, &error.to_string())?;
                self.is_set_aside();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn is_set_aside(&self) {
        let mut queue = self.queue();
        queue.outcome.set_aside += 1;
        queue.brief_is_over();
    }

    pub(super) fn later(&self, rank: Rank, brief: Unplanned, pause: Duration) {
        let not_before = Some(Instant::now() + pause);
        let brief = Unplanned {
            not_before,
            ..brief
        };
        self.queue().put_back(rank, brief);
    }

    pub(super) fn leave(&self, story: &StoryId, lease: Lease) -> Result<(), RunError> {
        lease.release()?;
        self.reporter.report(&Event::StoryLeft { story });
        Ok(())
    }
}
