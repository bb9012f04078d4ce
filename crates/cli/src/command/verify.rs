//! `storyloom verify`: the proof of a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use storyloom_orchestrator::rescore::Rescored;
use storyloom_orchestrator::verify::{Depth, Verdict, VerifyProblem, VideosProven, verify};

use super::folder;
use super::verify_networks::score_again;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_json};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Trust a video whose content is what was recorded, without decoding it.
    #[arg(long)]
    quick: bool,
    /// Load the networks that decided what shots saw of their history (OneStory), and score it again.
    #[arg(long)]
    networks: bool,
    /// Folder of the checkpoints of the run, where it is not what it was.
    #[arg(long, value_name = "DIR", requires = "networks")]
    models: Option<PathBuf>,
    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

/// A verdict with what networks said again.
#[derive(Serialize)]
struct WithNetworks {
    #[serde(flatten)]
    verdict: Verdict,
    networks: Rescored,
}

/// Checks everything; fails with 1 when anything is missing or wrong.
pub fn run(arguments: &Arguments) -> Outcome {
    let depth = match arguments.quick {
        true => Depth::Content,
        false => Depth::Frames,
    };
    let verdict = verify(&folder::open(&arguments.folder), depth).map_err(folder::failure)?;
    let rescored = arguments
        .networks
        .then(|| score_again(&arguments.folder, arguments.models.as_deref()))
        .transpose()?;
    let ok = verdict.ok
        && rescored
            .as_ref()
            .is_none_or(|found| found.problems.is_empty());
    match (arguments.json, rescored) {
        (true, None) => print_json(&verdict)?,
        (true, Some(networks)) => print_json(&WithNetworks { verdict, networks })?,
        (false, rescored) => print_verdict(arguments, &verdict, rescored.as_ref())?,
    }
    Ok(if ok { Exit::Done } else { Exit::Unexpected })
}

/// Prints a verdict, and what helps.
fn print_verdict(
    arguments: &Arguments,
    verdict: &Verdict,
    rescored: Option<&Rescored>,
) -> Result<(), Failure> {
    let mut said = text(verdict);
    said.extend(rescored.map(text_of_networks));
    print(&said)?;
    if !verdict.ok {
        let folder = arguments.folder.display();
        eprintln!(
            "what is not finished the next start makes; `storyloom repair {folder}` heals damage, or \
             says what else helps"
        );
    }
    Ok(())
}

fn text_of_networks(rescored: &Rescored) -> String {
    let mut text = problems(&rescored.problems);
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "the scores of {} shots are what the networks say again; the largest difference is {:.1e}",
        rescored.shots_proven, rescored.largest_difference
    );
    text
}

fn text(verdict: &Verdict) -> String {
    let mut text = problems(&verdict.problems);
    // Writing to a text cannot fail.
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

fn problems(problems: &[VerifyProblem]) -> String {
    let mut text = String::new();
    for problem in problems {
        // Writing to a text cannot fail.
        let _ = match (&problem.story, problem.shot) {
            (Some(story), Some(shot)) => writeln!(text, "{story} {shot}: {}", problem.message),
            (Some(story), None) => writeln!(text, "{story}: {}", problem.message),
            (None, _) => writeln!(text, "{}", problem.message),
        };
    }
    text
}
