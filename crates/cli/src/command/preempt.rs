//! `storyloom bench preempt`: what kills cost, by the level at which a run resumes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Arguments of `bench preempt`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder to work in; a new folder in it is filled and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Stories of the run, on the simulated engine.
    #[arg(long, default_value_t = 4)]
    stories: usize,
    /// Shots of each story.
    #[arg(long, default_value_t = 4)]
    shots: usize,
    /// Denoise steps of each shot.
    #[arg(long, default_value_t = 40)]
    steps: u32,
    /// Milliseconds of each step.
    #[arg(long, default_value_t = 50)]
    step_ms: u64,
    /// Seconds between two kills, on average; the intervals are drawn from an exponential
    /// distribution, the same for each level.
    #[arg(long, default_value_t = 5.0)]
    uptime: f64,
    /// Seconds between kills as a JSON list, used again from its start, instead of drawn ones.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Seed of the drawn intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A level is given up when it has taken this multiple of the undisturbed time.
    #[arg(long, default_value_t = 6.0)]
    limit: f64,
}

/// Figures of `bench preempt`.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Seconds of the run without any kill.
    calm_seconds: f64,
    /// Mean of the intervals between kills that were used, in seconds.
    mean_interval_seconds: f64,
    levels: Vec<LevelFigures>,
}

#[derive(Debug, Serialize)]
struct LevelFigures {
    /// What a start goes on from.
    level: Level,
    /// Whether the run got to its end within the limit.
    finished: bool,
    kills: usize,
    /// Seconds in which a program ran.
    paid_seconds: f64,
    /// Undisturbed seconds over paid seconds; of an unfinished run, less than this.
    goodput: f64,
    /// Paid seconds beyond the undisturbed ones, over kills.
    lost_seconds_per_kill: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Step,
    Shot,
    Story,
}

/// Runs the same stories undisturbed and then under the same kills at each level.
pub fn measure(arguments: &Arguments) -> Result<Figures, Failure> {
    let root = arguments
        .dir
        .join(format!("bench-preempt-{}", std::process::id()));
    let bench = Bench {
        root: root.clone(),
        intervals: intervals(arguments)?,
        arguments,
    };
    let figures = bench.all();
    // Best effort: what is left is plain files in a folder whose name says what it is.
    let _ = fs::remove_dir_all(root);
    figures
}

fn intervals(arguments: &Arguments) -> Result<Vec<f64>, Failure> {
    let wrong = |error: String| Failure::new(Exit::Usage, error);
    let intervals: Vec<f64> = match &arguments.trace {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
            serde_json::from_str(&text)
                .map_err(|error| wrong(format!("{}: {error}", path.display())))?
        }
        None => {
            let mut state = arguments.seed | 1;
            let mut uniform = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
            };
            // The first draws of a small seed are small.
            for _ in 0..16 {
                uniform();
            }
            (0..256)
                .map(|_| -arguments.uptime * uniform().ln())
                .collect()
        }
    };
    if intervals.is_empty()
        || intervals
            .iter()
            .any(|&seconds| !(0.0..1e9).contains(&seconds))
    {
        return Err(wrong(
            "intervals between kills are numbers of seconds".to_owned(),
        ));
    }
    Ok(intervals)
}

struct Bench<'a> {
    root: PathBuf,
    intervals: Vec<f64>,
    arguments: &'a Arguments,
}

