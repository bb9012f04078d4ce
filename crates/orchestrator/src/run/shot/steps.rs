//! Between the steps of denoising: when a shot that is being made is saved, and how it goes on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use storyloom_memory::Basis;
use storyloom_story::{ErrorClass, HostTensor, LoopState, PassName, ShotRequest};
use storyloom_telemetry::{Event, ShotEvent};

use super::{ShotContext, ShotPlan};
use crate::config::{CheckpointSettings, StopAt};
use crate::engine::{Pass, SaveLoop, StepObserver};
use crate::error::RunError;

/// Decides when a shot that is being made is saved.
#[derive(Debug)]
pub struct Checkpoints {
    settings: CheckpointSettings,
    /// How long the last save took, in seconds.
    cost: Mutex<f64>,
}

impl Checkpoints {
    /// Before the first save its cost is taken to be a quarter of a second.
    pub fn new(settings: CheckpointSettings) -> Self {
        Self {
            settings,
            cost: Mutex::new(0.25),
        }
    }

    /// How long a save takes, in seconds.
    fn cost(&self) -> f64 {
        *self.cost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_cost(&self, seconds: f64) {
        *self.cost.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
    }

    fn is_due(&self, done: usize, unsaved: Duration) -> bool {
        match self.settings {
            CheckpointSettings::Every(steps) => done.is_multiple_of(steps.max(1)),
            CheckpointSettings::Auto { uptime } => {
                let period = (2.0 * uptime.as_secs_f64() * self.cost()).sqrt();
                unsaved.as_secs_f64() >= period
            }
        }
    }
}

/// What the names begin with under which a saved step keeps the latents of earlier passes, beside the arrays of
/// its own loop.
const LATENTS_OF: &str = "latents.";

/// The name under which a saved step keeps the latents of an earlier pass.
fn latents_of(pass: &PassName) -> String {
    format!("{LATENTS_OF}{pass}")
}

/// The latents of passes that were finished when the shot was saved in a later one.
pub(super) fn finished_passes(
    context: &ShotContext,
    plan: &ShotPlan,
    passes: &[PassName],
) -> BTreeMap<PassName, HostTensor> {
    // What is saved of the only pass is no finished one.
    let [_, _, ..] = passes else {
        return BTreeMap::new();
    };
    let Ok(terms) = context.terms.of(plan.request.method) else {
        return BTreeMap::new();
    };
    let basis = plan.basis(terms.engine.fingerprint.clone());
    // Why a saved step does not fit is told by the pass that would go on with it.
    let Ok(Some(mut saved)) = context.bank.saved_step(&basis) else {
        return BTreeMap::new();
    };
    let earlier = passes.iter().take_while(|name| **name != saved.pass);
    earlier
        .filter_map(|name| Some((name.clone(), saved.arrays.remove(&latents_of(name))?)))
        .collect()
}

/// Between two steps: reports, saves and stops.
pub(super) struct Steps<'a> {
    context: &'a ShotContext<'a>,
    basis: Basis,
    pass: Pass<'a>,
    /// When the shot was begun or saved last.
    saved: Instant,
    /// Why the loop was stopped, if not because somebody asked.
    error: Option<RunError>,
}

impl<'a> Steps<'a> {
    /// Before the first step of a pass of the shot that `basis` decides.
    pub(super) fn new(context: &'a ShotContext<'a>, basis: Basis, pass: Pass<'a>) -> Self {
        Self {
            context,
            basis,
            pass,
            saved: Instant::now(),
            error: None,
        }
    }

    /// Why the loop was stopped, if not because the engine failed.
    pub(super) fn end(self) -> Result<(), RunError> {
        self.error.map_or(Ok(()), Err)
    }

    /// The loop as it was saved, if it was and still fits, with no more than its own arrays.
    pub(super) fn resume(&self) -> Option<LoopState> {
        let mut state = self.saved_loop()?;
        state.arrays.retain(|name, _| !name.starts_with(LATENTS_OF));
        Some(state)
    }

    fn saved_loop(&self) -> Option<LoopState> {
        let ShotRequest { story, shot, .. } = &self.basis.request;
        let saved = self.context.bank.saved_step(&self.basis);
        let (state, report) = match &saved {
            Ok(None) => return None,
            // Of an earlier pass, which is over, or of one that is still to come.
            Ok(Some(state)) if state.pass != *self.pass.name => return None,
            Ok(Some(state)) => {
                let (done, total) = (state.done, state.total);
                (
                    saved.clone().ok().flatten(),
                    Event::Shot {
                        story,
                        shot: *shot,
                        event: ShotEvent::Resumed { done, total },
                    },
                )
            }
            Err(reason) => (
                None,
                Event::Shot {
                    story,
                    shot: *shot,
                    event: ShotEvent::CheckpointIgnored { reason },
                },
            ),
        };
        self.context.reporter.report(&report);
        state
    }

    /// The state of the loop with what goes on with it needs of the passes before.
    fn with_passes(&self, mut state: LoopState) -> LoopState {
        let earlier = self.pass.before.iter();
        state
            .arrays
            .extend(earlier.map(|made| (latents_of(&made.name), made.latents.clone())));
        LoopState {
            pass: self.pass.name.clone(),
            ..state
        }
    }

    /// Saves the loop. A transient error costs only what a kill would cost now.
    fn save(&mut self, state: &SaveLoop) {
        let begun = Instant::now();
        let ShotRequest { story, shot, .. } = &self.basis.request;
        let saved = state().map_err(RunError::from).and_then(|state| {
            let state = self.with_passes(state);
            self.context.bank.save_step(&self.basis, &state)?;
            Ok(state.done)
        });
        self.saved = Instant::now();
        match saved {
            Ok(done) => {
                let seconds = begun.elapsed().as_secs_f64();
                self.context.checkpoints.note_cost(seconds);
                self.context.reporter.report(&Event::Shot {
                    story,
                    shot: *shot,
                    event: ShotEvent::CheckpointSaved { done, seconds },
                });
            }
            Err(error) if error.class() == ErrorClass::Transient => {
                tracing::warn!(%error, %story, %shot, "the running shot was not saved");
            }
            Err(error) => self.error = Some(error),
        }
    }
}

impl StepObserver for Steps<'_> {
    fn step_finished(&mut self, done: usize, total: usize, state: &SaveLoop) -> bool {
        let ShotRequest { story, shot, .. } = &self.basis.request;
        self.context.reporter.report(&Event::Shot {
            story,
            shot: *shot,
            event: ShotEvent::StepFinished { done, total },
        });
        let stop = self.context.stop.asked() == Some(StopAt::Step);
        let due = done < total && self.context.checkpoints.is_due(done, self.saved.elapsed());
        if stop || due {
            self.save(state);
        }
        if stop {
            // Also after the last step, since decoding may take longer than there is time.
            self.error.get_or_insert(RunError::Stopped);
        }
        self.error.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saving_pays_off_when_the_loss_is_larger() {
        let hour = Duration::from_secs(3600);
        let auto = Checkpoints::new(CheckpointSettings::Auto { uptime: hour });
        auto.note_cost(2.0);
        // sqrt(2 * 3600 * 2) = 120 seconds.
        assert!(!auto.is_due(7, Duration::from_secs(119)));
        assert!(auto.is_due(7, Duration::from_secs(121)));
        let every = Checkpoints::new(CheckpointSettings::Every(3));
        let due: Vec<usize> = (1..8).filter(|&n| every.is_due(n, hour)).collect();
        assert_eq!(due, [3, 6]);
    }
}
