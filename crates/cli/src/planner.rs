//! The one file that plugs planners into the trait of the orchestrator.

use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_orchestrator::planning::ranks::{plan_briefs, reopen};
use storyloom_orchestrator::planning::simulated::SimulatedPlanner;
use storyloom_orchestrator::{RunConfig, RunFolder, RunOutcome, StopFlag, StoryPlanner};
use storyloom_telemetry::Reporter;

use crate::config::Config;
use crate::config::options::PlannerKind;
use crate::costs;
use crate::exit::Failure;
use crate::input::Input;
use crate::world::Place;

/// A planner behind the orchestrator's trait.
pub type BoxedPlanner = Box<dyn StoryPlanner>;

/// The planner of this rank: none where there is nothing to plan, or where other ranks plan.
///
/// # Errors
/// The settings do not fit together, or a model cannot be loaded.
pub fn of_rank(
    config: &Config,
    input: &Input,
    place: &Place,
    stop: &StopFlag,
) -> Result<Option<BoxedPlanner>, Failure> {
    let others_plan = place.has_planners() && !place.plans_only();
    if others_plan || !input.has_briefs() {
        return Ok(None);
    }
    build(config, stop).map(Some)
}

fn build(config: &Config, stop: &StopFlag) -> Result<BoxedPlanner, Failure> {
    match config.planner.backend {
        PlannerKind::Simulated => Ok(Box::new(SimulatedPlanner {
            cost: costs::plan_cost(config)?,
            batch: 1,
            stop: stop.clone(),
        })),
    }
}

/// What a rank does that only plans.
///
/// # Errors
/// What ends the run.
pub fn plan(
    settings: &RunConfig,
    input: &Input,
    planner: Option<&dyn StoryPlanner>,
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, Failure> {
    let Some(planner) = planner else {
        tracing::warn!("topology.planners is set, but there is no brief to plan");
        return Ok(RunOutcome::default());
    };
    let disk = Arc::new(Disk);
    Ok(plan_briefs(
        disk,
        settings,
        &input.lines,
        planner,
        reporter,
        stop,
    )?)
}

/// Lets planner ranks try briefs again that were given up for now; one rank does so for all, before
/// any of them looks.
///
/// # Errors
/// The run folder cannot be read or written.
pub fn prepare(settings: &RunConfig, input: &Input, place: &Place) -> Result<(), Failure> {
    if place.has_planners() && place.is_first() {
        let folder = RunFolder::new(&settings.out, Arc::new(Disk));
        reopen(&folder, &input.lines)?;
    }
    Ok(())
}
