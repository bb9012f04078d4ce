//! `storyloom train`: the drawn world, and what is trained on it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use storyloom_parallel::ignored::not_ignored;
use storyloom_story::Method;
use storyloom_tinyworld::{Outline, Pattern, Split, Story, manifest, sheet};
use storyloom_training::error::TrainError;
use storyloom_training::reader::train_reader;

use crate::command::{train_onestory, train_tiny};
use crate::environment::{self, Heaps};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_json};

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Debug, Subcommand)]
enum TrainCommand {
    /// Write stories of the drawn world as a manifest that runs.
    Manifest(ManifestArguments),
    /// Draw a contact sheet of stories, as they should look.
    Sheet(SheetArguments),
    /// Train what `storyloom eval` reads pictures with; started again on the same folder, go on.
    Reader(ReaderArguments),
    /// Train the small model that tells stories of the drawn world, and write it as checkpoints.
    Tiny(train_tiny::Arguments),
    /// Train a finished small model on to see what matters of earlier shots (OneStory), and write that.
    #[command(name = "onestory")]
    OneStory(train_onestory::Arguments),
}

/// Which stories of the drawn world.
#[derive(Debug, Args)]
struct Stories {
    /// The part of the world.
    #[arg(long, value_enum, default_value = "held-out")]
    split: SplitName,
    /// How many stories.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    stories: u64,
    /// Seed of the first story; the others have the next ones.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..u64::MAX / 2))]
    seed: u64,
    /// Stories of six shots that go back to what they showed, after this pattern, instead of stories in three
    /// scenes.
    #[arg(long, value_enum)]
    pattern: Option<PatternName>,
    /// Shots of each story of a pattern, at most 40.
    #[arg(long, requires = "pattern", default_value_t = Outline::SHOTS, value_parser = shots)]
    shots: usize,
}

impl Stories {
    /// The stories, one after the other.
    fn draw(&self) -> impl Iterator<Item = Story> + '_ {
        let outline = self
            .pattern
            .and_then(|name| Outline::new(name.pattern(), self.shots));
        let split = match self.split {
            SplitName::Train => Split::Train,
            SplitName::HeldOut => Split::HeldOut,
        };
        let seeds = self.seed..self.seed + self.stories;
        seeds.map(move |seed| match outline {
            Some(outline) => outline.draw(seed, split),
            None => Story::draw(seed, split),
        })
    }
}

