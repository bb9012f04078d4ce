//! Whether a run does what was forecast of it: the same order, about the same time; and runs
//! without videos.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storyloom_memory::select::{SelectionRule, SelectionSettings};
use storyloom_memory::window::WindowSettings;
use storyloom_memory::{Disk, IndexKind, OneStoryPolicy};
use storyloom_orchestrator::cost::{
    CostTable, MeasuredForward, Observed, ReplicaShape, Sampling, Samplings, Sharing, StageCost,
    StageSeconds, measure,
};
use storyloom_orchestrator::estimate::{Planner, Progress, ShotSettings, Workload, progress_in};
use storyloom_orchestrator::forecast::{Farm, Planners, SharedGpu, forecast};
use storyloom_orchestrator::pipeline::{PipelineSettings, pipeline};
use storyloom_orchestrator::simulated::{Pace, SimulatedEngine};
use storyloom_orchestrator::verify::{Depth, VideosProven, verify};
use storyloom_orchestrator::{
    CheckpointSettings, PictureSettings, PlanningSettings, RunConfig, RunError, RunFolder,
    StopFlag, Videos, report, run,
};
use storyloom_story::{
    Continuation, Line, Manifest, Method, Scene, ShotScript, Stage, StoryEntry, StoryId,
    StoryScript, VideoSpec,
};
use storyloom_telemetry::{Event, Reporter, ShotEvent, Silent};

const STEPS: u32 = 4;

const SAMPLING: Sampling = Sampling {
    steps: STEPS,
    forwards: 2.0,
};

const SAMPLINGS: Samplings = Samplings::alike(SAMPLING);

/// Stories of these numbers of shots, and their priorities.
fn manifest(stories: &[(usize, i64)]) -> Manifest {
    let story = |(number, &(shots, priority)): (usize, &(usize, i64))| {
        let shot = |place: usize| ShotScript {
            prompt: format!("shot {place}"),
            first_frame_prompt: None,
            cut: true,
        };
        let shots = (0..shots).map(shot).collect();
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: vec![Scene { number: 1, shots }],
        };
        let mut entry = StoryEntry::new(StoryId::new(format!("s{number}")).unwrap(), script);
        entry.priority = priority;
        entry
    };
    Manifest {
        stories: stories.iter().enumerate().map(story).collect(),
    }
}

fn config(out: &Path, interleave: usize) -> RunConfig {
    RunConfig {
        out: out.to_owned(),
        worker: None,
        input_folder: Path::new("").into(),
        left_out: Vec::new(),
        part: false,
        pictures: PictureSettings::default(),
        method: Method::StoryMem,
        seed: 7,
        video: VideoSpec {
            width: 32,
            height: 32,
            frames: 9,
            fps: 8,
        },
        grid: SimulatedEngine::GRID,
        window: WindowSettings {
            max_images: 4,
            sink: 1,
        },
        selection: SelectionSettings {
            rule: SelectionRule::Semantic,
            max_keyframes: 3,
            similarity_start: 0.9,
            quality_threshold: 3.0,
        },
        onestory: OneStoryPolicy::default(),
        continuation: Continuation::Mi2v,
        attempts: 2,
        planning: PlanningSettings::default(),
        checkpoint: CheckpointSettings::Auto {
            uptime: Duration::from_secs(3600),
        },
        lease_timeout: Duration::from_secs(60),
        interleave,
        replicas: 1,
        quarantine_limit: None,
        index: IndexKind::Sled,
        index_folder: None,
        videos: Videos::Placeholders,
        resolved: serde_json::json!({}),
        config_file: "engine = \"simulated\"\n".to_owned(),
    }
}

fn settings(config: &RunConfig) -> ShotSettings {
    ShotSettings {
        method: config.method,
        video: config.video,
        grid: config.grid,
        window: config.window,
        max_keyframes: config.selection.max_keyframes,
        continuation: config.continuation,
        samplings: SAMPLINGS,
    }
}

/// Steps of 25 ms and 4 ms more for each token of 12 to 28, and short other stages.
fn table() -> CostTable {
    let mut table = CostTable::steps_only(0.025);
    table.denoise.measured = Some(MeasuredForward {
        per_token: 0.001,
        per_token_squared: 0.0,
        sharing: Sharing::ONE,
    });
    table.stages.encode = StageCost::constant(0.01);
    table.stages.decode = StageCost::constant(0.05);
    table.stages.select = StageCost::constant(0.02);
    table.stages.commit = StageCost::constant(0.01);
    table
}

fn engine() -> SimulatedEngine {
    SimulatedEngine {
        steps: STEPS as usize,
        pace: Some(Pace {
            table: table(),
            shape: ReplicaShape::ONE,
            samplings: SAMPLINGS,
        }),
        ..SimulatedEngine::default()
    }
}

fn folder(out: &Path) -> RunFolder {
    RunFolder::new(out, Arc::new(Disk))
}

/// Notes which shots are denoised, in the order in which that ends.
#[derive(Default)]
struct Order(Mutex<Vec<String>>);

