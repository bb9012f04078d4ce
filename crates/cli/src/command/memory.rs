//! `storyloom memory`: what the bank held.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use storyloom_orchestrator::memory_view::{StoryMemory, story_memory};
use storyloom_story::{ShotId, StoryId, nearest};

use super::folder;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_json};

/// Arguments of `memory`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Story.
    #[arg(value_parser = |text: &str| StoryId::new(text))]
    story: StoryId,
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

fn unknown(story: &StoryId, stories: &[StoryId]) -> Failure {
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
        for added in &shot.added {
            let (file, frame, quality) = (&added.file, added.frame, added.quality);
            let _ = writeln!(
                text,
                "{} added {file} (frame {frame}, quality {quality:.3})",
                shot.shot
            );
        }
    }
    text
}
