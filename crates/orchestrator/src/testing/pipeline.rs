//! How well stories side by side keep the denoiser busy, measured on the real orchestrator with a
//! simulated engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use storyloom_memory::select::{SelectionRule, SelectionSettings};
use storyloom_memory::window::WindowSettings;
use storyloom_memory::{Disk, IndexKind, OneStoryPolicy};
use storyloom_pictures::InputFolder;
use storyloom_story::{
    Brief, Continuation, Line, Manifest, Method, Scene, ShotScript, Stage, StoryEntry, StoryId,
    StoryScript, VideoSpec,
};
use storyloom_telemetry::{Event, Reporter, ShotEvent, Silent};

use crate::config::{
    CheckpointSettings, PictureSettings, PlanningSettings, RunConfig, StopFlag, Videos,
};
use crate::error::RunError;
use crate::forecast::cost::{CostTable, PlanCost, ReplicaShape, Sampling, Samplings, StageCost};
use crate::run::planning::StoryPlanner;
use crate::run::planning::ranks::plan_briefs;
use crate::run::{Engines, run, run_on};
use crate::testing::planner::SimulatedPlanner;
use crate::testing::simulated::{Pace, SimulatedEngine};

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
    /// Make the same number of shots of briefs as well, whose planning takes this share of all
    /// stages of their shots together.
    pub planning: Option<f64>,
}

impl PipelineSettings {
    /// `shots` shots in stories of `story` shots each, one at a time, without videos and with stages
    /// that take no time.
    pub fn instant(place: &Path, shots: usize, story: usize) -> Self {
        Self {
            place: place.to_owned(),
            denoise: Duration::ZERO,
            steps: 1,
            encode: 0.0,
            decode: 0.0,
            shots,
            story,
            interleave: vec![1],
            videos: Videos::Placeholders,
            planning: None,
        }
    }
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

/// A run with `in_flight` stories side by side.
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
    /// Seconds of the whole run.
    pub run_seconds: f64,
    /// The same shots of briefs, planned on a thread of the program, and by another program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub of_briefs: Vec<BriefsFigures>,
}

/// A run on briefs beside one with ready scripts.
#[derive(Debug, Clone, Serialize)]
pub struct BriefsFigures {
    /// Where planning happens: `thread` or `rank`.
    pub planned_on: &'static str,
    /// Seconds that each story takes to be planned.
    pub plan_seconds: f64,
    /// Seconds of the whole run.
    pub run_seconds: f64,
    /// So much of the run with ready scripts longer; 0.01 is one in a hundred.
    pub longer: f64,
    /// As for ready scripts: share of the time in which the denoiser had a shot, after the first
    /// shots and before the last.
    pub efficiency: f64,
    /// Seconds in which places for stories were free for want of a plan, all places together.
    pub awaited_seconds: f64,
}

/// When stages began and ended.
#[derive(Debug, Default)]
struct Stopwatch {
    seen: Mutex<Vec<(Stage, Instant, Instant)>>,
    awaited: Mutex<f64>,
}

impl Reporter for Stopwatch {
    fn report(&self, event: &Event) {
        let now = Instant::now();
        if let Event::PlanAwaited { seconds } = event {
            *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) += seconds;
        }
        if let Event::Shot {
            event: ShotEvent::StageFinished { stage, seconds, .. },
            ..
        } = event
        {
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
        let (seen, seconds) = ready(&out, in_flight, settings)?;
        let (mut figures, rate) = figures(in_flight, &seen);
        let baseline = runs.first().map_or(rate, |(_, rate)| *rate);
        figures.speedup = rate / baseline;
        figures.of_ideal = rate * denoise;
        figures.run_seconds = seconds;
        for by in settings.planning.iter().flat_map(|_| PlannedOn::BOTH) {
            let out = root.join(format!("{in_flight}-{}", by.name()));
            let found = of_briefs(&out, in_flight, settings, by)?;
            figures.of_briefs.push(BriefsFigures {
                longer: found.run_seconds / seconds - 1.0,
                ..found
            });
        }
        runs.push((figures, rate));
    }
    Ok(PipelineFigures {
        denoise_seconds: denoise,
        encode_seconds: denoise * settings.encode,
        decode_seconds: denoise * settings.decode,
        runs: runs.into_iter().map(|(figures, _)| figures).collect(),
    })
}

/// When stages began and ended.
type Seen = Vec<(Stage, Instant, Instant)>;

