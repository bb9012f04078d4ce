//! The one file that plugs planners into the trait of the orchestrator.

mod build;
mod capability;
mod pictures;

use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_orchestrator::planning::ranks::{plan_briefs, reopen};
use storyloom_orchestrator::testing::planner::SimulatedPlanner;
use storyloom_orchestrator::{RunConfig, RunFolder, RunOutcome, StopFlag, StoryPlanner};
use storyloom_pictures::InputFolder;
use storyloom_planner::Planner;
use storyloom_story::{PlanRequest, PlannerDescription, Settle, StoryId, StoryScript};
use storyloom_telemetry::Reporter;

use crate::config::Resolved;
use crate::config::options::PlannerKind;
use crate::config::resolved::PlannerConfig;
use crate::costs;
use crate::exit::Failure;
use crate::input::Input;
use crate::prompts::Meter;
use crate::world::RankSlot;

use build::{Home, build};
pub use capability::unwritable;
pub use pictures::{Depth, NamedPicture, PictureChecks, Use};

/// A planner behind the orchestrator's trait.
pub type BoxedPlanner = Box<dyn StoryPlanner>;

/// The planner of this rank: none where there is nothing to plan, or where other ranks plan.
///
/// # Errors
/// The settings do not fit together, or a model cannot be loaded.
pub fn of_rank(
    config: &Resolved,
    input: &Input,
    slot: &RankSlot,
    stop: &StopFlag,
) -> Result<Option<BoxedPlanner>, Failure> {
    let others_plan = slot.has_planners() && !slot.plans_only();
    if others_plan || !input.has_briefs() {
        return Ok(None);
    }
    boxed(config, &input.folder, slot, stop).map(Some)
}

/// The planner of a program that makes no stories. Anyone who asks looks at the prompts.
///
/// # Errors
/// As for [`build`].
pub fn alone(
    config: &PlannerConfig,
    folder: &InputFolder,
    stop: &StopFlag,
) -> Result<BoxedPlanner, Failure> {
    let planner = build(config, folder, stop, || Home::alone(config))?;
    let meter = None;
    Ok(Box::new(Plugged { planner, meter }))
}

fn boxed(
    config: &Resolved,
    folder: &InputFolder,
    slot: &RankSlot,
    stop: &StopFlag,
) -> Result<BoxedPlanner, Failure> {
    if config.planner.options.backend == PlannerKind::Simulated {
        return Ok(Box::new(SimulatedPlanner {
            cost: costs::plan_cost(&config.costs)?,
            batch: 1,
            stop: stop.clone(),
        }));
    }
    let home = || Home::of_rank(&config.planner, slot);
    Ok(Box::new(Plugged {
        planner: build(&config.planner, folder, stop, home)?,
        meter: Meter::of(&config.engine),
    }))
}

/// A planner of crate `planner` as the orchestrator wants it.
struct Plugged {
    planner: Planner,
    /// Counts the tokens of prompts that a text encoder is to read.
    meter: Option<Meter>,
}

impl Plugged {
    /// Warns of prompts of a new script that will not be read to their end.
    fn log_long_prompts(&self, story: &StoryId, script: &StoryScript) {
        let meter = self.meter.iter();
        for prompt in meter.flat_map(|meter| meter.long_prompts(story, script)) {
            tracing::warn!(story = %prompt.story, shot = %prompt.shot, "{prompt}");
        }
    }
}

impl StoryPlanner for Plugged {
    fn describe(&self) -> PlannerDescription {
        self.planner.describe()
    }

    fn continues(&self, before: &PlannerDescription) -> bool {
        self.planner.continues(before)
    }

    fn capacity(&self) -> usize {
        self.planner.capacity()
    }

    fn plan(&self, requests: &[PlanRequest], settle: &Settle) {
        self.planner.plan_each(requests, &|place, planned| {
            if let Ok(planned) = &planned {
                self.log_long_prompts(&requests[place].brief.id, &planned.script);
            }
            settle(place, planned);
        });
    }
}

/// What a rank does that has a part of the language model of another.
///
/// # Errors
/// The model cannot be loaded, or the other rank is gone.
pub fn help(config: &PlannerConfig, input: &Input, slot: &RankSlot) -> Result<(), Failure> {
    match input.has_briefs() {
        true => build::follow(config, slot),
        false => Ok(()),
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
pub fn prepare(settings: &RunConfig, input: &Input, slot: &RankSlot) -> Result<(), Failure> {
    if slot.has_planners() && slot.is_first() {
        let folder = RunFolder::new(&settings.out, Arc::new(Disk));
        reopen(&folder, &input.lines)?;
    }
    Ok(())
}
