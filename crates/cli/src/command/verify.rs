//! `storyloom verify`: the proof of a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use storyloom_orchestrator::verify::{Depth, Verdict, VideosProven, verify};

use super::folder;
use crate::exit::{Exit, Outcome};
use crate::output::{print, print_json};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Trust a video whose content is what was recorded, without decoding it.
    #[arg(long)]
    quick: bool,
    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks everything; fails with 1 when anything is missing or wrong.
pub fn run(arguments: &Arguments) -> Outcome {
    let depth = match arguments.quick {
        true => Depth::Content,
        false => Depth::Frames,
    };
    let verdict = verify(&folder::open(&arguments.folder), depth).map_err(folder::failure)?;
    if arguments.json {
        print_json(&verdict)?;
    } else {
        print(&text(&verdict))?;
        if !verdict.ok {
            let folder = arguments.folder.display();
            eprintln!(
                "what is not finished the next start makes; `storyloom repair {folder}` heals damage, or \
                 says what else helps"
            );
        }
    }
    Ok(if verdict.ok {
        Exit::Done
    } else {
        Exit::Unexpected
    })
}

fn text(verdict: &Verdict) -> String {
    let mut text = String::new();
    for problem in &verdict.problems {
        // Writing to a text cannot fail.
        let _ = match (&problem.story, problem.shot) {
            (Some(story), Some(shot)) => writeln!(text, "{story} {shot}: {}", problem.message),
            (Some(story), None) => writeln!(text, "{story}: {}", problem.message),
            (None, _) => writeln!(text, "{}", problem.message),
        };
    }
    let _ = writeln!(
        text,
        "{} of {} shots proven",
        verdict.shots_proven, verdict.shots
    );
    let videos = match verdict.videos {
        VideosProven::Decoded => "",
        VideosProven::Content => "the videos are as they were made; they were not decoded\n",
        VideosProven::Placeholders => {
            "there are no videos: the run was told to make none (simulated.videos = false)\n"
        }
    };
    text.push_str(videos);
    if let Some(digest) = &verdict.content_digest {
        let _ = writeln!(text, "content_digest {digest}");
    }
    text
}