impl Reporter for Order {
    fn report(&self, event: &Event) {
        if let Event::Shot {
            story,
            shot,
            event: ShotEvent::StageFinished { stage, .. },
        } = event
            && *stage == Stage::Denoise
        {
            let name = format!("{story} {}", shot.shot - 1);
            self.0.lock().unwrap().push(name);
        }
    }
}

const PLANNING: Planners = Planners {
    ranks: 0,
    together: 1,
    ahead: 8,
};

fn lines(manifest: &Manifest) -> Vec<Line> {
    manifest.stories.iter().cloned().map(Line::Story).collect()
}

fn timed(config: &RunConfig, manifest: &Manifest, reporter: &dyn Reporter) -> f64 {
    let begun = Instant::now();
    let outcome = run(config, manifest, &engine(), reporter, &StopFlag::default()).unwrap();
    assert_eq!(outcome.done, manifest.stories.len());
    begun.elapsed().as_secs_f64()
}

fn workload(config: &RunConfig, manifest: &Manifest, table: &CostTable) -> Workload {
    let none = |_: &Line| Ok(Progress::Made(0));
    Workload::new(&lines(manifest), &settings(config), table, &none).unwrap()
}

/// Whether it comes true at one of a few attempts: a busy machine may spoil some of them.
fn at_some_attempt(attempt: impl Fn() -> bool) -> bool {
    (0..6).any(|_| attempt())
}

/// The policy of the forecast is that of the run. Timing decides only which of the first stories
/// reaches a gate first, and near ties; no shot may be further from its place than that.
#[test]
fn a_run_goes_in_the_order_of_its_forecast() {
    let manifest = manifest(&[(2, 0), (5, 0), (3, 0), (4, 0), (2, 1), (3, 0), (1, 0)]);
    let config = config(Path::new("unused"), 3);
    let workload = workload(&config, &manifest, &table());
    let shape = ReplicaShape::ONE;
    let kinds: Vec<StageSeconds> = workload
        .kinds
        .iter()
        .map(|work| table().shot(work, &shape))
        .collect();
    let farm = Farm {
        replicas: 1,
        interleave: config.interleave,
        capacities: shape.capacities(),
        shared: SharedGpu::NONE,
        story_end: 0.0,
        planning: PLANNING,
    };
    let mut planned = Vec::new();
    forecast(
        &workload.chains,
        &kinds,
        &farm,
        &mut |_, chain, shot, stage| {
            if stage == Stage::Denoise {
                planned.push(format!("{} {shot}", workload.names[chain]));
            }
        },
    );
    assert_eq!(
        workload.names[0].as_str(),
        "s4",
        "the larger priority first"
    );
    let is_near = || {
        let out = tempfile::tempdir().unwrap();
        let order = Order::default();
        let config = self::config(out.path(), config.interleave);
        timed(&config, &manifest, &order);
        let real = order.0.into_inner().unwrap();
        assert_eq!((planned.len(), real.len()), (20, 20));
        let away = |(place, name): (usize, &String)| {
            let real = real.iter().position(|other| other == name).unwrap();
            place.abs_diff(real)
        };
        let distances: Vec<usize> = planned.iter().enumerate().map(away).collect();
        eprintln!("planned {planned:?}\nreal    {real:?}\napart   {distances:?}");
        distances.into_iter().max() <= Some(2 * config.interleave)
    };
    assert!(at_some_attempt(is_near));
}

/// What the records of one run say of another with other stories.
#[test]
fn a_measured_run_foretells_another() {
    // A busy machine makes the real run longer; the aim is 15 %.
    assert!(at_some_attempt(
        || (0.5..2.5).contains(&measured_and_foretold())
    ));
}

/// Measures one run, and returns how long another takes, as a share of what is foretold of it.
fn measured_and_foretold() -> f64 {
    let first = tempfile::tempdir().unwrap();
    let begun = config(first.path(), 3);
    timed(&begun, &manifest(&[(3, 0), (4, 0), (2, 0)]), &Silent);
    let observed = Observed {
        samplings: SAMPLINGS,
        shape: ReplicaShape::ONE,
        grid: begun.grid,
    };
    let measured = measure(&folder(first.path()), &observed, CostTable::default()).unwrap();
    assert_eq!(measured.pictures_seen.len(), 4);
    assert_eq!(measured.pictures_seen[0], 0.0, "the first has no memory");
    assert_eq!(measured.pictures_seen[3], 4.0, "no more than the window");

    let second = tempfile::tempdir().unwrap();
    let next = config(second.path(), 3);
    let stories = manifest(&[(6, 0), (2, 0), (5, 0), (3, 0), (4, 0)]);
    let workload = workload(&next, &stories, &measured);
    let planner = Planner {
        workload: &workload,
        table: &measured,
        interleave: next.interleave,
        planning: PLANNING,
    };
    let estimate = planner.try_layout(&ReplicaShape::ONE, 1);
    let real = timed(&next, &stories, &Silent);
    let ratio = real / estimate.finish_seconds;
    eprintln!(
        "estimated {:.2} s, took {real:.2} s: {ratio:.3}",
        estimate.finish_seconds
    );
    // No run is shorter than the pauses of the engine.
    let planner = Planner {
        workload: &self::workload(&next, &stories, &table()),
        table: &table(),
        ..planner
    };
    let least = planner.try_layout(&ReplicaShape::ONE, 1).finish_seconds;
    assert!(estimate.finish_seconds > 0.95 * least, "{ratio}, {least}");
    assert!(real > 0.95 * least, "{ratio}, {least}");
    assert!(estimate.lower_bound_seconds <= estimate.finish_seconds);

    // What exists need not be made again.
    let stories = lines(&stories);
    let left = Workload::new(&stories, &settings(&next), &measured, &|line| {
        progress_in(&folder(second.path()), line)
    })
    .unwrap();
    assert_eq!((left.shots, left.left_out), (0, 20));
    let half = Workload::new(&stories, &settings(&next), &measured, &|line| {
        progress_in(&folder(first.path()), line)
    })
    .unwrap();
    // The first run has 3, 4 and 2 of its stories' shots; of s1 only 2 are asked for.
    assert_eq!((half.shots, half.left_out), (20 - 3 - 2 - 2, 7));
    ratio
}

