//! Briefs in hand: they are planned together, and each plan is written when it is there.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storyloom_story::{Brief, ErrorClass, Outlook, PlanError, PlanRequest, PlannedScript, Seed};
use storyloom_telemetry::{AttemptEnd, Event};

use super::plan_queue::{Held, PAUSE, PlanQueue};
use super::{PlanRecord, StoryPlanner, check_script, commit_plan};
use crate::error::RunError;
use crate::folder::run_folder::{StoryFile, StoryState};
use crate::run::lease::Lease;
use crate::run::quarantine;
use crate::run::run_queue::Unplanned;

/// Pauses before the same attempt is made again after a transient error.
const RETRY_DELAYS: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];

/// Briefs that are being planned together.
struct Batch<'a> {
    begun: Instant,
    size: usize,
    /// Those that nothing has come of yet.
    held: Mutex<Vec<Option<Held<'a>>>>,
    came: Mutex<Came>,
}

/// What has come of a batch so far.
struct Came {
    plans: usize,
    result: Result<(), RunError>,
}

impl Came {
    /// An error of the run tells more than a planner that is away.
    fn add(&mut self, settled: Result<usize, RunError>) {
        let is_away = |error: &RunError| error.class() == ErrorClass::ServiceAway;
        match settled {
            Ok(plans) => self.plans += plans,
            Err(error) => match &self.result {
                Err(before) if !is_away(before) || is_away(&error) => {}
                _ => self.result = Err(error),
            },
        }
    }
}

impl PlanQueue<'_> {
    /// Has a batch planned, and sees to what comes of each as soon as it is known; says how many plans
    /// there are now. All are seen to, also after an error that ends the run.
    pub(super) fn plan(
        &self,
        planner: &dyn StoryPlanner,
        held: Vec<Held>,
    ) -> Result<usize, RunError> {
        let briefs: Vec<(Brief, Seed, u32)> = held.iter().map(|held| self.request(held)).collect();
        let requests: Vec<PlanRequest> = briefs
            .iter()
            .map(|(brief, seed, attempt)| PlanRequest {
                brief,
                seed: *seed,
                attempt: *attempt,
            })
            .collect();
        for request in &requests {
            self.reporter.report(&Event::PlanBegun {
                story: &request.brief.id,
                attempt: request.attempt,
            });
        }
        let batch = Batch {
            begun: Instant::now(),
            size: requests.len(),
            held: Mutex::new(held.into_iter().map(Some).collect()),
            came: Mutex::new(Came {
                plans: 0,
                result: Ok(()),
            }),
        };
        let settle = |place: usize, answer| {
            let taken = lock(&batch.held).get_mut(place).and_then(Option::take);
            if let (Some(held), Some(request)) = (taken, requests.get(place)) {
                let settled = self.settle(planner, (&batch, request), held, answer);
                lock(&batch.came).add(settled);
            }
        };
        planner.plan(&requests, &settle);
        for place in 0..requests.len() {
            let message = "the planner gave fewer answers than it was asked for";
            settle(place, Err(PlanError::new(ErrorClass::Run, message)));
        }
        let Came { plans, result } = batch
            .came
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        result.map(|()| plans)
    }

    /// What a planner is asked for a brief in hand.
    fn request(&self, held: &Held) -> (Brief, Seed, u32) {
        let Held { brief, file, .. } = held;
        let asked = file.brief.as_deref().cloned();
        let seed = file.seed.unwrap_or(self.config.seed);
        (
            // A story that is unplanned has one.
            asked.unwrap_or_else(|| Brief::new(file.id.clone())),
            Seed::derive_plan(seed, &file.id, brief.attempt),
            brief.attempt,
        )
    }

    /// Sees to what came of a brief; says how many plans there are now.
    fn settle(
        &self,
        planner: &dyn StoryPlanner,
        (batch, request): (&Batch, &PlanRequest),
        held: Held,
        answer: Result<PlannedScript, PlanError>,
    ) -> Result<usize, RunError> {
        let seconds = batch.begun.elapsed().as_secs_f64();
        let sound = answer.and_then(|planned| {
            check_script(&planned.script)?;
            Ok(planned)
        });
        match sound {
            Ok(planned) => {
                let took = (seconds, batch.size);
                let record = PlanRecord::new(request, planner.describe(), planned, took);
                self.commit(held, record, seconds)?;
                Ok(1)
            }
            Err(error) => {
                self.report_failure(&held.brief, &error, seconds);
                self.try_again(held, error)?;
                Ok(0)
            }
        }
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
        self.queue().planned(rank, brief.id, missing);
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
                self.queue().put_back(rank, brief);
                return Err(error.into());
            }
            ErrorClass::Interrupted => {
                self.leave(&brief.id, lease)?;
                self.queue().put_back(rank, brief);
            }
            ErrorClass::Transient => match RETRY_DELAYS.get(brief.retries) {
                Some(pause) => {
                    brief.retries += 1;
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
                brief.retries = 0;
                self.leave(&brief.id, lease)?;
                self.queue().put_back(rank, brief);
            }
            ErrorClass::Shot => self.give_up(file, lease, &error)?,
        }
        Ok(())
    }

    /// For now after a transient error, else until somebody lets it back.
    fn give_up(
        &self,
        mut file: StoryFile,
        lease: Lease,
        error: &PlanError,
    ) -> Result<(), RunError> {
        let (story, shot) = (file.id.clone(), None);
        let reason = format!("plan: {error}");
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
            quarantine::write_text(self.folder, &file.id, &error.raw)?;
        }
        lease.check()?;
        self.folder.write_story(&file)?;
        self.leave(&story, lease)?;
        let mut queue = self.queue();
        queue.brief_is_over();
        match for_now {
            true => queue.outcome.failed += 1,
            false => queue.outcome.quarantined += 1,
        }
        let count = queue.outcome.quarantined;
        drop(queue);
        quarantine::check_limit(self.folder, self.config, count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
