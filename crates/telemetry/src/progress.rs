//! Progress as plain lines: one per shot at most, and one every few seconds otherwise.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::{Event, Reporter};

/// Writes progress lines to stderr through `tracing`.
#[derive(Debug)]
pub struct PlainProgress {
    state: Mutex<State>,
    every: Duration,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    last_line: Instant,
    shots: usize,
    done_before: usize,
    done: usize,
}

impl PlainProgress {
    /// A line about steps no more often than `every`.
    pub fn new(every: Duration) -> Self {
        let now = Instant::now();
        let state = State {
            begun: now,
            last_line: now,
            shots: 0,
            done_before: 0,
            done: 0,
        };
        Self {
            state: Mutex::new(state),
            every,
        }
    }
}

impl State {
    /// Time left, from the work completed in this run.
    fn eta(&self) -> Option<Duration> {
        let made = self.done - self.done_before;
        let left = self.shots.saturating_sub(self.done);
        let made = u32::try_from(made).ok().filter(|&made| made > 0)?;
        Some(self.begun.elapsed() / made * u32::try_from(left).ok()?)
    }

    fn summary(&self) -> String {
        let made = self.done - self.done_before;
        let pace = self.eta().map_or_else(String::new, |eta| {
            let hours = self.begun.elapsed().as_secs_f64() / 3600.0;
            let rate = made as f64 / hours.max(f64::MIN_POSITIVE);
            format!(", {rate:.0} an hour, {} left", human(eta))
        });
        format!("{}/{} shots{pace}", self.done, self.shots)
    }
}

impl Reporter for PlainProgress {
    fn report(&self, event: &Event) {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::RunStarted {
                stories,
                shots,
                shots_done,
            } => {
                state.begun = Instant::now();
                (state.shots, state.done_before, state.done) = (*shots, *shots_done, *shots_done);
                tracing::info!("{stories} stories, {shots} shots, {shots_done} already made");
            }
            Event::AttemptBegun { .. }
            | Event::StageBegun { .. }
            | Event::AttemptEnded { .. }
            | Event::StoryTaken { .. }
            | Event::StoryLeft { .. }
            | Event::IndexOpened { .. } => {}
            Event::CheckpointSaved {
                story,
                shot,
                done,
                seconds,
            } => {
                tracing::debug!(%story, %shot, seconds, "saved after step {done}");
            }
            Event::StageFinished {
                story,
                shot,
                stage,
                seconds,
                waited,
            } => {
                tracing::debug!(%story, %shot, %stage, seconds, waited, "stage finished");
            }
            Event::StepFinished {
                story,
                shot,
                done,
                total,
            } => {
                if state.last_line.elapsed() >= self.every {
                    state.last_line = Instant::now();
                    let summary = state.summary();
                    tracing::info!(%story, %shot, "step {done}/{total}; {summary}");
                }
            }
            Event::ShotCommitted {
                story,
                shot,
                seconds,
                ..
            } => {
                state.done += 1;
                state.last_line = Instant::now();
                tracing::info!(%story, %shot, "made in {seconds:.1} s; {}", state.summary());
            }
            Event::AttemptFailed {
                story,
                shot,
                attempt,
                reason,
            } => {
                tracing::warn!(%story, %shot, attempt, "{reason}");
            }
            Event::ShotResumed {
                story,
                shot,
                done,
                total,
            } => tracing::info!(%story, %shot, "goes on after step {done} of {total}"),
            Event::CheckpointIgnored {
                story,
                shot,
                reason,
            } => tracing::warn!(%story, %shot, "what was saved of it is not used: {reason}"),
            Event::LeaseTaken { story, from } => {
                tracing::warn!(%story, from, "taken over from a worker that is dead");
            }
            Event::StoryQuarantined { story, reason } => {
                tracing::error!(%story, "in quarantine: {reason}");
            }
            Event::StoryFinished { story } => tracing::info!(%story, "story finished"),
            Event::StoryFailed { story, reason } => tracing::error!(%story, "given up: {reason}"),
            Event::IndexRebuilt { moved_to } => tracing::warn!(
                moved_to = %moved_to.display(),
                "the memory index did not open; it is rebuilt from the commit records"
            ),
            Event::RunStopped { shots_done } => {
                tracing::warn!("stopped early, {shots_done} shots are saved; run the same again");
            }
        }
    }
}

fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_comes_from_this_run() {
        let mut state = State {
            begun: Instant::now() - Duration::from_secs(60),
            last_line: Instant::now(),
            shots: 10,
            done_before: 4,
            done: 4,
        };
        assert_eq!(state.eta(), None);
        state.done = 7;
        assert_eq!(state.eta().unwrap().as_secs(), 60);
    }

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [(7, "7 s"), (61, "1 min 1 s"), (7320, "2 h 2 min")] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }
}
