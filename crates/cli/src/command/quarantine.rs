//! `storyloom quarantine` and `storyloom retry`: stories that cannot be made.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use storyloom_orchestrator::quarantine::{self, Quarantined};
use storyloom_story::StoryId;

use super::{folder, memory};
use crate::exit::{Exit, Outcome};
use crate::output::{print, print_json};

/// Arguments of `quarantine`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Run folder.
    folder: PathBuf,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub struct RetryArguments {
    /// Run folder.
    folder: PathBuf,
    /// Stories; all that failed or are in quarantine, if none is given.
    #[arg(value_parser = |text: &str| StoryId::new(text))]
    stories: Vec<StoryId>,
}

/// Prints the stories in quarantine.
pub fn list(arguments: &ListArguments) -> Outcome {
    let list = quarantine::list(&folder::open(&arguments.folder)).map_err(folder::failure)?;
    if arguments.json {
        print_json(&list)?;
    } else {
        print(&text(&list))?;
    }
    Ok(Exit::Done)
}

fn text(list: &[Quarantined]) -> String {
    let mut text = String::new();
    for story in list {
        let shot = story
            .shot
            .map_or_else(String::new, |shot| format!(" {shot}"));
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{}{shot}: {}", story.story, story.reason);
        let _ = writeln!(text, "  alone: {}", story.command);
    }
    text
}

/// Lets stories back and prints which.
pub fn retry(arguments: &RetryArguments) -> Outcome {
    let opened = folder::open(&arguments.folder);
    let known = opened.run_file().map_err(folder::failure)?.stories;
    if let Some(story) = arguments.stories.iter().find(|id| !known.contains(id)) {
        return Err(memory::unknown(story, &known));
    }
    let released = quarantine::release(&opened, &arguments.stories).map_err(folder::failure)?;
    for story in &released {
        print(&format!("{story}\n"))?;
    }
    eprintln!(
        "{} stories are tried again at the next start",
        released.len()
    );
    Ok(Exit::Done)
}
