//! The writer of a journal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use storyloom_story::{ShotId, Stage, StoryId};

use super::ledger::Ledger;
use super::moment::Clock;
use super::{
    Attempt, Entry, Incident, Line, Live, LivePlan, LiveShot, Own, PlanAttempt, Saved, ShiftEnd,
    ShiftStart, Split, StageSpan, shifts_folder,
};
use crate::{AttemptEnd, Event, Reporter, ShotEvent};

/// Writes the journal of a shift.
///
/// Whatever goes wrong with its files, the run goes on: the first error is a warning, and what
/// could not be written is missing from the journal. Nothing is synced to disk: a journal explains
/// a run, it does not prove it.
#[derive(Debug)]
pub struct Journal {
    inner: Arc<Inner>,
    pulse: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    begun: f64,
    live_file: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
    /// Held by the one who rewrites the live file.
    rewriting: Mutex<()>,
}

#[derive(Debug)]
struct State {
    lines: Option<File>,
    open: Vec<LiveShot>,
    planning: Vec<LivePlan>,
    shots_done: usize,
    loading: bool,
    ended: bool,
    warned: bool,
    ledger: Ledger,
}

impl Journal {
    /// Begins the journal of the shift `id` in the run folder `run`, for a program that began at
    /// `begun` (seconds since 1970, see [`process_start`](super::process_start)). The live file is
    /// rewritten once every `pulse`, and when a sampling loop was saved.
    pub fn begin(run: &Path, id: &str, start: ShiftStart, begun: f64, pulse: Duration) -> Self {
        let folder = shifts_folder(run);
        let opened = fs::create_dir_all(&folder).and_then(|()| {
            let mut options = OpenOptions::new();
            options.create(true).append(true);
            options.open(folder.join(format!("{id}.jsonl")))
        });
        let mut state = State {
            lines: None,
            open: Vec::new(),
            planning: Vec::new(),
            shots_done: 0,
            loading: true,
            ended: false,
            warned: false,
            ledger: Ledger::new(begun, start.ranks),
        };
        match opened {
            Ok(file) => state.lines = Some(file),
            Err(error) => state.warn(&error),
        }
        state.write(begun, Entry::Own(Own::Begun(start)));
        let inner = Arc::new(Inner {
            clock: Clock::new(),
            begun,
            live_file: folder.join(format!("{id}.live.json")),
            state: Mutex::new(state),
            wake: Condvar::new(),
            rewriting: Mutex::default(),
        });
        inner.write_live();
        let beating = inner.clone();
        let pulse = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || beating.beat(pulse));
        let pulse = pulse.inspect_err(|error| inner.lock().warn(error)).ok();
        Self { inner, pulse }
    }

    /// The shift ends. Nothing is written after it.
    pub fn end(&self, how: ShiftEnd) {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        if state.ended {
            return;
        }
        state.write(now, Entry::Own(Own::Ended { how }));
        state.ended = true;
        drop(state);
        self.inner.wake.notify_all();
        self.inner.write_live();
    }

    /// Where the time of the replica went so far, without attempts that go on and what ran beside
    /// them.
    pub fn settled(&self) -> Split {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        state.settle(now);
        state.ledger.split()
    }

    /// What the program is at.
    pub fn live(&self) -> Live {
        self.inner.live()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // An error on the way out, or a panic: nobody said how it ended.
        self.end(ShiftEnd::Failed);
        if let Some(pulse) = self.pulse.take() {
            // If it panicked it has said so.
            let _ = pulse.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rewrites the live file until the shift ends.
    fn beat(&self, pulse: Duration) {
        let mut state = self.lock();
        while !state.ended {
            let waited = self.wake.wait_timeout(state, pulse);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.ended {
                drop(state);
                self.write_live();
                state = self.lock();
            }
        }
    }

    fn live(&self) -> Live {
        let state = self.lock();
        Live {
            at: self.clock.now(),
            shots_done_here: state.shots_done,
            now: state.open.clone(),
            planning: state.planning.clone(),
            load: state.loading,
        }
    }

    fn write_live(&self) {
        let rewriting = &self.rewriting;
        let _alone = rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live();
        let temporary = self.live_file.with_extension("unfinished");
        // Plain data into memory: this does not fail.
        let bytes = serde_json::to_vec(&live).unwrap_or_default();
        let written =
            fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &self.live_file));
        if let Err(error) = written {
            self.lock().warn(&error);
        }
    }
}