/// Reads a number of shots that a story of a pattern can have.
fn shots(text: &str) -> Result<usize, String> {
    let shots = text.parse().ok();
    let shots = shots.filter(|&shots| Outline::new(Pattern::MainSubject, shots).is_some());
    shots.ok_or_else(|| format!("a whole number from 1 to {}", Outline::MOST_SHOTS))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PatternName {
    /// One character or product, each shot in another place.
    #[value(name = "main_subject")]
    MainSubject,
    /// Other things are inserted; then what was before comes back, and the first of the inserted things as well.
    #[value(name = "insert_recall")]
    InsertRecall,
    /// A character and a product, apart at first, together in the end.
    #[value(name = "composable")]
    Composable,
}

impl PatternName {
    fn pattern(self) -> Pattern {
        match self {
            Self::MainSubject => Pattern::MainSubject,
            Self::InsertRecall => Pattern::InsertRecall,
            Self::Composable => Pattern::Composable,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitName {
    /// What models are trained on.
    Train,
    /// Products, characters and places that no model is trained on.
    HeldOut,
}

#[derive(Debug, Args)]
struct ManifestArguments {
    #[command(flatten)]
    stories: Stories,
    /// The method that is to make the stories; that of the run if not given.
    #[arg(long, value_parser = method)]
    method: Option<Method>,
    /// The file to write; stdout if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Reads the name of a method.
fn method(text: &str) -> Result<Method, String> {
    let found = Method::KNOWN
        .into_iter()
        .find(|method| method.name() == text);
    found.ok_or_else(|| {
        let names = Method::KNOWN.map(Method::name);
        format!("the methods are {}", names.join(", "))
    })
}

#[derive(Debug, Args)]
struct SheetArguments {
    #[command(flatten)]
    stories: Stories,
    /// The PNG to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Width of a picture.
    #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(16..=1280))]
    width: u32,
    /// Height of a picture.
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u32).range(16..=768))]
    height: u32,
}

#[derive(Debug, Args)]
struct ReaderArguments {
    /// Folder for checkpoints, and for reader.safetensors and reader.json in the end.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Seed.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Steps in all.
    #[arg(long, default_value_t = 5000)]
    steps: u64,
    /// Stop after this number of minutes, resumable.
    #[arg(long)]
    minutes: Option<u64>,
}

/// Answers `train`.
pub fn run(arguments: &Arguments) -> Outcome {
    match &arguments.command {
        TrainCommand::Manifest(arguments) => write_manifest(arguments),
        TrainCommand::Sheet(arguments) => write_sheet(arguments),
        TrainCommand::Reader(arguments) => {
            environment::settle(Heaps::One, &[]);
            reader(arguments)
        }
        TrainCommand::Tiny(arguments) => {
            environment::settle(Heaps::One, &[]);
            let stop = stop_flag()?;
            train_tiny::run(arguments, &stop, failure)
        }
        TrainCommand::OneStory(arguments) => {
            environment::settle(Heaps::One, &[]);
            let stop = stop_flag()?;
            train_onestory::run(arguments, &stop, failure)
        }
    }
}

fn write_manifest(arguments: &ManifestArguments) -> Outcome {
    let text = manifest(arguments.stories.draw(), arguments.method)
        .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    match &arguments.out {
        None => print(&text)?,
        Some(path) => std::fs::write(path, text).map_err(|error| storage(path, error))?,
    }
    Ok(Exit::Done)
}

fn write_sheet(arguments: &SheetArguments) -> Outcome {
    let stories: Vec<Story> = arguments.stories.draw().collect();
    let drawn = sheet(&stories, arguments.width, arguments.height);
    let sheet = drawn.ok_or_else(|| Failure::new(Exit::Usage, "there is nothing to draw"))?;
    sheet
        .save_with_format(&arguments.out, image::ImageFormat::Png)
        .map_err(|error| storage(&arguments.out, error))?;
    Ok(Exit::Done)
}

fn reader(arguments: &ReaderArguments) -> Outcome {
    let stop = stop_flag()?;
    let time = arguments
        .minutes
        .map(|minutes| Duration::from_secs(60 * minutes));
    let (seed, steps) = (arguments.seed, arguments.steps);
    let done = train_reader(&arguments.out, seed, steps, time, &stop).map_err(failure)?;
    match done {
        Some(accuracy) => {
            print_json(&accuracy)?;
            Ok(Exit::Done)
        }
        None => {
            if std::io::stderr().is_terminal() {
                eprintln!("stopped early; everything is saved, run the same command again");
            }
            Ok(Exit::Stopped)
        }
    }
}

/// A flag that SIGINT and SIGTERM set; a second signal ends the program at once.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in not_ignored([SIGINT, SIGTERM]) {
        flag::register_conditional_shutdown(signal, Exit::Stopped as i32, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    }
    Ok(stop)
}

fn failure(error: TrainError) -> Failure {
    let exit = match &error {
        TrainError::Io { .. } => Exit::Storage,
        TrainError::BadFile { .. } | TrainError::TooEarly { .. } | TrainError::Finished { .. } => {
            Exit::Input
        }
        _ => Exit::Unexpected,
    };
    Failure::new(exit, error)
}

fn storage(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Storage, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Given {
        #[command(flatten)]
        manifest: ManifestArguments,
    }

    fn given(arguments: &str) -> Result<ManifestArguments, clap::Error> {
        let words = ["manifest"].into_iter().chain(arguments.split_whitespace());
        Given::try_parse_from(words).map(|given| given.manifest)
    }

    #[test]
    fn stories_of_a_pattern_have_the_shots_that_are_asked_for() {
        let ids = |arguments: &str| -> Vec<(String, usize)> {
            let stories = given(arguments).unwrap().stories;
            stories
                .draw()
                .map(|story| (story.id.to_string(), story.shots.len()))
                .collect()
        };
        let recall = ids("--pattern insert_recall --stories 2 --seed 7");
        assert_eq!(recall[1], ("tiny-held-out-recall-8".to_owned(), 6));
        let long = ids("--pattern composable --stories 1 --shots 40 --split train");
        assert_eq!(long, [("tiny-train-composable40-0".to_owned(), 40)]);
        assert_eq!(ids("--stories 1")[0].0, "tiny-held-out-0");
        for (wrong, hint) in [
            ("--shots 8", "--pattern"),
            ("--pattern main_subject --shots 41", "from 1 to 40"),
            ("--pattern recall", "insert_recall"),
            ("--method twostory", "onestory"),
        ] {
            let said = given(wrong).unwrap_err().to_string();
            assert!(said.contains(hint), "{wrong}: {said}");
        }
        assert_eq!(
            given("--method onestory").unwrap().method,
            Some(Method::OneStory)
        );
    }
}
