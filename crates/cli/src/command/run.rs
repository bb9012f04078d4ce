//! `storyloom run`: the main job.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use storyloom_memory::select::SelectionSettings;
use storyloom_memory::window::WindowSettings;
use storyloom_memory::{Disk, OneStoryPolicy};
use storyloom_orchestrator::lease::new_worker_id;
use storyloom_orchestrator::run::run_on;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::{
    Engines, PlanningSettings, RunConfig, RunOutcome, ShotEngine, StopAt, StopFlag, StoryPlanner,
};
use storyloom_parallel::World;
use storyloom_story::StoryId;
use storyloom_telemetry::{EventLog, Reporter};

use super::{ConfigArguments, config, repair};
use crate::checkpoints;
use crate::config::Resolved;
use crate::config::options::{EngineKind, OnPreempt};
use crate::config::value::{name_of, named};
use crate::costs;
use crate::cropped::check_pixels;
use crate::diagnose;
use crate::drain::{self, DrainWatch};
use crate::engine;
use crate::environment::{self, Heaps};
use crate::exit::{Exit, Failure, Outcome};
use crate::input::{self, Input};
use crate::lengths::check_lengths;
use crate::loading::LoadingWatch;
use crate::logging::{self, Logging};
use crate::methods;
use crate::output;
use crate::plain_shots::plain_shots;
use crate::planner;
use crate::progress::{Progress, text};
use crate::prompts::Meter;
use crate::ranks;
use crate::room;
use crate::seen_history::check_onestory;
use crate::shift::Shift;
use crate::signals::{self, SavingBegins};
use crate::storage;
use crate::world::{self, RankSlot};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Manifest or briefs (JSONL, CSV or TSV), story script (.json), or folder of scripts.
    #[arg(long, value_name = "M", required_unless_present = "again")]
    manifest: Option<PathBuf>,
    /// Run folder. Started again on the same folder, a run goes on where it was.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What follows when a run that was asked to stop has saved everything: auto, exit, wait or
    /// requeue. Stands for `--set on_preempt=…`.
    #[arg(long, value_name = "ACTION")]
    on_preempt: Option<String>,
    /// Make only the first N stories of the manifest.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Make these stories of the run in DIR whole, with its own settings and without a manifest.
    #[arg(long, value_name = "STORY", num_args = 1.., hide = true)]
    #[arg(value_parser = |text: &str| StoryId::new(text))]
    again: Vec<StoryId>,
}

/// Makes what is missing. Settings and input are checked before anything is loaded or written; a
/// checkpoint that cannot be used leaves nothing but the logs that say so.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut layers = arguments.config.clone();
    if arguments.manifest.is_none() {
        layers.sets.extend(repair::settings_of(&arguments.out)?);
    }
    let action = arguments.on_preempt.iter();
    layers
        .sets
        .extend(action.map(|action| format!("on_preempt={action}")));
    let config = config::load_quietly(&layers)?;
    if config.engine.kind == EngineKind::Torch {
        environment::settle(Heaps::Own, &signals::all_heard(&config.run)?);
    }
    // Before anything is waited for, read or loaded, which may take minutes.
    let stop = signals::stop_flag(&config.run, SavingBegins::Later)?;
    let logging = Arc::new(logging::of_run(&config.logs, &arguments.out));
    config::warn_of_strays();
    let slot = world::join(&config.world)?;
    signals::begin();
    let asked = stop.clone();
    World::hurry_while(move || asked.asked() == Some(StopAt::Step));
    logging.placed(&slot.name, slot.world.found().rank);
    let result = on_this_rank(arguments, &config, &slot, &logging, &stop)
        .map_err(|failure| room::with_free_space(failure, &arguments.out));
    logging.finish();
    match result {
        Ok(exit) if slot.is_shared() => Ok(slot.agree(exit, &stop).unwrap_or_else(|failure| {
            output::print_error(&format!("error: {}", failure.message));
            World::abort(slot.as_others_end(failure.exit) as i32)
        })),
        // The others would wait for this rank.
        Err(failure) if slot.is_shared() => {
            if !failure.message.is_empty() {
                output::print_error(&format!("error: {}", failure.message));
            }
            World::abort(slot.as_others_end(failure.exit) as i32)
        }
        result => result,
    }
}

