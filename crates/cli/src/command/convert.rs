//! `storyloom convert`: stories in, story scripts of another method out.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use storyloom_story::{Line, Method, Problem, SourceLocation, onestory_line};

use super::{ConfigArguments, config};
use crate::diagnose;
use crate::exit::{Exit, Outcome};
use crate::input::{self, Input, Report};
use crate::output::print;
use crate::plain_shots::plain_shots;
use crate::written;

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Manifest (JSONL, CSV or TSV), story script (.json), or folder of scripts.
    input: PathBuf,
    /// The scripts to write.
    #[arg(long, value_name = "METHOD")]
    to: Target,
    /// Manifest to write. Pictures that do not lie beside or below it are copied into OUT.pictures.
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    #[command(flatten)]
    config: ConfigArguments,
}

/// What can be written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// Story scripts of OneStory, one a line: the scenes of a story become one row of shots.
    #[value(name = "onestory")]
    OneStory,
}

/// Reads everything, and writes all stories or none.
pub fn run(arguments: &Arguments) -> Outcome {
    let config = config::load(&arguments.config)?;
    let Arguments { input, out, .. } = arguments;
    // What can be made here is no matter of how it is written.
    let found = input::read(input, &config.inputs, &Method::KNOWN)?;
    let mut found = match found.and_then(|found| convertible(found, arguments)) {
        Ok(found) => found,
        Err(report) => {
            diagnose::show(&report);
            return Ok(Exit::Input);
        }
    };
    written::refuse_own_input("the stories", input, out)?;
    let plain = plain_shots(&found, input, Method::OneStory);
    found.warnings.extend(plain);
    diagnose::warn(&found.warnings);
    let (mut text, mut stories) = (String::new(), 0);
    for story in found.stories() {
        let story = written::moved(story.clone(), &found.folder, out)?;
        text.push_str(&written::onestory(&story)?);
        text.push('\n');
        stories += 1;
    }
    written::write(out, &text)?;
    print(&format!("{stories} stories in {}", out.display()))?;
    Ok(Exit::Done)
}

/// The stories as those of the method that they are converted to, or why some cannot be.
fn convertible(mut found: Input, arguments: &Arguments) -> Result<Input, Report> {
    let Target::OneStory = arguments.to;
    let mut report = Report::default();
    for line in &mut found.lines {
        if let Some((message, help)) = refusal(line) {
            let location = found.locations.get(line.id()).copied();
            let SourceLocation { line, span } = location.unwrap_or(SourceLocation {
                line: 1,
                span: (0, 1),
            });
            report.problems.push(Problem {
                file: arguments.input.display().to_string(),
                line,
                column: 1,
                message,
                help: help.to_owned(),
                span,
            });
        }
        if let Line::Story(story) = line {
            story.method = Some(Method::OneStory);
        }
    }
    match report.problems.is_empty() {
        true => Ok(found),
        false => Err(report),
    }
}

/// Why a line cannot be converted, if it cannot, and what to do about it.
fn refusal(line: &Line) -> Option<(String, &'static str)> {
    match line {
        Line::Story(story) => {
            let wrong = onestory_line(story).err()?;
            Some((wrong.to_string(), wrong.help()))
        }
        Line::Brief(brief) => Some((
            format!("the story {} is a brief, and has no shots yet", brief.id),
            "make a script of it: storyloom plan --briefs FILE --out MANIFEST",
        )),
    }
}
