//! The stages of a shot, timed.

use std::collections::BTreeMap;
use std::time::Instant;

use storyloom_story::{ShotRequest, Stage};
use storyloom_telemetry::{Event, Reporter, ShotEvent};
use tracing::field;

use super::ShotPlan;
use crate::error::RunError;
use crate::run::gate::{Gate, Permit};

/// Times the stages of a shot and reports them.
pub(super) struct StageClock<'a> {
    reporter: &'a dyn Reporter,
    plan: &'a ShotPlan,
    seconds: BTreeMap<Stage, f64>,
    /// What the next stage has waited for its turn.
    waited: f64,
}

impl<'a> StageClock<'a> {
    pub(super) fn new(reporter: &'a dyn Reporter, plan: &'a ShotPlan) -> Self {
        Self {
            reporter,
            plan,
            seconds: BTreeMap::new(),
            waited: 0.0,
        }
    }

    /// What each stage has taken, in all passes.
    pub(super) fn into_seconds(self) -> BTreeMap<Stage, f64> {
        self.seconds
    }

    /// Waits for its turn. That is not the time of the stage that follows.
    pub(super) fn enter<'g>(&mut self, gate: &'g Gate) -> Permit<'g> {
        let came = Instant::now();
        let permit = gate.enter(self.plan.remaining);
        self.waited = came.elapsed().as_secs_f64();
        permit
    }

    /// Does the work of a stage, behind its gate if it has one.
    pub(super) fn time<T>(
        &mut self,
        stage: Stage,
        gate: Option<&Gate>,
        work: impl FnOnce() -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let permit = gate.map(|gate| self.enter(gate));
        let begun = Instant::now();
        let waited = std::mem::take(&mut self.waited);
        let ShotRequest { story, shot, .. } = &self.plan.request;
        self.reporter.report(&Event::Shot {
            story,
            shot: *shot,
            event: ShotEvent::StageBegun { stage, waited },
        });
        let span = tracing::info_span!("stage", %stage, waited, error = field::Empty);
        let result = span.in_scope(work).inspect_err(|error| {
            span.record("error", field::display(error));
        })?;
        drop(span);
        drop(permit);
        let seconds = begun.elapsed().as_secs_f64();
        *self.seconds.entry(stage).or_default() += seconds;
        self.reporter.report(&Event::Shot {
            story,
            shot: *shot,
            event: ShotEvent::StageFinished {
                stage,
                seconds,
                waited,
            },
        });
        Ok(result)
    }
}