impl State {
    fn warn(&mut self, error: &io::Error) {
        if !self.warned {
            self.warned = true;
            tracing::warn!(%error, "the journal of this program cannot be written; the run goes on");
        }
    }

    fn write(&mut self, at: f64, entry: Entry) {
        if self.ended {
            return;
        }
        let Some(file) = &mut self.lines else { return };
        let line = serde_json::to_vec(&Line { at, entry }).map(|mut line| {
            line.push(b'\n');
            line
        });
        // In one call, so that a kill leaves no half of it.
        let written = line
            .map_err(io::Error::from)
            .and_then(|line| file.write_all(&line));
        if let Err(error) = written {
            self.warn(&error);
        }
    }

    fn incident(&mut self, at: f64, incident: Incident) {
        self.write(at, Entry::Incident(incident));
    }

    /// The attempt at a shot that goes on.
    fn attempt(&mut self, story: &StoryId, shot: ShotId) -> Option<&mut LiveShot> {
        let mut open = self.open.iter_mut();
        open.find(|open| open.shot == shot && &open.story == story)
    }

    fn settle(&mut self, now: f64) {
        let open = self.open.iter().map(|open| open.attempt_begun);
        let open = open.chain(self.planning.iter().map(|plan| plan.begun));
        self.ledger.settle(open.fold(now, f64::min));
    }

    fn begin_attempt(&mut self, now: f64, story: &StoryId, shot: ShotId, attempt: u32) {
        self.open
            .retain(|open| open.shot != shot || &open.story != story);
        self.open
            .push(LiveShot::begin(story.clone(), shot, attempt, now));
    }

    fn end_attempt(
        &mut self,
        now: f64,
        (story, shot): (&StoryId, ShotId),
        end: AttemptEnd,
        reason: Option<&str>,
    ) {
        let mine = |open: &LiveShot| open.shot == shot && &open.story == story;
        let Some(position) = self.open.iter().position(mine) else {
            return;
        };
        let mut attempt = Attempt {
            end: Some(end),
            reason: reason.map(str::to_owned),
            ..self.open.remove(position).so_far(now)
        };
        // The record itself is written after the stage has reported.
        if let (AttemptEnd::Committed, Some(commit)) = (end, attempt.stages.last_mut()) {
            attempt.recorded = Some(commit.seconds);
            commit.seconds = now - commit.begun;
        }
        self.shots_done += usize::from(end == AttemptEnd::Committed);
        self.ledger.add(&attempt);
        self.settle(now);
        self.write(now, Entry::Own(Own::Shot(attempt)));
    }
}

impl State {
    fn begin_plan(&mut self, now: f64, story: &StoryId, attempt: u32) {
        self.planning.retain(|plan| &plan.story != story);
        self.planning.push(LivePlan {
            story: story.clone(),
            attempt,
            begun: now,
        });
    }

    fn end_plan(&mut self, now: f64, ended: PlanAttempt) {
        let mut planning = self.planning.iter();
        let Some(position) = planning.position(|plan| plan.story == ended.story) else {
            return;
        };
        let attempt = PlanAttempt {
            begun: self.planning.remove(position).begun,
            ended: now,
            ..ended
        };
        self.ledger.add_plan(&attempt);
        self.settle(now);
        self.write(now, Entry::Own(Own::Plan(attempt)));
    }
}

impl LiveShot {
    fn begin_stage(&mut self, now: f64, stage: Stage, waited: f64) {
        (self.stage, self.begun, self.waited) = (Some(stage), now, waited);
    }