/// Makes stories with ready scripts: what was seen, and the seconds it took.
fn ready(
    out: &Path,
    in_flight: usize,
    settings: &PipelineSettings,
) -> Result<(Seen, f64), RunError> {
    let stopwatch = Stopwatch::default();
    let (config, manifest) = (config(out, in_flight, settings), manifest(settings)?);
    let (engine, begun) = (engine(settings), Instant::now());
    run(
        &config,
        &manifest,
        &engine,
        &stopwatch,
        &StopFlag::default(),
    )?;
    let seconds = begun.elapsed().as_secs_f64();
    let seen = stopwatch.seen.into_inner();
    Ok((seen.unwrap_or_else(PoisonError::into_inner), seconds))
}

/// Where stories are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlannedOn {
    /// A thread of the program that makes them.
    Thread,
    /// A program of its own, which shares nothing with it but the run folder.
    Rank,
}

impl PlannedOn {
    const BOTH: [Self; 2] = [Self::Thread, Self::Rank];

    fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Rank => "rank",
        }
    }
}

/// As [`ready`], of briefs.
fn of_briefs(
    out: &Path,
    in_flight: usize,
    settings: &PipelineSettings,
    by: PlannedOn,
) -> Result<BriefsFigures, RunError> {
    let (stopwatch, stop) = (Stopwatch::default(), StopFlag::default());
    let (config, lines) = (config(out, in_flight, settings), briefs(settings)?);
    let (engine, planner) = (engine(settings), planner(settings));
    let disk = || Arc::new(Disk);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let other = (by == PlannedOn::Rank).then(|| {
            let (config, lines, planner, stop) = (&config, &lines, &planner, &stop);
            scope.spawn(move || plan_briefs(disk(), config, lines, planner, &Silent, stop))
        });
        let engines = Engines {
            engine: &engine,
            planner: (by == PlannedOn::Thread).then_some(&planner as &dyn StoryPlanner),
        };
        let made = run_on(disk(), &config, &lines, &engines, &stopwatch, &stop);
        // One that panicked has said so.
        let planned = other.map(|other| other.join());
        match planned {
            Some(Ok(Err(error))) => Err(error),
            _ => made,
        }
    })?;
    let seen = stopwatch.seen.into_inner();
    let awaited = stopwatch.awaited.into_inner();
    let (figures, _) = figures(in_flight, &seen.unwrap_or_else(PoisonError::into_inner));
    Ok(BriefsFigures {
        planned_on: by.name(),
        plan_seconds: planner.cost.seconds,
        run_seconds: begun.elapsed().as_secs_f64(),
        longer: 0.0,
        efficiency: figures.efficiency,
        awaited_seconds: awaited.unwrap_or_else(PoisonError::into_inner),
    })
}

/// One that takes its share of the time that all stages of a story take together.
fn planner(settings: &PipelineSettings) -> SimulatedPlanner {
    let shot = settings.denoise.as_secs_f64() * (1.0 + settings.encode + settings.decode);
    let story = shot * settings.story.max(1) as f64;
    SimulatedPlanner {
        cost: PlanCost {
            seconds: settings.planning.unwrap_or(0.0) * story,
            per_shot: 0.0,
        },
        ..SimulatedPlanner::default()
    }
}

/// Briefs that ask for as many shots as the scripts of [`manifest`] have.
fn briefs(settings: &PipelineSettings) -> Result<Vec<Line>, RunError> {
    let stories = manifest(settings)?.stories.into_iter();
    let brief = |story: StoryEntry| {
        Line::Brief(Brief {
            idea: Some("A story.".to_owned()),
            shots: u32::try_from(story.script.shot_count()).unwrap_or(u32::MAX),
            ..Brief::new(story.id)
        })
    };
    Ok(stories.map(brief).collect())
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
            run_seconds: 0.0,
            of_briefs: Vec::new(),
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
            samplings: Samplings::alike(sampling),
        }),
        ..SimulatedEngine::default()
    }
}

/// Settings and stories of a small run in the folder `out` with `interleave` stories side by side, for
/// figures of what is around the pictures.
///
/// # Errors
/// There are more stories than names.
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
        input_folder: InputFolder::default(),
        left_out: Vec::new(),
        part: false,
        pictures: PictureSettings::default(),
        method: Method::StoryMem,
        seed: 0,
        video: VideoSpec {
            width: 64,
            height: 48,
            frames: 9,
            fps: 8,
        },
        grid: SimulatedEngine::GRID,
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
        onestory: OneStoryPolicy::default(),
        continuation: Continuation::None,
        attempts: 1,
        planning: PlanningSettings::default(),
        checkpoint: CheckpointSettings::Auto {
            uptime: Duration::from_secs(7200),
        },
        lease_timeout: Duration::from_secs(60),
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
        let mut settings = PipelineSettings::instant(Path::new(""), 7, 3);
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
