//! `storyloom bench control`: how many shots a second the control plane commits, when making them
//! takes no time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, io};

use clap::Args;
use serde::Serialize;
use storyloom_orchestrator::status::status;

use super::folder;
use crate::exit::{Exit, Failure};

/// Arguments of `bench control`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder to work in; a new folder in it is filled and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Stories of the run, on the simulated engine, without videos.
    #[arg(long, default_value_t = 10_000)]
    stories: usize,
    /// Shots of each story.
    #[arg(long, default_value_t = 10)]
    shots: usize,
    /// Programs that share the run, each a rank of one local world.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Stories that each makes side by side.
    #[arg(long, default_value_t = 3)]
    interleave: usize,
    /// Windows of equal time in which commits are counted.
    #[arg(long, default_value_t = 10)]
    windows: usize,
}

/// Figures of `bench control`.
#[derive(Debug, Serialize)]
pub struct Figures {
    stories: usize,
    /// Shots that were committed.
    shots: usize,
    ranks: usize,
    interleave: usize,
    /// From the start of the programs to their end.
    wall_seconds: f64,
    /// From the start to the first commit: every story's file is written, the index opened.
    seconds_to_first_commit: f64,
    /// Commits in a second between the first and the last.
    shots_per_second: f64,
    /// The same in windows of equal time.
    windows: Vec<f64>,
    /// The slowest window but the last over the fastest; 1 is flat. Neighbours of the machine count.
    flatness: f64,
    /// Commits in the second half of that time over those in the first; below 1 it gets slower with
    /// what is there already.
    second_half_over_first: f64,
    /// `status` of the finished run, in seconds.
    status_seconds: f64,
}

/// Makes shots that take no time and counts their records.
pub fn measure(arguments: &Arguments) -> Result<Figures, Failure> {
    let root = arguments
        .dir
        .join(format!("bench-control-{}", std::process::id()));
    let figures = all(&root, arguments);
    // Best effort: what is left is plain files in a folder whose name says what it is.
    let _ = fs::remove_dir_all(root);
    figures
}

fn all(root: &Path, arguments: &Arguments) -> Result<Figures, Failure> {
    fs::create_dir_all(root).map_err(failed)?;
    let manifest = root.join("manifest.jsonl");
    fs::write(&manifest, manifest_text(arguments)).map_err(failed)?;
    let out = root.join("run");
    let (begun, begun_at) = (Instant::now(), SystemTime::now());
    let status_of_world = command(arguments, &manifest, &out)?
        .status()
        .map_err(failed)?;
    let wall_seconds = begun.elapsed().as_secs_f64();
    if !status_of_world.success() {
        let message = format!("the run failed: {status_of_world}");
        return Err(Failure::new(Exit::Unexpected, message));
    }
    let looked = Instant::now();
    let done = status(&folder::open(&out))
        .map_err(folder::failure)?
        .shots
        .done;
    let status_seconds = looked.elapsed().as_secs_f64();
    let times = commit_times(&out, begun_at)?;
    let wanted = arguments.stories * arguments.shots;
    if (done, times.len()) != (wanted, wanted) {
        let message = format!("{done} shots and {} records, not {wanted}", times.len());
        return Err(Failure::new(Exit::Unexpected, message));
    }
    let (first, last) = (times[0], times[times.len() - 1]);
    let windows = rates(&times, arguments.windows.max(1));
    let halves = rates(&times, 2);
    let whole = &windows[..windows.len().saturating_sub(1).max(1)];
    let fastest = windows.iter().copied().fold(0.0, f64::max);
    Ok(Figures {
        stories: arguments.stories,
        shots: done,
        ranks: arguments.ranks,
        interleave: arguments.interleave,
        wall_seconds,
        seconds_to_first_commit: first,
        shots_per_second: times.len() as f64 / (last - first).max(f64::MIN_POSITIVE),
        flatness: whole.iter().copied().fold(f64::INFINITY, f64::min) / fastest,
        second_half_over_first: halves[1] / halves[0],
        windows,
        status_seconds,
    })
}

fn manifest_text(arguments: &Arguments) -> String {
    let shots = arguments.shots.max(1);
    let prompts: Vec<String> = (1..=shots).map(|shot| format!("Shot {shot}.")).collect();
    let line = |number: usize| {
        let scene = serde_json::json!({
            "scene_num": 1, "video_prompts": prompts, "cut": vec![true; shots],
        });
        let id = format!("story-{number:06}");
        serde_json::json!({"id": id, "script": {"scenes": [scene]}}).to_string()
    };
    let lines: Vec<String> = (0..arguments.stories.max(1)).map(line).collect();
    lines.join("\n")
}

fn command(arguments: &Arguments, manifest: &Path, out: &Path) -> Result<Command, Failure> {
    let sets = [
        "engine=simulated".to_owned(),
        "simulated.videos=false".to_owned(),
        "video.width=16".to_owned(),
        "video.height=16".to_owned(),
        "video.frames=5".to_owned(),
        "storymem.steps=1".to_owned(),
        format!("topology.interleave={}", arguments.interleave.max(1)),
    ];
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    let ranks = arguments.ranks.max(1).to_string();
    command.args(["launch", "-n", &ranks, "run", "--manifest"]);
    command.arg(manifest).arg("--out").arg(out);
    command.args(sets.iter().flat_map(|set| ["--set", set]));
    // A line of progress per shot would be half of the work.
    command.env("STORYLOOM_LOG", "warn");
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok(command)
}

/// When each record was written, in seconds after `begun`, in order.
fn commit_times(out: &Path, begun: SystemTime) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::new();
    for story in fs::read_dir(out.join("stories")).map_err(failed)? {
        let commits = story.map_err(failed)?.path().join("commits");
        for record in fs::read_dir(commits).map_err(failed)? {
            let metadata = record.map_err(failed)?.metadata().map_err(failed)?;
            let written = metadata.modified().map_err(failed)?;
            let after = written.duration_since(begun).unwrap_or(Duration::ZERO);
            times.push(after.as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Events in a second in each of `n` windows of equal length, from the first to the last.
fn rates(times: &[f64], windows: usize) -> Vec<f64> {
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return Vec::new();
    };
    let length = ((last - first) / windows as f64).max(f64::MIN_POSITIVE);
    let mut counts = vec![0_usize; windows];
    for time in times {
        let window = ((time - first) / length) as usize;
        counts[window.min(windows - 1)] += 1;
    }
    counts.iter().map(|&count| count as f64 / length).collect()
}

fn failed(error: io::Error) -> Failure {
    Failure::new(Exit::Storage, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_every_event_once() {
        let times: Vec<f64> = (0..=100).map(f64::from).collect();
        let found = rates(&times, 4);
        let counts: Vec<f64> = found.iter().map(|rate| (rate * 25.0).round()).collect();
        assert_eq!(counts, [25.0, 25.0, 25.0, 26.0]);
        assert!(rates(&[], 4).is_empty());
        assert_eq!(rates(&[2.0], 1).len(), 1);
    }
}
