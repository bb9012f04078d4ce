//! Between the steps of denoising: when a shot that is being made is saved, and how it goes on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use storyloom_memory::Basis;
use storyloom_story::{ErrorClass, LoopState, ShotRequest};
use storyloom_telemetry::Event;

use super::Studio;
use crate::config::{CheckpointSettings, StopAt};
use crate::error::RunError;
use crate::run::engine::{SaveLoop, StepObserver};

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

/// Between two steps: reports, saves and stops.
pub(super) struct Steps<'a, E> {
    studio: &'a Studio<'a, E>,
    basis: Basis,
    /// When the shot was begun or saved last.
    saved: Instant,
    /// Why the loop was stopped, if not because somebody asked.
    trouble: Option<RunError>,
}

impl<'a, E> Steps<'a, E> {
    /// Before the first step of a shot that `basis` decides.
    pub(super) fn new(studio: &'a Studio<'a, E>, basis: Basis) -> Self {
        Self {
            studio,
            basis,
            saved: Instant::now(),
            trouble: None,
        }
    }

    /// Why the loop was stopped, if not because the engine failed.
    pub(super) fn end(self) -> Result<(), RunError> {
        self.trouble.map_or(Ok(()), Err)
    }

    /// The loop as it was saved, if it was and still fits.
    pub(super) fn resume(&self) -> Option<LoopState> {
        let ShotRequest { story, shot, .. } = &self.basis.request;
        let saved = self.studio.bank.saved_step(&self.basis);
        let (state, report) = match &saved {
            Ok(None) => return None,
            Ok(Some(state)) => {
                let (done, total) = (state.done, state.total);
                (
                    saved.clone().ok().flatten(),
                    Event::ShotResumed {
                        story,
                        shot: *shot,
                        done,
                        total,
                    },
                )
            }
            Err(reason) => (
                None,
                Event::CheckpointIgnored {
                    story,
                    shot: *shot,
                    reason,
                },
            ),
        };
        self.studio.reporter.report(&report);
        state
    }

    /// Saves the loop. Trouble that may pass costs only what a kill would cost now.
    fn save(&mut self, state: &SaveLoop) {
        let begun = Instant::now();
        let ShotRequest { story, shot, .. } = &self.basis.request;
        let saved = state().map_err(RunError::from).and_then(|state| {
            self.studio.bank.save_step(&self.basis, &state)?;
            Ok(state.done)
        });
        self.saved = Instant::now();
        match saved {
            Ok(done) => {
                let seconds = begun.elapsed().as_secs_f64();
                self.studio.checkpoints.note_cost(seconds);
                self.studio.reporter.report(&Event::CheckpointSaved {
                    story,
                    shot: *shot,
                    done,
                    seconds,
                });
            }
            Err(error) if error.class() == ErrorClass::Transient => {
                tracing::warn!(%error, %story, %shot, "the running shot was not saved");
            }
            Err(error) => self.trouble = Some(error),
        }
    }
}

impl<E> StepObserver for Steps<'_, E> {
    fn step_finished(&mut self, done: usize, total: usize, state: &SaveLoop) -> bool {
        let ShotRequest { story, shot, .. } = &self.basis.request;
        self.studio.reporter.report(&Event::StepFinished {
            story,
            shot: *shot,
            done,
            total,
        });
        let stop = self.studio.stop.asked() == Some(StopAt::Step);
        let due = done < total && self.studio.checkpoints.is_due(done, self.saved.elapsed());
        if stop || due {
            self.save(state);
        }
        if stop {
            // Also after the last step, since decoding may take longer than there is time.
            self.trouble.get_or_insert(RunError::Stopped);
        }
        self.trouble.is_none()
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
