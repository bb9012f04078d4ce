//! How well stories side by side keep the denoiser busy, measured on the real orchestrator with a
//! simulated engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use storyloom_memory::IndexKind;
use storyloom_memory::select::{SelectionRule, SelectionSettings};
use storyloom_memory::window::WindowSettings;
use storyloom_story::{
    Continuation, Manifest, Method, Scene, ShotScript, Stage, StoryEntry, StoryId, StoryScript,
    VideoSpec,
};
use storyloom_telemetry::{Event, Reporter};

use crate::config::{CheckpointSettings, PlanningSettings, RunConfig, StopFlag, Videos};
use crate::cost::{CostTable, ReplicaShape, Sampling, Samplings, StageCost};
use crate::error::RunError;
use crate::run::run;
use crate::simulated::{Pace, SimulatedEngine};

/// What is measured.
#[derive(Debug, Clone)]
pub struct PipelineSettings {
    /// Folder to work in; a new folder in it is filled and removed.
    pub place: PathBuf,
    /// Denoising one shot.
    pub denoise: Duration,
    /// Steps of that.
    pub steps: u32,
    /// Stage `encode` as a share of it.
    pub encode: f64,
    /// Stages `decode` and `select` together as a share of it.
    pub decode: f64,
    /// Shots of each run.
    pub shots: usize,
    /// Shots of each story.
    pub story: usize,
    /// Numbers of stories side by side; the first is the baseline.
    pub interleave: Vec<usize>,
    /// Whether video files are made.
    pub videos: Videos,
}

/// Figures of `bench pipeline`.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineFigures {
    /// Seconds of each stage that the engine pretends to need.
    pub denoise_seconds: f64,
    /// As above.
    pub encode_seconds: f64,
    /// As above; `decode` and `select` together.
    pub decode_seconds: f64,
    /// One run each.
    pub runs: Vec<InFlightFigures>,
}

/// A run with so many stories side by side.
#[derive(Debug, Clone, Serialize)]
pub struct InFlightFigures {
    /// Stories side by side.
    pub in_flight: usize,
    /// Shots made.
    pub shots: usize,
    /// Seconds from the first stage to the last.
    pub wall_seconds: f64,
    /// Share of the time in which the denoiser had a shot, from the end of the first shots (one of
    /// each story in flight) to the beginning of the last ones.
    pub efficiency: f64,
    /// The same from beginning to end.
    pub efficiency_with_ends: f64,
    /// Shots that the denoiser made within that window, times what one should take, over the
    /// window: as `efficiency`, but steps that take longer than they should do not count as busy.
    pub of_ideal: f64,
    /// Shots in a second within that window, over those of the first run.
    pub speedup: f64,
    /// Mean milliseconds of stage `plan`.
    pub plan_ms: f64,
    /// Mean milliseconds of stage `commit`, without the record.
    pub commit_ms: f64,
}

/// When stages began and ended.
#[derive(Debug, Default)]
struct Stopwatch {
    seen: Mutex<Vec<(Stage, Instant, Instant)>>,
}

impl Reporter for Stopwatch {
    fn report(&self, event: &Event) {
        let now = Instant::now();
        if let Event::StageFinished { stage, seconds, .. } = event {
            let time = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
            let begun = now.checked_sub(time).unwrap_or(now);
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((*stage, begun, now));
        }
    }
}

/// Makes the same stories with each number of them side by side.
pub fn pipeline(settings: &PipelineSettings) -> Result<PipelineFigures, RunError> {
    let root = settings
        .place
        .join(format!("bench-pipeline-{}", std::process::id()));
    let result = measure(&root, settings);
    // Best effort: what is left is plain files in a folder whose name says what it is.
    let _ = fs::remove_dir_all(&root);
    result
}

