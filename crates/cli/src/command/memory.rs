//! `storyloom memory`: what the bank held.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use storyloom_orchestrator::RunFolder;
use storyloom_orchestrator::memory_view::{StoryMemory, story_memory};
use storyloom_orchestrator::run::sweep;
use storyloom_orchestrator::watch::Watcher;
use storyloom_story::{ShotId, StoryId, nearest};

use super::folder;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_json};

/// Arguments of `memory`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Story, or `gc` to remove stored blobs that nothing names any more; that is safe beside
    /// running programs, with a grace of at least ten minutes.
    #[arg(value_parser = |text: &str| StoryId::new(text))]
    story: StoryId,
    /// With `gc`: leave blobs alone that are younger than this number of seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    grace: u64,
    /// Only this shot, as in 01_02.
    #[arg(long)]
    shot: Option<ShotId>,
    /// Print the memory as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints, for each finished shot, the pictures that it saw and those that it added.
pub fn run(arguments: &Arguments) -> Outcome {
    let opened = folder::open(&arguments.folder);
    let stories = opened.run_file().map_err(folder::failure)?.stories;
    if arguments.story.as_str() == "gc" && !stories.contains(&arguments.story) {
        return gc(&opened, arguments);
    }
    if !stories.contains(&arguments.story) {
        return Err(unknown(&arguments.story, &stories));
    }
    let memory =
        story_memory(&opened, &arguments.story, arguments.shot).map_err(folder::failure)?;
    if arguments.json {
        print_json(&memory)?;
    } else {
        print(&text(&memory, &opened.story(&arguments.story)))?;
    }
    Ok(Exit::Done)
}

/// Least grace beside programs that work on the run. Less would lose nothing, but take away what they
/// have just stored, so that they would make their shots again and again.
const LEAST_BESIDE: Duration = Duration::from_secs(600);

fn gc(folder: &RunFolder, arguments: &Arguments) -> Outcome {
    let grace = Duration::from_secs(arguments.grace);
    if grace < LEAST_BESIDE {
        let view = Watcher::new(folder::open(&arguments.folder))
            .look()
            .map_err(folder::failure)?;
        if let Some(worker) = view.alive().next() {
            let message = format!(
                "{} works on the run; beside it gc needs --grace {} or more, or run it afterwards",
                worker.id,
                LEAST_BESIDE.as_secs()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
    }
    let sweep = sweep(folder, grace).map_err(folder::failure)?;
    if arguments.json {
        print_json(&sweep)?;
    } else {
        let (removed, megabytes) = (sweep.removed, sweep.freed_bytes as f64 / 1e6);
        print(&format!(
            "{removed} blobs removed, {megabytes:.1} MB; {} left\n",
            sweep.kept
        ))?;
    }
    Ok(Exit::Done)
}

/// The error of a story that the run does not have.
pub(super) fn unknown(story: &StoryId, stories: &[StoryId]) -> Failure {
    let near = nearest(story.as_str(), stories.iter().map(StoryId::as_str));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Failure::new(Exit::Input, format!("the run has no story {story}{hint}"))
}

fn text(memory: &StoryMemory, folder: &Path) -> String {
    let mut text = format!("pictures are in {}\n", folder.display());
    let list = |files: &[String]| match files {
        [] => "nothing".to_owned(),
        files => files.join(" "),
    };
    // Writing to a text cannot fail.
    if !memory.references.is_empty() {
        let _ = writeln!(text, "references {}", list(&memory.references));
    }
    for shot in &memory.shots {
        let _ = writeln!(text, "{} saw   {}", shot.shot, list(&shot.saw));
        for seen in shot.chosen.iter().flat_map(|chosen| &chosen.frames) {
            let _ = writeln!(text, "{} chose {seen}", shot.shot);
        }
        for added in &shot.added {
            let file = &added.file;
            let frame = match added.frame {
                Some(frame) => format!("frame {frame}"),
                None => "the whole shot".to_owned(),
            };
            let quality = added.quality;
            let quality = quality.map_or_else(String::new, |q| format!(", quality {q:.3}"));
            let _ = writeln!(text, "{} added {file} ({frame}{quality})", shot.shot);
        }
    }
    text
}