#[test]
fn nothing_is_measured_of_a_run_without_shots() {
    let out = tempfile::tempdir().unwrap();
    let observed = Observed {
        samplings: SAMPLINGS,
        shape: ReplicaShape::ONE,
        grid: SimulatedEngine::GRID,
    };
    let nothing = measure(&folder(out.path()), &observed, CostTable::default());
    assert!(matches!(nothing, Err(RunError::Folder { .. })));
    let stop = StopFlag::default();
    stop.set(storyloom_orchestrator::StopAt::Step);
    let config = config(out.path(), 1);
    run(&config, &manifest(&[(1, 0)]), &engine(), &Silent, &stop).unwrap();
    let nothing = measure(&folder(out.path()), &observed, CostTable::default());
    let message = nothing.unwrap_err().to_string();
    assert!(message.contains("no shot is finished"), "{message}");
}

/// A run without videos proves everything but videos, and says so.
#[test]
fn runs_without_videos_say_so() {
    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path(), 1);
    let stories = manifest(&[(2, 0)]);
    let quick = SimulatedEngine::default();
    let stop = StopFlag::default();
    run(&config, &stories, &quick, &Silent, &stop).unwrap();
    let proof = |out: &Path| verify(&folder(out), Depth::Frames).unwrap();
    let without = proof(out.path());
    assert!(without.ok, "{:?}", without.problems);
    assert_eq!(without.videos, VideosProven::Placeholders);
    let video = out.path().join("stories/s0/01_01.mp4");
    let text = std::fs::read_to_string(&video).unwrap();
    assert!(text.contains("no video was made"), "{text}");
    let report = report::write_report(&folder(out.path())).unwrap();
    let page = std::fs::read_to_string(&report.page).unwrap();
    assert!(page.contains("told to make no videos"));
    let story = std::fs::read_to_string(report.page.with_file_name("stories/s0.html")).unwrap();
    assert!(
        !story.contains("<video") && story.contains("<img"),
        "pictures, but nothing to play"
    );

    // Neither kind of run goes on as the other.
    config.videos = Videos::Encoded;
    let refused = run(&config, &stories, &quick, &Silent, &stop).unwrap_err();
    assert!(refused.to_string().contains("videos"), "{refused}");
    let with = tempfile::tempdir().unwrap();
    config.out = with.path().to_owned();
    run(&config, &stories, &quick, &Silent, &stop).unwrap();
    let encoded = proof(with.path());
    assert_eq!(encoded.videos, VideosProven::Decoded);
    assert_eq!(encoded.content_digest, without.content_digest);
    config.videos = Videos::Placeholders;
    let refused = run(&config, &stories, &quick, &Silent, &stop).unwrap_err();
    assert!(refused.to_string().contains("videos"), "{refused}");

    // A file that is something else is found.
    std::fs::write(&video, b"something").unwrap();
    let wrong = proof(out.path());
    assert!(!wrong.ok && wrong.content_digest.is_none());
}

/// With a second story in flight the denoiser waits less. The figure itself is measured by
/// `bench pipeline`; on a busy machine it is lower.
#[test]
fn stories_side_by_side_fill_the_denoiser() {
    let is_fuller = || {
        let place = tempfile::tempdir().unwrap();
        let figures = pipeline(&PipelineSettings {
            place: place.path().to_owned(),
            denoise: Duration::from_millis(100),
            steps: 5,
            encode: 0.03,
            decode: 0.35,
            shots: 16,
            story: 4,
            interleave: vec![1, 3],
            videos: Videos::Placeholders,
            planning: None,
        })
        .unwrap();
        let [alone, side_by_side] = &figures.runs[..] else {
            panic!("{figures:?}");
        };
        eprintln!("{} and {}", alone.efficiency, side_by_side.efficiency);
        assert_eq!((alone.shots, side_by_side.shots), (16, 16));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        side_by_side.efficiency > alone.efficiency
    };
    assert!(at_some_attempt(is_fuller));
}
