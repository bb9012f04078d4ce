//! `storyloom validate`: every problem of an input, before anything is paid for.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use storyloom_story::{Method, Problem};

use super::{ConfigArguments, config};
use crate::checkpoints;
use crate::config::options::EngineKind;
use crate::config::resolved::EngineConfig;
use crate::config::{Config, Resolved};
use crate::cropped::{CroppedFilms, check_pixels, cropped_films};
use crate::diagnose;
use crate::exit::{Exit, Failure, Outcome};
use crate::input::{self, Input};
use crate::lengths::check_lengths;
use crate::methods;
use crate::output::{print, print_json};
use crate::plain_shots::plain_shots;
use crate::planner::unwritable;
use crate::prompts::{LongPrompt, Meter};
use crate::ready_made::check_first_shots;
use crate::seen_history::check_onestory;

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Manifest or briefs (JSONL, CSV or TSV), story script (.json), or folder of scripts.
    manifest: PathBuf,
    #[command(flatten)]
    config: ConfigArguments,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Summary {
    stories: usize,
    /// Stories that have no script yet; not among the others.
    briefs: usize,
    scenes: usize,
    shots: usize,
    continued: usize,
    problems: Vec<Problem>,
    /// What was read otherwise than it was written, or left out.
    warnings: Vec<Problem>,
    /// Prompts whose end no text encoder reads.
    long_prompts: Vec<LongPrompt>,
    /// Films that are made larger than they are asked for.
    cropped: Vec<CroppedFilms>,
}

/// The settings that the input is meant for, if the command line names any.
fn settings(arguments: &ConfigArguments) -> Result<Option<Resolved>, Failure> {
    let named = arguments.config.is_some() || !arguments.sets.is_empty();
    named.then(|| config::load(arguments)).transpose()
}

/// Reads the input and tells its problems.
pub fn run(arguments: &Arguments) -> Outcome {
    let config = settings(&arguments.config)?;
    let meter = config
        .as_ref()
        .map_or(Some(Meter::Estimate), |config| Meter::of(&config.engine));
    let is_named = config.is_some();
    let config = config.unwrap_or_else(|| Resolved::new(Config::default()));
    let planner = config.planner.options.backend;
    let found = input::read(
        &arguments.manifest,
        &config.inputs,
        config.engine.kind.methods(),
    )?
    .and_then(
        |input| match unwritable(planner, &arguments.manifest, &input) {
            Some(report) => Err(report),
            None => Ok(input),
        },
    );
    let (exit, summary) = match found {
        Ok(mut input) => {
            check_pixels(&config.films, &input)?;
            if is_named {
                let config = methods::for_input(&config, &input)?;
                note_checkpoints(&config.engine);
                check_lengths(&config.films.video, &input)?;
            }
            check_onestory(&config, &input)?;
            check_first_shots(is_named.then_some(&config.films), &input)?;
            let plain = plain_shots(&input, &arguments.manifest, config.engine.method);
            input.warnings.extend(plain);
            let long_prompts = meter.map_or_else(Vec::new, |meter| input.long_prompts(&meter));
            let cropped = cropped_films(&config.films, &input);
            if !arguments.json {
                diagnose::warn(&input.warnings);
                diagnose::warn_of_prompts(&long_prompts);
                for films in &cropped {
                    eprintln!("note: {films}");
                }
            }
            let summary = Summary {
                long_prompts,
                cropped,
                ..summarise(input, config.engine.method)
            };
            (Exit::Done, summary)
        }
        Err(report) => {
            if !arguments.json {
                diagnose::show(&report);
                return Ok(Exit::Input);
            }
            let problems = report.problems;
            (
                Exit::Input,
                Summary {
                    problems,
                    ..Summary::default()
                },
            )
        }
    };
    if arguments.json {
        print_json(&summary)?;
    } else {
        print(&text(&summary))?;
    }
    Ok(exit)
}

/// How many of everything there are, of an input without problems.
fn text(summary: &Summary) -> String {
    let counted = |count: usize, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {more}"),
    };
    let to_plan = match summary.briefs {
        0 => String::new(),
        briefs => format!("{} to plan, ", counted(briefs, "brief", "briefs")),
    };
    format!(
        "{to_plan}{}, {}, {} ({} the shot before): no problems",
        counted(summary.stories, "story", "stories"),
        counted(summary.scenes, "scene", "scenes"),
        counted(summary.shots, "shot", "shots"),
        counted(summary.continued, "continues", "continue"),
    )
}

/// Says what is missing of the checkpoints of OneStory, which is no matter of the input.
fn note_checkpoints(engine: &EngineConfig) {
    if engine.kind != EngineKind::Torch || engine.method != Method::OneStory {
        return;
    }
    match checkpoints::of(engine) {
        Ok(set) if set.is_whole() => {}
        Ok(set) => eprintln!("note: {}", set.missing()),
        Err(failure) => eprintln!("note: {}", failure.message),
    }
}

/// What is in the input; `method` is that of stories which do not say it.
fn summarise(input: Input, method: Method) -> Summary {
    let scripts = || input.stories().map(|story| &story.script);
    Summary {
        stories: input.stories().count(),
        briefs: input.lines.len() - input.stories().count(),
        scenes: scripts().map(|script| script.scenes.len()).sum(),
        shots: scripts()
            .map(storyloom_story::StoryScript::shot_count)
            .sum(),
        continued: input
            .stories()
            .filter(|story| story.method.unwrap_or(method).profile().continues)
            .flat_map(|story| story.script.shots())
            .filter(|(_, shot)| !shot.cut)
            .count(),
        warnings: input.warnings,
        ..Summary::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_kind_is_said_as_one() {
        let one = Summary {
            stories: 1,
            scenes: 1,
            shots: 1,
            ..Summary::default()
        };
        assert_eq!(
            text(&one),
            "1 story, 1 scene, 1 shot (0 continue the shot before): no problems"
        );
        let more = Summary {
            briefs: 1,
            stories: 2,
            scenes: 3,
            shots: 4,
            continued: 1,
            ..Summary::default()
        };
        assert_eq!(
            text(&more),
            "1 brief to plan, 2 stories, 3 scenes, 4 shots (1 continues the shot before): no problems"
        );
    }
}
