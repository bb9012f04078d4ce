//! Briefs planned before any run, for a manifest: each is settled alone and kept on a [`Shelf`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use storyloom_story::{Brief, ErrorClass, Outlook, PlanError, PlanRequest, PlannedScript, Seed};

use super::StoryPlanner;
use super::shelf::{Kept, Outcome, Recipe, Shelf};
use crate::config::StopFlag;
use crate::error::RunError;

/// What briefs are planned with.
pub struct Beforehand<'a> {
    /// Makes the scripts.
    pub planner: &'a dyn StoryPlanner,
    /// What is planned so far.
    pub shelf: &'a Shelf,
    /// Seed of briefs that have none of their own.
    pub seed: u64,
    /// Attempts at a brief.
    pub attempts: u32,
    /// SHA-256 of pictures of products, by their paths.
    pub pictures: &'a BTreeMap<String, String>,
    /// Whether briefs are tried again that could not be planned.
    pub retry: bool,
    /// Asks to stop.
    pub stop: &'a StopFlag,
    /// Briefs that are settled.
    pub done: &'a AtomicUsize,
}

/// What the threads that plan share.
struct Shared {
    next: AtomicUsize,
    /// Nothing more is begun.
    halted: AtomicBool,
    /// Why not.
    error: Mutex<Option<RunError>>,
    records: Vec<Mutex<Option<Kept>>>,
}

impl Beforehand<'_> {
    /// Settles every brief; the records are in the order of the briefs.
    ///
    /// # Errors
    /// [`RunError::Stopped`]; a planner that nobody can use; the disk. What is planned so far is kept.
    pub fn plan_all(&self, briefs: &[&Brief]) -> Result<Vec<Kept>, RunError> {
        let shared = Shared {
            next: AtomicUsize::new(0),
            halted: AtomicBool::new(false),
            error: Mutex::new(None),
            records: briefs.iter().map(|_| Mutex::new(None)).collect(),
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.planner.capacity().min(briefs.len()))
                .map(|_| scope.spawn(|| self.plan_some(briefs, &shared)))
                .collect();
            for thread in threads {
                // If it panicked it has said so, and its brief has no record.
                let _ = thread.join();
            }
        });
        if let Some(error) = lock(&shared.error).take() {
            return Err(error);
        }
        let records: Option<Vec<Kept>> = shared
            .records
            .into_iter()
            .map(|record| record.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        records.ok_or(RunError::Stopped)
    }

    /// One thread's part. The first error is the one that is told.
    fn plan_some(&self, briefs: &[&Brief], shared: &Shared) {
        while !shared.halted.load(Ordering::Relaxed) && self.stop.asked().is_none() {
            let position = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(brief) = briefs.get(position) else {
                return;
            };
            match self.settle(brief) {
                Ok(record) => {
                    *lock(&shared.records[position]) = Some(record);
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    shared.halted.store(true, Ordering::Relaxed);
                    lock(&shared.error).get_or_insert(error);
                }
            }
        }
    }

    /// Finds the record of a brief, or plans it and writes one.
    fn settle(&self, brief: &Brief) -> Result<Kept, RunError> {
        let picture = brief.product_image.as_ref();
        let recipe = Recipe {
            planner: self.planner.describe().recipe,
            run_seed: brief.seed.unwrap_or(self.seed),
            picture_sha256: picture.and_then(|path| self.pictures.get(path).cloned()),
        };
        let mut first = 0;
        if let Some(record) = self.shelf.find(brief, &recipe, self.planner) {
            match &record.outcome {
                Outcome::Quarantined { .. } if self.retry => first = record.attempt + 1,
                _ => return Ok(record),
            }
        }
        let record = self.plan(brief, recipe, first)?;
        self.shelf.store(&record)?;
        Ok(record)
    }

    /// Tries a brief as often as is allowed and as another seed may help.
    fn plan(&self, brief: &Brief, recipe: Recipe, first: u32) -> Result<Kept, RunError> {
        let mut attempt = first;
        loop {
            let seed = Seed::derive_plan(recipe.run_seed, &brief.id, attempt);
            let request = PlanRequest {
                brief,
                seed,
                attempt,
            };
            let record =
                |outcome| Kept::new(brief.clone(), recipe.clone(), attempt, seed.0, outcome);
            let error = match self.ask(request) {
                Ok(planned) => return Ok(record(Outcome::Planned(Box::new(planned)))),
                Err(error) => error,
            };
            match error.class {
                ErrorClass::Shot => {
                    tracing::warn!(story = %brief.id, attempt, "{error}");
                    let is_last = attempt + 1 >= first + self.attempts;
                    if is_last || error.outlook == Outlook::Hopeless {
                        return Ok(record(Outcome::Quarantined {
                            reason: error.message,
                            raw: error.raw,
                        }));
                    }
                }
                ErrorClass::Interrupted => return Err(RunError::Stopped),
                _ => {
                    let message = format!("{}: {error}; what is planned so far is saved", brief.id);
                    return Err(PlanError { message, ..error }.into());
                }
            }
            attempt += 1;
        }
    }

    fn ask(&self, request: PlanRequest) -> Result<PlannedScript, PlanError> {
        let answer = Mutex::new(None);
        self.planner.plan(&[request], &|_, planned| {
            lock(&answer).get_or_insert(planned);
        });
        let answer = answer.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer.unwrap_or_else(|| {
            let message = "the planner ended without an answer";
            Err(PlanError::new(ErrorClass::Run, message))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
