//! Figures of one replica, from the events of its leader.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::{CounterVec, GaugeVec, HistogramVec};
use storyloom_story::{ShotId, Stage, StoryId};

use super::catalogue as c;
use super::families::{Families, Result};
use super::labels::{AttemptEnd, CheckpointAction, LabelValue};
use super::run::{raise_split, set};
use crate::shift::{Live, Split};
use crate::{Event, Reporter, ShotEvent};

/// What a replica is, for its labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// Version of the program.
    pub version: String,
    /// Which replica of its world, from 0.
    pub replica: usize,
    /// The option `method`.
    pub method: String,
    /// The option `engine`.
    pub engine: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Ranks of the replica.
    pub ranks: usize,
}

/// The metrics of one replica.
#[derive(Debug)]
pub(super) struct ReplicaFigures {
    loaded: GaugeVec,
    draining: GaugeVec,
    last_progress: GaugeVec,
    stage_time: HistogramVec,
    stage_wait: HistogramVec,
    shots_in_stage: GaugeVec,
    step_time: HistogramVec,
    shot_time: HistogramVec,
    attempts: CounterVec,
    plans: CounterVec,
    plan_time: HistogramVec,
    plan_tokens: CounterVec,
    plans_ahead: GaugeVec,
    plan_wait: CounterVec,
    stories_done: CounterVec,
    stories_failed: CounterVec,
    stories_quarantined: CounterVec,
    time: CounterVec,
    checkpoints: CounterVec,
    unsaved: GaugeVec,
    leases: GaugeVec,
    takeovers: CounterVec,
    keyframes: GaugeVec,
    rebuilds: CounterVec,
    device: String,
    /// When the last step of each sampling loop ended, or the loop began.
    steps: Mutex<HashMap<(StoryId, ShotId), Instant>>,
}

impl ReplicaFigures {
    pub(super) fn new(families: &mut Families, facts: &ReplicaFacts) -> Result<Self> {
        let build = families.gauge(&c::BUILD_INFO)?;
        set(&build, &[&facts.version], 1.0)?;
        let info = families.gauge(&c::REPLICA_INFO)?;
        let replica = facts.replica.to_string();
        let labels = [&replica, &facts.method, &facts.engine, &facts.device];
        set(&info, &labels.map(String::as_str), 1.0)?;
        set(&families.gauge(&c::RANKS)?, &[], facts.ranks as f64)?;
        let figures = Self {
            loaded: families.gauge(&c::LOADED)?,
            draining: families.gauge(&c::DRAINING)?,
            last_progress: families.gauge(&c::LAST_PROGRESS)?,
            stage_time: families.histogram(&c::STAGE_TIME)?,
            stage_wait: families.histogram(&c::STAGE_WAIT)?,
            shots_in_stage: families.gauge(&c::SHOTS_IN_STAGE)?,
            step_time: families.histogram(&c::STEP_TIME)?,
            shot_time: families.histogram(&c::SHOT_TIME)?,
            attempts: families.counter(&c::ATTEMPTS)?,
            plans: families.counter(&c::PLANS)?,
            plan_time: families.histogram(&c::PLAN_TIME)?,
            plan_tokens: families.counter(&c::PLAN_TOKENS)?,
            plans_ahead: families.gauge(&c::PLANS_AHEAD)?,
            plan_wait: families.counter(&c::PLAN_WAIT)?,
            stories_done: families.counter(&c::STORIES_DONE)?,
            stories_failed: families.counter(&c::STORIES_FAILED)?,
            stories_quarantined: families.counter(&c::STORIES_QUARANTINED)?,
            time: families.counter(&c::DEVICE_TIME)?,
            checkpoints: families.counter(&c::CHECKPOINTS)?,
            unsaved: families.gauge(&c::UNSAVED_TIME)?,
            leases: families.gauge(&c::LEASES)?,
            takeovers: families.counter(&c::LEASE_TAKEOVERS)?,
            keyframes: families.gauge(&c::BANK_KEYFRAMES)?,
            rebuilds: families.counter(&c::BANK_REBUILDS)?,
            device: facts.device.clone(),
            steps: Mutex::default(),
        };
        set(&figures.leases, &[], 0.0)?;
        set(&figures.keyframes, &[], 0.0)?;
        set(&figures.plans_ahead, &[], 0.0)?;
        Ok(figures)
    }