fn measure(root: &Path, settings: &PipelineSettings) -> Result<PipelineFigures, RunError> {
    let denoise = settings.denoise.as_secs_f64();
    let mut runs: Vec<(InFlightFigures, f64)> = Vec::new();
    for &in_flight in &settings.interleave {
        let out = root.join(in_flight.to_string());
        let stopwatch = Stopwatch::default();
        let (config, manifest) = (config(&out, in_flight, settings), manifest(settings)?);
        run(
            &config,
            &manifest,
            &engine(settings),
            &stopwatch,
            &StopFlag::default(),
        )?;
        let seen = stopwatch.seen.into_inner();
        let (mut figures, rate) = figures(in_flight, &seen.unwrap_or_else(PoisonError::into_inner));
        let baseline = runs.first().map_or(rate, |(_, rate)| *rate);
        figures.speedup = rate / baseline;
        figures.of_ideal = rate * denoise;
        runs.push((figures, rate));
    }
    Ok(PipelineFigures {
        denoise_seconds: denoise,
        encode_seconds: denoise * settings.encode,
        decode_seconds: denoise * settings.decode,
        runs: runs.into_iter().map(|(figures, _)| figures).collect(),
    })
}

/// The figures of a run, and its shots in a second between its ends.
fn figures(in_flight: usize, seen: &[(Stage, Instant, Instant)]) -> (InFlightFigures, f64) {
    let of = |wanted: Stage| seen.iter().filter(move |(stage, ..)| *stage == wanted);
    let mean_ms = |stage: Stage| {
        let count = of(stage).count().max(1) as f64;
        let sum: f64 = of(stage)
            .map(|(_, from, to)| (*to - *from).as_secs_f64())
            .sum();
        sum / count * 1e3
    };
    let mut loops: Vec<(Instant, Instant)> = of(Stage::Denoise)
        .map(|(_, from, to)| (*from, *to))
        .collect();
    loops.sort_unstable();
    let ends = (
        seen.iter().map(|(_, from, _)| *from).min(),
        seen.iter().map(|(_, _, to)| *to).max(),
    );
    let (Some(first), Some(last)) = ends else {
        return (InFlightFigures::of(in_flight), 0.0);
    };
    let shots = loops.len();
    // At least one shot lies between the ends.
    let cut = in_flight.min(shots.saturating_sub(1) / 2);
    let from = loops.get(cut).map_or(first, |(from, _)| *from);
    let to = loops
        .get(shots.saturating_sub(cut + 1))
        .map_or(last, |(from, _)| *from);
    // Each moment counts once: a loop is heard of a little after its end, when the next has begun.
    let busy = |from: Instant, to: Instant| {
        let (mut until, mut sum) = (from, 0.0);
        for (begun, ended) in &loops {
            let ended = (*ended).min(to);
            sum += ended
                .saturating_duration_since(until.max(*begun))
                .as_secs_f64();
            until = until.max(ended);
        }
        sum
    };
    let seconds = |from: Instant, to: Instant| (to - from).as_secs_f64().max(f64::MIN_POSITIVE);
    let between = loops.iter().filter(|(begun, _)| (from..to).contains(begun));
    let rate = between.count() as f64 / seconds(from, to);
    let figures = InFlightFigures {
        shots,
        wall_seconds: seconds(first, last),
        efficiency: busy(from, to) / seconds(from, to),
        efficiency_with_ends: busy(first, last) / seconds(first, last),
        plan_ms: mean_ms(Stage::Plan),
        commit_ms: mean_ms(Stage::Commit),
        ..InFlightFigures::of(in_flight)
    };
    (figures, rate)
}

impl InFlightFigures {
    fn of(in_flight: usize) -> Self {
        Self {
            in_flight,
            shots: 0,
            wall_seconds: 0.0,
            efficiency: 0.0,
            efficiency_with_ends: 0.0,
            of_ideal: 0.0,
            speedup: 1.0,
            plan_ms: 0.0,
            commit_ms: 0.0,
        }
    }
}

fn engine(settings: &PipelineSettings) -> SimulatedEngine {
    let denoise = settings.denoise.as_secs_f64();
    let steps = settings.steps.max(1);
    let mut table = CostTable::steps_only(denoise / f64::from(steps));
    table.stages.encode = StageCost::constant(denoise * settings.encode);
    // Six parts of seven are decoding.
    table.stages.decode = StageCost::constant(denoise * settings.decode * 6.0 / 7.0);
    table.stages.select = StageCost::constant(denoise * settings.decode / 7.0);
    let sampling = Sampling {
        steps,
        forwards: 1.0,
    };
    SimulatedEngine {
        steps: steps as usize,
        pace: Some(Pace {
            table,
            shape: ReplicaShape::ONE,
            samplings: Samplings {
                text: sampling,
                pictures: sampling,
            },
        }),
        ..SimulatedEngine::default()
    }
}

