//! `storyloom plan`: briefs in, a manifest out.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;
use storyloom_orchestrator::planning::beforehand::Beforehand;
use storyloom_orchestrator::planning::shelf::{Kept, Outcome, Shelf};
use storyloom_orchestrator::{RunError, StopFlag, StoryPlanner};
use storyloom_story::{Brief, Line, StoryEntry, StoryId};

use super::{ConfigArguments, config};
use crate::config::Resolved;
use crate::config::resolved::EngineConfig;
use crate::diagnose;
use crate::exit::{Exit, Failure, Outcome as CommandOutcome};
use crate::input::{self, Input};
use crate::output::{print, print_error};
use crate::planner::{self, unwritable};
use crate::prompts::Meter;
use crate::signals::{self, SavingBegins};
use crate::written;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Briefs (JSONL, CSV or TSV). A line that has a script already is passed on as it is.
    #[arg(long, value_name = "B")]
    briefs: PathBuf,
    /// Manifest to write. What is planned so far is kept in M.plans beside it: started again, the
    /// command plans only what is missing.
    #[arg(long, value_name = "M")]
    out: PathBuf,
    /// Only check briefs, pictures and settings; ask no model and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Try the briefs in quarantine once more.
    #[arg(long)]
    retry: bool,
}

/// Plans what is missing and writes the manifest when every brief is settled.
pub fn run(arguments: &Arguments) -> CommandOutcome {
    let config = config::load(&arguments.config)?;
    let stop = signals::stop_flag(&config.run, SavingBegins::Now)?;
    let requests = match input::read(
        &arguments.briefs,
        &config.inputs,
        config.engine.kind.methods(),
    )? {
        Ok(requests) => requests,
        Err(report) => {
            diagnose::show(&report);
            return Ok(Exit::Input);
        }
    };
    diagnose::warn(&requests.warnings);
    written::refuse_own_input("the briefs", &arguments.briefs, &arguments.out)?;
    if arguments.dry_run {
        return report_input(&config, arguments, &requests);
    }
    let Some(shelf) = Shelf::take(&arguments.out)? else {
        let message = format!("another program is planning {}", arguments.out.display());
        return Err(Failure::new(Exit::Stopped, message));
    };
    let planner = planner::alone(&config.planner, &requests.folder, &stop)?;
    let asked = (&requests, arguments.retry);
    let records = plan_all(&config, asked, planner.as_ref(), &shelf, &stop)?;
    finish(&config, arguments, &requests, &records)
}

fn report_input(config: &Resolved, arguments: &Arguments, requests: &Input) -> CommandOutcome {
    if let Some(report) = unwritable(config.planner.options.backend, &arguments.briefs, requests) {
        diagnose::show(&report);
        return Ok(Exit::Input);
    }
    warn_of_long_prompts(&config.engine, requests.stories());
    let briefs = requests.briefs().count();
    let stories = requests.lines.len() - briefs;
    let shots: u32 = requests.briefs().map(|brief| brief.shots).sum();
    print(&format!(
        "{briefs} briefs for {shots} shots, {stories} stories with a script: no problems"
    ))?;
    Ok(Exit::Done)
}

/// Warns of prompts that the text encoder of the settings will not read to their end.
fn warn_of_long_prompts<'a>(
    engine: &EngineConfig,
    stories: impl IntoIterator<Item = &'a StoryEntry>,
) {
    let scripts = stories.into_iter().map(|story| (&story.id, &story.script));
    if let Some(meter) = Meter::of(engine) {
        diagnose::warn_of_prompts(&meter.all_long_prompts(&scripts.collect::<Vec<_>>()));
    }
}

/// Settles every brief, and tells how far that is.
fn plan_all(
    config: &Resolved,
    (requests, retry): (&Input, bool),
    planner: &dyn StoryPlanner,
    shelf: &Shelf,
    stop: &StopFlag,
) -> Result<Vec<Kept>, Failure> {
    let briefs: Vec<&Brief> = requests.briefs().collect();
    let done = AtomicUsize::new(0);
    let beforehand = Beforehand {
        planner,
        shelf,
        seed: config.run.seed,
        attempts: config.planner.options.attempts,
        pictures: &requests.pictures,
        retry,
        stop,
        done: &done,
    };
    let pause = Duration::from_secs(u64::from(config.logs.progress_s));
    let (over, is_over) = channel::<()>();
    let (count, told) = (briefs.len(), &done);
    let kept = std::thread::scope(|scope| {
        scope.spawn(move || report_progress(count, told, pause, &is_over));
        let kept = beforehand.plan_all(&briefs);
        drop(over);
        kept
    });
    kept.map_err(|error| match error {
        RunError::Stopped => {
            let message = "stopped early; everything is saved, run the same command again";
            Failure::new(Exit::Stopped, message)
        }
        RunError::Plan(error) => Failure::new(error.class.into(), error),
        error => error.into(),
    })
}

fn report_progress(briefs: usize, done: &AtomicUsize, pause: Duration, is_over: &Receiver<()>) {
    while is_over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let done = done.load(Ordering::Relaxed);
        eprintln!("{done} of {briefs} briefs planned");
    }
}

/// Writes the manifest of all stories that have a script, and says what has none.
fn finish(
    config: &Resolved,
    arguments: &Arguments,
    requests: &Input,
    records: &[Kept],
) -> CommandOutcome {
    let out = &arguments.out;
    let mut text = String::new();
    let mut quarantined: Vec<(&StoryId, &str)> = Vec::new();
    let mut stories = Vec::with_capacity(requests.lines.len());
    let mut records = records.iter();
    for line in &requests.lines {
        let story = match line {
            Line::Story(story) => story.clone(),
            Line::Brief(brief) => match records.next().map(|record| &record.outcome) {
                Some(Outcome::Planned(planned)) => brief.story(planned.script.clone()),
                Some(Outcome::Quarantined { reason, .. }) => {
                    quarantined.push((&brief.id, reason));
                    continue;
                }
                None => continue,
            },
        };
        text.push_str(&written::line(story.clone(), &requests.folder, out)?);
        text.push('\n');
        stories.push(story);
    }
    warn_of_long_prompts(&config.engine, &stories);
    for (id, reason) in &quarantined {
        print_error(&format!("quarantined: {id}: {reason}"));
    }
    let limit = config.run.quarantine_limit as usize;
    let count = quarantined.len();
    if stories.is_empty() || (limit > 0 && count > limit) {
        let plans = Shelf::folder_of(out);
        let message = format!(
            "{count} of {} briefs have no usable script, so there is no manifest; see {}",
            requests.lines.len(),
            plans.display()
        );
        return Err(Failure::new(Exit::Input, message));
    }
    written::write(out, &text)?;
    print(&format!(
        "{} stories in {}, {count} in quarantine",
        stories.len(),
        out.display()
    ))?;
    Ok(match count {
        0 => Exit::Done,
        _ => Exit::Unexpected,
    })
}
