//! `storyloom validate`: every problem of an input, before anything is paid for.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use storyloom_story::Problem;

use crate::diagnose;
use crate::exit::{Exit, Outcome};
use crate::input;
use crate::output::{print, print_json};

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Manifest (JSONL), story script (.json), or folder of scripts.
    manifest: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Summary {
    stories: usize,
    scenes: usize,
    shots: usize,
    continued: usize,
    problems: Vec<Problem>,
}

/// Reads the input and tells its problems.
pub fn run(arguments: &Arguments) -> Outcome {
    let (exit, summary) = match input::read(&arguments.manifest)? {
        Ok(input) => (Exit::Done, summarise(&input.manifest)),
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
        let Summary {
            stories,
            scenes,
            shots,
            continued,
            ..
        } = summary;
        print(&format!(
            "{stories} stories, {scenes} scenes, {shots} shots ({continued} continue the shot before): no problems"
        ))?;
    }
    Ok(exit)
}

fn summarise(manifest: &storyloom_story::Manifest) -> Summary {
    let scripts = || manifest.stories.iter().map(|story| &story.script);
    Summary {
        stories: manifest.stories.len(),
        scenes: scripts().map(|script| script.scenes.len()).sum(),
        shots: scripts()
            .map(storyloom_story::StoryScript::shot_count)
            .sum(),
        continued: scripts()
            .flat_map(storyloom_story::StoryScript::shots)
            .filter(|(_, shot)| !shot.cut)
            .count(),
        problems: Vec::new(),
    }
}
