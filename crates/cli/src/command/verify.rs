//! `storyloom verify`: the proof of a run.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use storyloom_memory::PolicySettings;
use storyloom_orchestrator::rescore::Rescored;
use storyloom_orchestrator::run_folder::RunFile;
use storyloom_orchestrator::verify::{Depth, Verdict, VerifyProblem, VideosProven, verify};
use storyloom_story::Method;
use storyloom_story::onestory::Selector;

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
        (false, rescored) => {
            let networks = rescored.map(|rescored| {
                let run = folder::open(&arguments.folder).run_file();
                let selector = run.map(|run| selector_of(&run)).map_err(folder::failure)?;
                Ok::<_, Failure>(text_of_networks(&rescored, selector))
            });
            print_verdict(arguments, &verdict, networks.transpose()?)?;
        }
    }
    Ok(if ok { Exit::Done } else { Exit::Unexpected })
}

/// Prints a verdict, and what helps.
fn print_verdict(
    arguments: &Arguments,
    verdict: &Verdict,
    networks: Option<String>,
) -> Result<(), Failure> {
    let mut said = text(verdict);
    said.extend(networks);
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

/// What scores the history in the stories of OneStory of a run.
fn selector_of(run: &RunFile) -> Selector {
    match run.terms(Method::OneStory).map(|terms| terms.memory) {
        Some(PolicySettings::OneStory(policy)) => policy.selector,
        _ => Selector::default(),
    }
}

/// What came of scoring again; by some selectors no network scores.
fn text_of_networks(rescored: &Rescored, selector: Selector) -> String {
    let mut text = problems(&rescored.problems);
    let shots = rescored.shots_proven;
    // Writing to a text cannot fail.
    let _ = match selector {
        Selector::Learned | Selector::Clip => writeln!(
            text,
            "the scores of {shots} shots are what the networks say again; the largest difference is {:.1e}",
            rescored.largest_difference
        ),
        Selector::Recent | Selector::Uniform => writeln!(
            text,
            "the scores of {shots} shots follow from the length of their history, and are so again; this selector asks \
             no network"
        ),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_selectors_with_a_network_are_said_to_have_asked_it() {
        let found = Rescored {
            shots_proven: 5,
            ..Rescored::default()
        };
        for (selector, wanted) in [
            (Selector::Learned, "5 shots are what the networks say again"),
            (Selector::Clip, "5 shots are what the networks say again"),
            (
                Selector::Recent,
                "5 shots follow from the length of their history",
            ),
            (
                Selector::Uniform,
                "5 shots follow from the length of their history",
            ),
        ] {
            let said = text_of_networks(&found, selector);
            assert!(said.contains(wanted), "{said}");
        }
    }
}