/// What this rank does of a run, to its end.
fn on_this_rank(
    arguments: &Arguments,
    config: &Resolved,
    slot: &RankSlot,
    logging: &Arc<Logging>,
    stop: &StopFlag,
) -> Outcome {
    let loading = LoadingWatch::start(stop, logging, config.on_preempt, slot)?;
    if slot.leads() {
        config.engine.videos().begin_check();
    }
    let read = match &arguments.manifest {
        Some(manifest) => input::read_for(
            manifest,
            &config.inputs,
            config.engine.kind.methods(),
            &arguments.out,
        )?,
        None => Ok(repair::input(&arguments.out, &arguments.again)),
    };
    let mut input = match read {
        Ok(input) => input,
        Err(report) => {
            if slot.is_first() {
                diagnose::show(&report);
            }
            return Ok(Exit::Input);
        }
    };
    let config = &methods::for_input(config, &input)?;
    if slot.is_first() {
        let manifest = arguments.manifest.as_deref();
        let plain = manifest.map(|path| plain_shots(&input, path, config.engine.method));
        input.warnings.extend(plain.unwrap_or_default());
        diagnose::warn(&input.warnings);
    }
    if let Some(limit) = arguments.limit {
        input.limit(limit);
    }
    check_pixels(&config.films, &input)?;
    check_lengths(&config.films.video, &input)?;
    check_onestory(config, &input)?;
    if slot.is_first() {
        storage::check(&arguments.out, &input, !config.engine.index.path.is_empty())?;
    }
    let config = &with_resize(config, arguments, slot, stop)?;
    let settings = run_config(config, arguments, &input, slot);
    if config.engine.kind == EngineKind::Torch {
        checkpoints::check_continuations(&config.engine, &input.lines)?;
    }
    planner::prepare(&settings, &input, slot)?;
    if drain::is_forbidden(&settings, slot)? {
        if slot.is_first() {
            eprintln!("{}", drain::hint(&settings));
        }
        return Ok(Exit::Stopped);
    }
    let leader = slot.as_leader_says(settings.worker.as_deref().unwrap_or_default(), stop)?;
    let follows = !slot.leads() && !slot.plans_only();
    if slot.helps_to_plan() {
        // Its leader stops for it.
        drop(loading);
        let _pulse = ranks::report_to(&leader, &config.engine, &settings.out, slot)?;
        planner::help(&config.planner, &input, slot)?;
        return Ok(Exit::Done);
    }
    if config.engine.kind == EngineKind::Torch && follows {
        drop(loading);
        let _pulse = ranks::report_to(&leader, &config.engine, &settings.out, slot)?;
        engine::follow(&config.engine, slot.replica()?, slot)?;
        return Ok(Exit::Done);
    }
    if !slot.plans_only() {
        settings.videos.check_encoder()?;
    }
    let shift = Arc::new(Shift::begin(config, &settings, slot, stop)?);
    loading.knows(&shift);
    if slot.is_first() {
        log_long_prompts(config, &input);
    }
    let watch = DrainWatch::start(&settings, stop)?;
    let pause = Duration::from_secs(u64::from(config.logs.progress_s));
    let progress = slot
        .is_first()
        .then(|| Progress::show(&logging.screen, &arguments.out, pause));
    let told = shift.reporters().and(&EventLog).and(&loading);
    let result = lead(config, &settings, &input, slot, &told, stop);
    drop((watch, progress, loading));
    shift.end(&result);
    let outcome = result?;
    if outcome.stopped && stop.is_draining() {
        if slot.is_first() {
            eprintln!("{}", drain::hint(&settings));
        }
        return Ok(Exit::Stopped);
    }
    let how = (arguments.out.as_path(), config.on_preempt);
    Ok(report_outcome(&outcome, how, slot))
}

/// The settings with the resize before selection that this run has. All ranks of a replica take what
/// their leader finds in the run folder.
fn with_resize(
    config: &Resolved,
    arguments: &Arguments,
    slot: &RankSlot,
    stop: &StopFlag,
) -> Result<Resolved, Failure> {
    let mine = config.engine.storymem.resize_in(&arguments.out);
    let said = slot.as_leader_says(name_of(mine), stop)?;
    Ok(config.with_selection_resize(named(&said).unwrap_or(mine)))
}

/// Warns of prompts that will not be read to their end, in the log and on stderr.
fn log_long_prompts(config: &Resolved, input: &Input) {
    const TOLD: usize = 100;
    let Some(meter) = Meter::of(&config.engine) else {
        return;
    };
    meter.warn_of_negative(&config.engine);
    let prompts = input.long_prompts(&meter);
    for prompt in prompts.iter().take(TOLD) {
        tracing::warn!(story = %prompt.story, shot = %prompt.shot, "{prompt}");
    }
    if prompts.len() > TOLD {
        tracing::warn!(
            "and {} prompts more have too many tokens; `storyloom validate --config` names all",
            prompts.len() - TOLD
        );
    }
}