/// Settings and stories of a small run in the folder `out` with so many stories side by side, for
/// figures of what is around the pictures.
///
/// # Errors
/// There are so many stories that one has no name.
pub fn plain_run(
    out: &Path,
    interleave: usize,
    settings: &PipelineSettings,
) -> Result<(RunConfig, Manifest), RunError> {
    Ok((config(out, interleave, settings), manifest(settings)?))
}

fn manifest(settings: &PipelineSettings) -> Result<Manifest, RunError> {
    let shots_of_story = settings.story.max(1);
    let story = |number: usize| {
        let id = StoryId::new(format!("story-{number:04}"))
            .map_err(|error| RunError::Setting(error.to_string()))?;
        let left = settings.shots - number * shots_of_story;
        let shot = |place: usize| ShotScript {
            prompt: format!("Shot {place}."),
            first_frame_prompt: None,
            cut: true,
        };
        let shots = (1..=left.min(shots_of_story)).map(shot).collect();
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: vec![Scene { number: 1, shots }],
        };
        Ok(StoryEntry::new(id, script))
    };
    let stories = settings.shots.max(1).div_ceil(shots_of_story);
    Ok(Manifest {
        stories: (0..stories).map(story).collect::<Result<_, RunError>>()?,
    })
}

fn config(out: &Path, interleave: usize, settings: &PipelineSettings) -> RunConfig {
    RunConfig {
        out: out.to_owned(),
        worker: None,
        input_folder: PathBuf::new(),
        method: Method::StoryMem,
        seed: 0,
        video: VideoSpec {
            width: 64,
            height: 48,
            frames: 9,
            fps: 8,
        },
        window: WindowSettings {
            max_images: 10,
            sink: 3,
        },
        selection: SelectionSettings {
            rule: SelectionRule::Semantic,
            max_keyframes: 3,
            similarity_start: 0.9,
            quality_threshold: 0.0,
        },
        continuation: Continuation::None,
        attempts: 1,
        planning: PlanningSettings::default(),
        checkpoint: CheckpointSettings::Auto {
            uptime: Duration::from_secs(7200),
        },
        patience: Duration::from_secs(60),
        interleave,
        replicas: 1,
        quarantine_limit: None,
        index: IndexKind::Sled,
        index_folder: None,
        videos: settings.videos,
        resolved: serde_json::Value::Null,
        config_file: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three loops of 10, the second after a gap of 5; one story in flight.
    #[test]
    fn gaps_between_the_ends_count() {
        let origin = Instant::now();
        let at = |millis: u64| origin + Duration::from_millis(millis);
        let seen = [
            (Stage::Denoise, at(0), at(10)),
            (Stage::Denoise, at(15), at(25)),
            (Stage::Denoise, at(25), at(35)),
            (Stage::Denoise, at(45), at(55)),
            (Stage::Denoise, at(60), at(70)),
            (Stage::Commit, at(70), at(80)),
        ];
        let (figures, rate) = figures(1, &seen);
        // From 15 to 45: two loops.
        assert!((figures.efficiency - 20.0 / 30.0).abs() < 1e-9);
        assert!((figures.efficiency_with_ends - 50.0 / 80.0).abs() < 1e-9);
        assert!((rate - 2.0 / 0.030).abs() < 1e-6);
        assert_eq!((figures.shots, figures.commit_ms.round()), (5, 10.0));
    }

    #[test]
    fn stories_have_all_the_shots() {
        let mut settings = PipelineSettings {
            place: PathBuf::new(),
            denoise: Duration::from_millis(1),
            steps: 1,
            encode: 0.0,
            decode: 0.0,
            shots: 7,
            story: 3,
            interleave: vec![1],
            videos: Videos::Placeholders,
        };
        let shots = |settings: &PipelineSettings| -> Vec<usize> {
            let stories = manifest(settings).unwrap().stories;
            stories
                .iter()
                .map(|story| story.script.shot_count())
                .collect()
        };
        assert_eq!(shots(&settings), [3, 3, 1]);
        settings.shots = 3;
        assert_eq!(shots(&settings), [3]);
    }
}