    fn end_stage(&mut self, now: f64, stage: Stage, seconds: f64, waited: f64) {
        self.stages.push(StageSpan {
            stage,
            begun: Clock::before(now, seconds),
            seconds,
            waited,
        });
        (self.stage, self.begun) = (None, now);
    }

    fn save(&mut self, at: f64, step: usize) {
        self.saved.push(Saved { step, at });
        (self.saved_step, self.saved_at) = (Some(step), Some(at));
    }
}

impl Reporter for Journal {
    fn report(&self, event: &Event) {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        match event {
            Event::RunStarted { .. } => {
                state.loading = false;
                state.ledger.loaded(now);
                let seconds = now - self.inner.begun;
                state.write(now, Entry::Own(Own::Loaded { seconds }));
            }
            Event::Shot { story, shot, event } => state.follow(now, (story, *shot), event),
            Event::PlanBegun { story, attempt } => state.begin_plan(now, story, *attempt),
            Event::PlanEnded {
                story,
                attempt,
                end,
                repairs,
                tokens,
                reason,
                ..
            } => state.end_plan(
                now,
                PlanAttempt {
                    story: (*story).clone(),
                    attempt: *attempt,
                    begun: now,
                    end: Some(*end),
                    repairs: *repairs,
                    tokens: *tokens,
                    reason: reason.map(str::to_owned),
                    ended: now,
                },
            ),
            _ => {
                if let Some(incident) = incident(event) {
                    state.incident(now, incident);
                }
            }
        }
        drop(state);
        let is_saved = |event: &ShotEvent| matches!(event, ShotEvent::CheckpointSaved { .. });
        if matches!(event, Event::Shot { event, .. } if is_saved(event)) {
            // Others may go on from it, so it is noted before a kill can lose it.
            self.inner.write_live();
        }
    }
}

impl State {
    /// Takes note of an attempt at a shot: that it begins, goes on, or ends.
    fn follow(&mut self, now: f64, (story, shot): (&StoryId, ShotId), event: &ShotEvent) {
        match event {
            ShotEvent::AttemptBegun { attempt } => {
                return self.begin_attempt(now, story, shot, *attempt);
            }
            ShotEvent::AttemptEnded { end, reason, .. } => {
                return self.end_attempt(now, (story, shot), *end, *reason);
            }
            ShotEvent::CheckpointIgnored { reason } => {
                let incident = Incident::CheckpointIgnored {
                    story: story.clone(),
                    shot,
                    reason: (*reason).to_owned(),
                };
                return self.incident(now, incident);
            }
            _ => {}
        }
        let Some(open) = self.attempt(story, shot) else {
            return;
        };
        match event {
            ShotEvent::StageBegun { stage, waited } => open.begin_stage(now, *stage, *waited),
            ShotEvent::StageFinished {
                stage,
                seconds,
                waited,
            } => open.end_stage(now, *stage, *seconds, *waited),
            ShotEvent::StepFinished { done, total } => (open.step, open.steps) = (*done, *total),
            ShotEvent::Resumed { done, total } => {
                open.resumed_step = Some(*done);
                (open.step, open.steps) = (*done, *total);
            }
            ShotEvent::CheckpointSaved { done, .. } => open.save(now, *done),
            _ => {}
        }
    }
}

fn incident(event: &Event) -> Option<Incident> {
    Some(match event {
        Event::LeaseTaken { story, from } => Incident::LeaseTaken {
            story: (*story).clone(),
            from: (*from).to_owned(),
        },
        Event::StoryQuarantined { story, reason } => Incident::Quarantined {
            story: (*story).clone(),
            reason: (*reason).to_owned(),
        },
        Event::StoryFinished { story } => Incident::StoryFinished {
            story: (*story).clone(),
        },
        Event::StoryFailed { story, reason } => Incident::StoryFailed {
            story: (*story).clone(),
            reason: (*reason).to_owned(),
        },
        Event::IndexRebuilt { moved_to } => Incident::IndexRebuilt {
            moved_to: moved_to.to_path_buf(),
        },
        _ => return None,
    })
}