/// What a rank does that makes stories, or plans them.
fn lead(
    config: &Resolved,
    settings: &RunConfig,
    input: &Input,
    slot: &RankSlot,
    reporters: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, Failure> {
    let planner = planner::of_rank(config, input, slot, stop)?;
    let planner = planner.as_deref();
    if slot.plans_only() {
        return planner::plan(settings, input, planner, reporters, stop);
    }
    match config.engine.kind {
        EngineKind::Simulated => {
            let engine = SimulatedEngine {
                steps: config.engine.storymem.steps.i2v as usize,
                step_time: Duration::from_millis(config.costs.simulated.step_ms),
                pace: costs::pace(&config.costs)?,
                onestory: settings.onestory,
            };
            make(settings, input, (&engine, planner), reporters, stop)
        }
        EngineKind::Torch => {
            let engine = engine::build_engine(&config.engine, slot.replica()?, slot)?;
            let outcome = make(settings, input, (&engine, planner), reporters, stop);
            if engine.world_is_broken() {
                let message = "ranks are gone; everything is saved, run the same command again";
                return Err(Failure::new(Exit::Stopped, message));
            }
            outcome
        }
    }
}

fn make(
    settings: &RunConfig,
    input: &Input,
    (engine, planner): (&dyn ShotEngine, Option<&dyn StoryPlanner>),
    reporter: &dyn Reporter,
    stop: &StopFlag,
) -> Result<RunOutcome, Failure> {
    let engines = Engines { engine, planner };
    let disk = Arc::new(Disk);
    run_on(disk, settings, &input.lines, &engines, reporter, stop).map_err(Failure::from)
}

fn report_outcome(
    outcome: &RunOutcome,
    (out, on_preempt): (&Path, OnPreempt),
    slot: &RankSlot,
) -> Exit {
    let RunOutcome {
        stories,
        done,
        failed,
        quarantined,
        set_aside,
        without_keyframes,
        finished_before,
        stopped,
    } = outcome;
    if slot.is_first() {
        let aside = match set_aside {
            0 => String::new(),
            count => format!(", {count} set aside: their input has changed or cannot be read"),
        };
        eprintln!(
            "{done} of {stories} stories done, {failed} failed, {quarantined} in quarantine{aside}"
        );
        if let Some(warning) = text::without_keyframes(*without_keyframes) {
            output::print_error(&format!("warning: {warning}"));
        }
        if *finished_before > 0 {
            let out = out.display();
            eprintln!(
                "{finished_before} were finished before; only the sizes of their files were looked at, \
                 storyloom verify {out} reads them"
            );
        }
    }
    if *stopped {
        if slot.is_first() {
            eprintln!("stopped early; everything is saved, run the same command again");
        }
        signals::after_stop(on_preempt);
        Exit::Stopped
    } else if *set_aside > 0 {
        // Another start would find the same: somebody has to look at the input.
        Exit::Input
    } else if *failed + *quarantined > 0 {
        Exit::Unexpected
    } else {
        Exit::Done
    }
}

fn run_config(
    config: &Resolved,
    arguments: &Arguments,
    input: &Input,
    slot: &RankSlot,
) -> RunConfig {
    let engine = &config.engine;
    let (storymem, onestory, index) = (&engine.storymem, &engine.onestory, &engine.index);
    RunConfig {
        out: arguments.out.clone(),
        worker: Some(new_worker_id()),
        input_folder: input.folder.clone(),
        left_out: input.left_out.clone(),
        part: arguments.manifest.is_none(),
        pictures: config.films.pictures,
        method: config.engine.method,
        seed: config.run.seed,
        video: config.films.video,
        grid: config.films.grid,
        window: WindowSettings {
            max_images: storymem.max_images,
            // With memory off there is nothing to keep first.
            sink: storymem.sink.min(storymem.max_images),
        },
        selection: SelectionSettings {
            rule: storymem.selection,
            max_keyframes: storymem.max_keyframes,
            similarity_start: storymem.similarity_start as f32,
            quality_threshold: storymem.quality_threshold as f32,
        },
        onestory: OneStoryPolicy::new(onestory.budget(), onestory.selector),
        continuation: storymem.continuation,
        attempts: config.run.attempts,
        planning: PlanningSettings {
            ahead: config.planner.options.ahead as usize,
            attempts: config.planner.options.attempts,
        },
        checkpoint: config.checkpoint,
        lease_timeout: Duration::from_secs(u64::from(config.run.lease_timeout)),
        interleave: config.interleave,
        replicas: slot.replicas(),
        quarantine_limit: match config.run.quarantine_limit {
            0 => None,
            limit => Some(limit as usize),
        },
        index: index.backend,
        index_folder: (!index.path.is_empty()).then(|| PathBuf::from(&index.path)),
        videos: config.engine.videos(),
        resolved: config.to_json(),
        config_file: config.to_toml(),
    }
}
