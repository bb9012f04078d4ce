//! `storyloom repair`: puts a run folder in order.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use storyloom_orchestrator::RunFolder;
use storyloom_orchestrator::recorded;
use storyloom_orchestrator::repair::{CameTo, Repair, Repaired, lines, repair};
use storyloom_story::StoryId;

use super::{folder, memory};
use crate::exit::{Exit, Failure, Outcome};
use crate::input::Input;
use crate::output::{print, print_json};

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folder.
    folder: PathBuf,
    /// Stories; all of the run if there are none.
    #[arg(value_parser = |text: &str| StoryId::new(text))]
    stories: Vec<StoryId>,
    /// Only heal what records and blobs can heal; what must be made again is left to the next start of
    /// the run.
    #[arg(long)]
    heal_only: bool,
    /// Make a shot whose files are lost anew, with all shots after it, instead of again as its record
    /// says. For shots that come out otherwise now: on another device, or with another ffmpeg.
    #[arg(long)]
    anew: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

/// Compares everything with its records, and heals what is not as they say. Fails with 1 when something
/// is left that somebody has to see to, and with 75 when the run has to be started again.
pub fn run(arguments: &Arguments) -> Outcome {
    let opened = folder::open(&arguments.folder);
    if let Ok(run) = opened.run_file()
        && let Some(story) = arguments
            .stories
            .iter()
            .find(|id| !run.stories.contains(id))
    {
        return Err(memory::unknown(story, &run.stories));
    }
    let how = Repair {
        stories: &arguments.stories,
        anew: arguments.anew,
        lease_timeout: lease_timeout(&opened),
    };
    let repaired = repair(&opened, &how).map_err(folder::failure)?;
    if arguments.json {
        print_json(&repaired)?;
    } else {
        print(&text(&repaired))?;
    }
    let made = match arguments.heal_only {
        true => None,
        false => make(&opened, &repaired)?,
    };
    // What is the whole run's, only the run itself writes anew.
    let mut to_make = repaired
        .deeds
        .iter()
        .filter(|deed| deed.came_to == CameTo::ToMake);
    let is_open = to_make.any(|deed| made.is_none() || deed.story.is_none());
    if is_open {
        eprintln!("start the run again with its own command: it makes what is missing");
    }
    let own = match is_open {
        _ if repaired.came_to(CameTo::Left) => Exit::Unexpected,
        true => Exit::Stopped,
        false => Exit::Done,
    };
    Ok(own.worse_of(made.unwrap_or(Exit::Done)))
}

/// How long a program of the run may show no sign of life.
fn lease_timeout(folder: &RunFolder) -> Duration {
    const USUAL: u64 = 60;
    let run = folder.run_file().ok();
    let noted = run.and_then(|run| recorded(&run.config, "run.lease_timeout")?.as_u64());
    Duration::from_secs(noted.unwrap_or(USUAL))
}

/// Makes what was lost again, with the settings of the run, in a program of its own: a run has logs and
/// signals of its own. `None` if nothing is to be made, or not here.
fn make(folder: &RunFolder, repaired: &Repaired) -> Result<Option<Exit>, Failure> {
    let Ok(run) = folder.run_file() else {
        return Ok(None);
    };
    // How sums are divided among ranks decides their last bits.
    let shared = ["tensor", "sequence"].map(|kind| run.config["topology"][kind].as_u64());
    if shared.iter().flatten().any(|&ranks| ranks > 1) {
        return Ok(None);
    }
    let lines = lines(folder, &repaired.to_make);
    if lines.is_empty() {
        return Ok(None);
    }
    eprintln!("{} stories are made whole again", lines.len());
    let failed = |error| Failure::new(Exit::Unexpected, format!("cannot start the run: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("run").arg("--out").arg(folder.root());
    command
        .arg("--again")
        .args(lines.iter().map(|line| line.id().as_str()));
    let ended = end_of(stopped_with_us(&mut command)).map_err(failed)?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    let exit = code.and_then(Exit::of_code).unwrap_or(Exit::Unexpected);
    if lines.len() == repaired.to_make.len() {
        return Ok(Some(exit));
    }
    eprintln!("start the run again with its own command for the stories that need its input");
    Ok(Some(exit.worse_of(Exit::Stopped)))
}

/// Runs a program to its end, and passes on to it who asks this one to stop. Ctrl-C comes to both by
/// itself.
fn end_of(command: &mut Command) -> std::io::Result<ExitStatus> {
    const PAUSE: Duration = Duration::from_millis(50);
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGUSR1] {
        signal_hook::flag::register(signal, asked.clone())?;
    }
    signal_hook::flag::register(SIGINT, Arc::new(AtomicBool::new(false)))?;
    let mut child = command.spawn()?;
    loop {
        if asked.swap(false, Ordering::Relaxed)
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM)?;
        }
        if let Some(ended) = child.try_wait()? {
            return Ok(ended);
        }
        std::thread::sleep(PAUSE);
    }
}

