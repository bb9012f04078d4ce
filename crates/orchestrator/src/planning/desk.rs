//! Who plans the briefs of a run, when: ahead of the shots, but not far.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storyloom_story::{ErrorClass, Line, Outlook, Seed, StoryId};
use storyloom_telemetry::{AttemptEnd, Event, Reporter};

use super::{PlanError, PlanRecord, PlanRequest, StoryPlanner, check_script, commit_plan};
use crate::admission::Asked;
use crate::config::{RunConfig, StopAt, StopFlag};
use crate::error::RunError;
use crate::inputs::open_pictures;
use crate::lease::{Claim, Lease, Leases};
use crate::quarantine;
use crate::run_folder::{RunFolder, StoryFile, StoryState};
use crate::set_aside::{changed, is_marked, set_aside};
use crate::work::{Briefs, MOMENT, Rank, Unplanned, Work};

/// Pauses before the same attempt is made again after trouble that may pass.
const PATIENCE: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
/// Time between two looks at a brief that others plan.
const PAUSE: Duration = Duration::from_millis(250);

/// Plans the briefs of a run, or looks whether others have, and hands them to those who make
/// stories.
pub(crate) struct Desk<'a> {
    pub(crate) folder: &'a RunFolder,
    /// What is asked for, in the order in which it is ranked.
    pub(crate) lines: &'a [Line],
    pub(crate) leases: &'a Leases,
    pub(crate) config: &'a RunConfig,
    /// `None` where others plan.
    pub(crate) planner: Option<&'a dyn StoryPlanner>,
    pub(crate) reporter: &'a dyn Reporter,
    pub(crate) stop: &'a StopFlag,
    pub(crate) work: &'a Mutex<Work>,
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
struct Held<'a> {
    rank: Rank,
    brief: Unplanned,
    file: StoryFile,
    lease: Lease<'a>,
}

impl<'a> Desk<'a> {
    fn work(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while holding it.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut work = self.work();
        let left = work.end_planning(error.into());
        drop(work);
        tracing::error!(
            "no more briefs are planned, {left} are left for another start; stories that have a \
             script are made before the run ends"
        );
    }

    /// The run cannot go on.
    fn end_run(&self, error: RunError) {
        // Those who make stories save what they are at.
        self.stop.set(StopAt::Step);
        let mut work = self.work();
        if work.error.is_none() || matches!(work.error, Some(RunError::Stopped)) {
            work.error = Some(error);
        }
    }

    /// Sees to the briefs that come next.
    ///
    /// # Errors
    /// What ends the run.
    pub(crate) fn step(&self) -> Result<Step, RunError> {
        // Whoever makes stories says when the run ends; a request to drain may be withdrawn.
        if self.stop.asked().is_some() && !self.work().is_ending() {
            return Ok(Step::Idle);
        }
        let now = Instant::now();
        let most = match self.planner {
            Some(planner) => planner.capacity().max(1),
            None => self.ahead,
        };
        let window = match self.planner {
            Some(_) => usize::MAX,
            // Whoever plans begins with the same ones.
            None => 4 * self.ahead,
        };
        let taken = self.work().briefs(most, self.ahead, window, now);
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
            self.plan(planner, held)?;
        }
        let stories = self.work().ahead();
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
                    let mut work = self.work();
                    work.outcome.failed += 1;
                    work.brief_is_over();
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
        let mut work = self.work();
        if let StoryState::Quarantined { .. } = file.state {
            work.outcome.quarantined += 1;
            work.brief_is_over();
            return Ok(None);
        }
        if file.script.is_some() {
            work.planned(rank, file.id.clone(), file.shot_count());
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
        let mut work = self.work();
        work.outcome.set_aside += 1;
        work.brief_is_over();
    }

    fn later(&self, rank: Rank, brief: Unplanned, pause: Duration) {
        let not_before = Some(Instant::now() + pause);
        let brief = Unplanned {
            not_before,
            ..brief
        };
        self.work().put_back(rank, brief);
    }

    fn leave(&self, story: &StoryId, lease: Lease) -> Result<(), RunError> {
        lease.release()?;
        self.reporter.report(&Event::StoryLeft { story });
        Ok(())
    }

    /// Has a batch planned, and sees to what came of each.
    fn plan(&self, planner: &dyn StoryPlanner, held: Vec<Held>) -> Result<(), RunError> {
        let requests: Vec<PlanRequest> = held
            .iter()
            .filter_map(|held| {
                let brief = held.file.brief.as_deref()?;
                let seed = held.file.seed.unwrap_or(self.config.seed);
                let attempt = held.brief.attempt;
                Some(PlanRequest {
                    brief,
                    seed: Seed::derive_plan(seed, &brief.id, attempt),
                    attempt,
                })
            })
            .collect();
        for request in &requests {
            self.reporter.report(&Event::PlanBegun {
                story: &request.brief.id,
                attempt: request.attempt,
            });
        }
        let begun = Instant::now();
        let mut answers = planner.plan(&requests).into_iter();
        let seconds = begun.elapsed().as_secs_f64();
        let mut records = Vec::with_capacity(requests.len());
        for request in &requests {
            let answer = answers.next().unwrap_or_else(|| {
                let message = "the planner gave fewer answers than it was asked for";
                Err(PlanError::new(ErrorClass::Run, message))
            });
            let sound = answer.and_then(|planned| {
                check_script(&planned.script)?;
                Ok(planned)
            });
            records.push(sound.map(|planned| {
                PlanRecord::new(
                    request,
                    planner.describe(),
                    planned,
                    (seconds, requests.len()),
                )
            }));
        }
        // All are seen to, also after one that ends the run.
        let mut result = Ok(());
        for (held, record) in held.into_iter().zip(records) {
            let settled = match record {
                Ok(record) => self.commit(held, record, seconds),
                Err(error) => {
                    self.report_failure(&held.brief, &error, seconds);
                    self.try_again(held, error)
                }
            };
            result = result.and(settled);
        }
        result
    }