    /// What is asked at a scrape instead of told by events.
    pub(super) fn refresh(
        &self,
        live: &Live,
        settled: &Split,
        draining: bool,
        progress: f64,
    ) -> Result<()> {
        let truth = |fact: bool| f64::from(u8::from(fact));
        set(&self.loaded, &[], truth(!live.load))?;
        set(&self.draining, &[], truth(draining))?;
        set(&self.last_progress, &[], progress)?;
        for stage in Stage::ALL {
            let inside = live.now.iter().filter(|shot| shot.stage == Some(stage));
            set(&self.shots_in_stage, &[stage.text()], inside.count() as f64)?;
        }
        set(&self.unsaved, &[], unsaved(live))?;
        raise_split(&self.time, &self.device, settled)
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<(StoryId, ShotId), Instant>> {
        // Nothing panics while holding it.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a step that ended now; its time, unless it is unknown when it began.
    fn step(&self, story: &StoryId, shot: ShotId) -> Option<f64> {
        let now = Instant::now();
        let mut steps = self.steps();
        let before = steps
            .iter_mut()
            .find(|((of, at), _)| *at == shot && of == story);
        let (_, before) = before?;
        Some((now - std::mem::replace(before, now)).as_secs_f64())
    }

    fn count(&self, event: &Event) -> Result<()> {
        match event {
            Event::Shot { story, shot, event } => self.count_shot(story, *shot, event)?,
            Event::PlanEnded {
                end,
                seconds,
                tokens,
                ..
            } => {
                one(&self.plans, &[attempt_end(*end).text()])?;
                let written = self.plan_tokens.get_metric_with_label_values::<&str>(&[])?;
                written.inc_by(*tokens as f64);
                if *end == crate::AttemptEnd::Committed {
                    let times = self.plan_time.get_metric_with_label_values::<&str>(&[])?;
                    times.observe(*seconds);
                }
            }
            Event::PlansAhead { stories } => set(&self.plans_ahead, &[], *stories as f64)?,
            Event::PlanAwaited { seconds } => {
                let waited = self.plan_wait.get_metric_with_label_values::<&str>(&[])?;
                waited.inc_by(*seconds);
            }
            Event::StoryTaken { .. } => self.lease(1.0)?,
            Event::StoryLeft { .. } => self.lease(-1.0)?,
            Event::LeaseTaken { .. } => one(&self.takeovers, &[])?,
            Event::StoryFinished { .. } => one(&self.stories_done, &[])?,
            Event::StoryFailed { .. } => one(&self.stories_failed, &[])?,
            Event::StoryQuarantined { .. } => one(&self.stories_quarantined, &[])?,
            Event::IndexRebuilt { .. } => one(&self.rebuilds, &[])?,
            Event::RunStarted { .. }
            | Event::PlanBegun { .. }
            | Event::StorySetAside { .. }
            | Event::IndexOpened { .. }
            | Event::RunStopped { .. } => {}
        }
        Ok(())
    }

    fn count_shot(&self, story: &StoryId, shot: ShotId, event: &ShotEvent) -> Result<()> {
        match event {
            ShotEvent::StageBegun { stage, waited } => {
                let stage_wait = &self.stage_wait;
                let wait = stage_wait.get_metric_with_label_values(&[stage.text()])?;
                wait.observe(*waited);
                if *stage == Stage::Denoise {
                    self.steps().insert((story.clone(), shot), Instant::now());
                }
            }
            ShotEvent::StageFinished { stage, seconds, .. } => {
                let stage_time = &self.stage_time;
                let time = stage_time.get_metric_with_label_values(&[stage.text()])?;
                time.observe(*seconds);
            }
            ShotEvent::StepFinished { .. } => {
                if let Some(seconds) = self.step(story, shot) {
                    let times = self.step_time.get_metric_with_label_values::<&str>(&[])?;
                    times.observe(seconds);
                }
            }
            ShotEvent::Resumed { .. } => self.checkpoint(CheckpointAction::Resumed)?,
            ShotEvent::CheckpointSaved { .. } => {
                self.checkpoint(CheckpointAction::Saved)?;
                // Saving is no part of the next step.
                self.step(story, shot);
            }
            ShotEvent::CheckpointIgnored { .. } => self.checkpoint(CheckpointAction::Ignored)?,
            ShotEvent::AttemptEnded { end, .. } => {
                let ended = |(of, at): &(StoryId, ShotId)| *at == shot && of == story;
                self.steps().retain(|key, _| !ended(key));
                one(&self.attempts, &[attempt_end(*end).text()])?;
            }
            ShotEvent::Committed { seconds, keyframes } => {
                let times = self.shot_time.get_metric_with_label_values::<&str>(&[])?;
                times.observe(*seconds);
                let known = self.keyframes.get_metric_with_label_values::<&str>(&[])?;
                known.add(*keyframes as f64);
            }
            ShotEvent::AttemptBegun { .. } | ShotEvent::AttemptFailed { .. } => {}
        }
        Ok(())
    }

    fn checkpoint(&self, action: CheckpointAction) -> Result<()> {
        one(&self.checkpoints, &[action.text()])
    }

    fn lease(&self, change: f64) -> Result<()> {
        let leases = self.leases.get_metric_with_label_values::<&str>(&[])?;
        leases.add(change);
        Ok(())
    }
}

impl Reporter for ReplicaFigures {
    fn report(&self, event: &Event) {
        if let Err(error) = self.count(event) {
            tracing::debug!(%error, "not counted");
        }
    }
}

fn one(family: &CounterVec, labels: &[&str]) -> Result<()> {
    family.get_metric_with_label_values(labels)?.inc();
    Ok(())
}

fn attempt_end(end: crate::AttemptEnd) -> AttemptEnd {
    match end {
        crate::AttemptEnd::Committed => AttemptEnd::Committed,
        crate::AttemptEnd::Failed => AttemptEnd::Failed,
        crate::AttemptEnd::Stopped => AttemptEnd::Stopped,
    }
}

/// Seconds of denoising that a kill would lose now, of the shot that would lose most.
fn unsaved(live: &Live) -> f64 {
    let denoising = live.now.iter();
    let denoising = denoising.filter(|shot| shot.stage == Some(Stage::Denoise));
    let since = denoising.map(|shot| shot.saved_at.unwrap_or(shot.begun).max(shot.begun));
    since.map(|since| live.at - since).fold(0.0, f64::max)
}
