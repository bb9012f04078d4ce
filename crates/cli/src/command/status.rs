//! `storyloom status`: how far a run is.

use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use storyloom_orchestrator::StoryState;
use storyloom_orchestrator::status::{Counts, Status, status};
use storyloom_story::ShotId;

use super::folder;
use crate::exit::{Exit, Outcome};
use crate::output::{print, print_json};

/// Time between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);
/// Puts the cursor of a terminal at its top left and clears what is below.
const HOME: &str = "\x1b[H\x1b[J";

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Print the status as JSON.
    #[arg(long)]
    json: bool,
    /// Look again every two seconds until no story is left.
    #[arg(long)]
    watch: bool,
}

/// Prints the status, once or until every story is done or given up.
pub fn run(arguments: &Arguments) -> Outcome {
    let opened = folder::open(&arguments.folder);
    loop {
        let now = status(&opened).map_err(folder::failure)?;
        if arguments.json {
            print_json(&now)?;
        } else {
            let home = if arguments.watch && stdout().is_terminal() {
                HOME
            } else {
                ""
            };
            print(&format!("{home}{}", text(&now)))?;
        }
        if !arguments.watch || now.stories.running + now.stories.pending == 0 {
            return Ok(Exit::Done);
        }
        std::thread::sleep(PAUSE);
    }
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let row = |name: &str, counts: &Counts| {
        let Counts {
            total,
            done,
            running,
            pending,
            failed,
            quarantined,
        } = counts;
        format!(
            "{name:<8} {total:>6} {done:>6} {running:>8} {pending:>8} {failed:>7} {quarantined:>12}\n"
        )
    };
    text.push_str("          total   done  running  pending  failed  quarantined\n");
    text.push_str(&row("stories", &status.stories));
    text.push_str(&row("shots", &status.shots));
    // Writing to a text cannot fail.
    if let Some(rate) = status.shots_per_hour {
        let _ = writeln!(text, "{rate:.1} shots per hour of work");
    }
    if let Some(goodput) = status.goodput {
        let _ = writeln!(
            text,
            "{:.1} % of the time of all ranks went into work that was kept",
            goodput * 100.0
        );
    }
    if let Some(seconds) = status.eta_seconds.filter(|&seconds| seconds > 0.0) {
        let _ = writeln!(text, "{} left", human(seconds));
    }
    for story in &status.list {
        let state = match &story.state {
            StoryState::Pending => "pending".to_owned(),
            StoryState::Running => "running".to_owned(),
            StoryState::Done => "done".to_owned(),
            StoryState::Failed { shot, reason } => given_up("failed", *shot, reason),
            StoryState::Quarantined { shot, reason } => given_up("in quarantine", *shot, reason),
        };
        let _ = writeln!(
            text,
            "{:<32} {:>3}/{:<3} {state}",
            story.id.as_str(),
            story.done,
            story.shots
        );
    }
    text
}

fn given_up(how: &str, shot: Option<ShotId>, reason: &str) -> String {
    let shot = shot.map_or_else(String::new, |shot| format!(" at {shot}"));
    format!("{how}{shot}: {reason}")
}

fn human(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}