/// A program that is asked to stop when this one ends before it.
fn stopped_with_us(command: &mut Command) -> &mut Command {
    let ask = || {
        // SAFETY: `prctl` with PR_SET_PDEATHSIG takes a number and changes nothing but the calling process.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) }
}

/// The stories `again` of the run in `out`, as they were begun.
pub(super) fn input(out: &Path, again: &[StoryId]) -> Input {
    let folder = folder::open(out);
    Input::of_lines(lines(&folder, again), out.to_owned())
}

/// The settings of the run in `out`.
pub(super) fn settings_of(out: &Path) -> Result<Vec<String>, Failure> {
    let run = folder::open(out).run_file().map_err(folder::failure)?;
    let mut sets = Vec::new();
    settings(String::new(), &run.config, &mut sets);
    // One rank does it.
    sets.retain(|set| !set.starts_with("topology."));
    Ok(sets)
}

/// The settings of a run as options of a command line have them.
fn settings(key: String, value: &Value, sets: &mut Vec<String>) {
    match value {
        Value::Object(parts) => {
            for (name, value) in parts {
                let dot = if key.is_empty() { "" } else { "." };
                settings(format!("{key}{dot}{name}"), value, sets);
            }
        }
        Value::String(text) => sets.push(format!("{key}={text}")),
        value => sets.push(format!("{key}={value}")),
    }
}

fn text(repaired: &Repaired) -> String {
    let mut text = String::new();
    for deed in &repaired.deeds {
        let story = deed.story.as_ref().map(|story| format!("{story} "));
        let shot = deed.shot.map(|shot| format!("{shot} "));
        let came_to = match deed.came_to {
            CameTo::Healed => "healed",
            CameTo::ToMake => "to be made again",
            CameTo::Left => "left",
        };
        let (story, shot) = (story.unwrap_or_default(), shot.unwrap_or_default());
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{story}{shot}{came_to}: {}", deed.what);
    }
    let count = |came_to| {
        let deeds = repaired.deeds.iter();
        deeds.filter(|deed| deed.came_to == came_to).count()
    };
    let _ = writeln!(
        text,
        "{} stories looked at: {} things healed, {} to be made again, {} left",
        repaired.stories,
        count(CameTo::Healed),
        count(CameTo::ToMake),
        count(CameTo::Left)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, load};

    /// What a run notes is what its options were, whatever they are.
    #[test]
    fn the_settings_of_a_run_come_back() {
        let given = [
            "run.seed=7",
            "storymem.boundary.i2v=0.8",
            "storymem.negative_prompt=\"a 'b' = c\", d",
            "pictures.ground=#f4f4f0",
            "onestory.negative_prompt= ",
            "metrics.names=true",
            "storymem.similarity_start=0.85",
        ];
        let config = load(None, [], &given.map(str::to_owned)).unwrap();
        let mut sets = Vec::new();
        settings(String::new(), &config.to_json(), &mut sets);
        let again = load(None, [], &sets).unwrap();
        assert_eq!(again.to_json(), config.to_json());
        assert_eq!(again.onestory.negative_prompt, " ");
        assert_ne!(config.to_json(), Config::default().to_json());
    }
}