    fn report_failure(&self, brief: &Unplanned, error: &PlanError, seconds: f64) {
        let (end, reason) = match error.class {
            ErrorClass::Interrupted => (AttemptEnd::Stopped, None),
            _ => (AttemptEnd::Failed, Some(error.message.as_str())),
        };
        self.report_end(brief, seconds, (0, 0), end, reason);
    }

    fn report_end(
        &self,
        brief: &Unplanned,
        seconds: f64,
        (repairs, tokens): (u32, u64),
        end: AttemptEnd,
        reason: Option<&str>,
    ) {
        self.reporter.report(&Event::PlanEnded {
            story: &brief.id,
            attempt: brief.attempt,
            end,
            seconds,
            repairs,
            tokens,
            reason,
        });
    }

    /// Writes a plan down, and says that it is there when it is.
    fn commit(&self, held: Held, record: PlanRecord, seconds: f64) -> Result<(), RunError> {
        let Held {
            rank,
            brief,
            mut file,
            lease,
        } = held;
        let written = (record.repairs, record.tokens);
        let report_end = |end, reason: Option<&str>| {
            self.report_end(&brief, seconds, written, end, reason);
        };
        if lease.check().is_err() {
            // Another program has taken it over, and plans it.
            report_end(AttemptEnd::Stopped, None);
            self.leave(&brief.id, lease)?;
            self.later(rank, brief, PAUSE);
            return Ok(());
        }
        let record = commit_plan(self.folder, record).inspect_err(|error| {
            report_end(AttemptEnd::Failed, Some(&error.to_string()));
        })?;
        report_end(AttemptEnd::Committed, None);
        if file.state != StoryState::Pending {
            file.state = StoryState::Pending;
            self.folder.write_story(&file)?;
        }
        self.leave(&brief.id, lease)?;
        let missing = record.script.shot_count();
        self.work().planned(rank, brief.id, missing);
        Ok(())
    }

    /// After an attempt that came to nothing.
    fn try_again(&self, held: Held, error: PlanError) -> Result<(), RunError> {
        let Held {
            rank,
            mut brief,
            file,
            lease,
        } = held;
        match error.class {
            ErrorClass::Run | ErrorClass::ServiceAway => {
                self.leave(&brief.id, lease)?;
                return Err(error.into());
            }
            ErrorClass::Interrupted => {
                self.leave(&brief.id, lease)?;
                self.work().put_back(rank, brief);
            }
            ErrorClass::Transient => match PATIENCE.get(brief.troubles) {
                Some(pause) => {
                    brief.troubles += 1;
                    self.leave(&brief.id, lease)?;
                    self.later(rank, brief, *pause);
                }
                None => self.give_up(file, lease, &error)?,
            },
            ErrorClass::Shot
                if error.outlook == Outlook::Open
                    && brief.attempt + 1 < self.config.planning.attempts =>
            {
                brief.attempt += 1;
                brief.troubles = 0;
                self.leave(&brief.id, lease)?;
                self.work().put_back(rank, brief);
            }
            ErrorClass::Shot => self.give_up(file, lease, &error)?,
        }
        Ok(())
    }

    /// For now after trouble that may pass, else until somebody lets it back.
    fn give_up(
        &self,
        mut file: StoryFile,
        lease: Lease,
        error: &PlanError,
    ) -> Result<(), RunError> {
        let (story, shot) = (file.id.clone(), None);
        let reason = error.to_string();
        let for_now = error.class == ErrorClass::Transient;
        let (event, state) = match for_now {
            true => (
                Event::StoryFailed {
                    story: &story,
                    reason: &reason,
                },
                StoryState::Failed {
                    shot,
                    reason: reason.clone(),
                },
            ),
            false => (
                Event::StoryQuarantined {
                    story: &story,
                    reason: &reason,
                },
                StoryState::Quarantined {
                    shot,
                    reason: reason.clone(),
                },
            ),
        };
        self.reporter.report(&event);
        file.state = state;
        if !for_now {
            quarantine::write_reproducer(self.folder, self.config, &file)?;
            quarantine::write_text(self.folder, &file.id, &error.text)?;
        }
        lease.check()?;
        self.folder.write_story(&file)?;
        self.leave(&story, lease)?;
        let mut work = self.work();
        work.brief_is_over();
        match for_now {
            true => work.outcome.failed += 1,
            false => work.outcome.quarantined += 1,
        }
        let count = work.outcome.quarantined;
        drop(work);
        quarantine::check_limit(self.folder, self.config, count)
    }
}