impl Bench<'_> {
    fn all(&self) -> Result<Figures, Failure> {
        fs::create_dir_all(&self.root).map_err(failed)?;
        self.write_manifest()?;
        let begun = Instant::now();
        let status = self.start("calm", Level::Shot)?.wait().map_err(failed)?;
        let calm_seconds = begun.elapsed().as_secs_f64();
        if !status.success() {
            let message = format!("the undisturbed run failed: {status}");
            return Err(Failure::new(Exit::Unexpected, message));
        }
        let mut levels = Vec::new();
        let mut used = 0;
        for level in [Level::Step, Level::Shot, Level::Story] {
            let figures = self.level(level, calm_seconds)?;
            used = used.max(figures.kills);
            levels.push(figures);
        }
        let used = used.clamp(1, self.intervals.len());
        Ok(Figures {
            calm_seconds,
            mean_interval_seconds: self.intervals[..used].iter().sum::<f64>() / used as f64,
            levels,
        })
    }

    fn write_manifest(&self) -> Result<(), Failure> {
        let shots = self.arguments.shots.max(1);
        let lines = (0..self.arguments.stories.max(1)).map(|number| {
            let prompts: Vec<String> = (1..=shots).map(|shot| format!("Shot {shot}.")).collect();
            let scene = serde_json::json!({
                "scene_num": 1, "video_prompts": prompts, "cut": vec![true; shots],
            });
            let id = format!("story-{number}");
            serde_json::json!({"id": id, "script": {"scenes": [scene]}}).to_string()
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        fs::write(self.root.join("manifest.jsonl"), text).map_err(failed)
    }

    fn start(&self, out: &str, level: Level) -> Result<Child, Failure> {
        let steps = self.arguments.steps;
        // Shots and stories are never saved in between.
        let every = if level == Level::Step { 0 } else { steps + 1 };
        let mean = self.intervals.iter().sum::<f64>() / self.intervals.len() as f64;
        let sets = [
            "engine=simulated".to_owned(),
            "device=cpu".to_owned(),
            "video.width=64".to_owned(),
            "video.height=48".to_owned(),
            "video.frames=9".to_owned(),
            format!("storymem.steps={steps}"),
            format!("simulated.step_ms={}", self.arguments.step_ms),
            format!("checkpoint.every_steps={every}"),
            format!("checkpoint.uptime={}", mean / 60.0),
        ];
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        command.args(["run", "--manifest"]);
        command.arg(self.root.join("manifest.jsonl"));
        command.arg("--out").arg(self.root.join(out));
        command.args(sets.iter().flat_map(|set| ["--set", set]));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(failed)
    }

    fn level(&self, level: Level, calm_seconds: f64) -> Result<LevelFigures, Failure> {
        let out = format!("{level:?}").to_lowercase();
        let (mut paid, mut kills, mut finished) = (0.0, 0, false);
        while !finished && paid < self.arguments.limit * calm_seconds {
            let interval = Duration::from_secs_f64(self.intervals[kills % self.intervals.len()]);
            let begun = Instant::now();
            let mut child = self.start(&out, level)?;
            finished = wait(&mut child, interval)?;
            paid += begun.elapsed().as_secs_f64();
            if !finished {
                kills += 1;
                if level == Level::Story {
                    forget_unfinished(&self.root.join(&out))?;
                }
            }
        }
        Ok(LevelFigures {
            level,
            finished,
            kills,
            paid_seconds: paid,
            goodput: calm_seconds / paid,
            lost_seconds_per_kill: (paid - calm_seconds) / kills.max(1) as f64,
        })
    }
}

/// Whether the program came to its end in time; otherwise it is killed.
fn wait(child: &mut Child, time: Duration) -> Result<bool, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if let Some(status) = child.try_wait().map_err(failed)? {
            if status.success() {
                return Ok(true);
            }
            let message = format!("a run failed by itself: {status}");
            return Err(Failure::new(Exit::Unexpected, message));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().map_err(failed)?;
    child.wait().map_err(failed)?;
    Ok(false)
}

/// Removes the stories that are not done, as if only whole stories were ever saved.
fn forget_unfinished(out: &Path) -> Result<(), Failure> {
    let stories = out.join("stories");
    for entry in fs::read_dir(&stories).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("story.json")).unwrap_or_default();
        let story: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if story["state"]["state"] != "done" {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn failed(error: io::Error) -> Failure {
    Failure::new(Exit::Storage, error)
}
