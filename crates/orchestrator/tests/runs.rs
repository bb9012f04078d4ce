//! Whole runs on the simulated engine: what is made, resumed, refused and found out.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storyloom_memory::select::{SelectionRule, SelectionSettings};
use storyloom_memory::storage::{Fault, FaultyDisk};
use storyloom_memory::window::WindowSettings;
use storyloom_memory::{BlobRef, BlobStore, Disk, IndexKind, OneStoryPolicy, Storage};
use storyloom_orchestrator::output::decode_frames;
use storyloom_orchestrator::run::run_on;
use storyloom_orchestrator::seal::seal;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::{Status, status};
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{
    CheckpointSettings, Encoded, EngineDescription, EngineError, Engines, Kept, Pass,
    PictureSettings, PlanningSettings, RunConfig, RunError, RunFolder, RunOutcome, Scores,
    ShotEngine, StepObserver, StopAt, StopFlag, Videos, memory_view, quarantine, report, run,
};
use storyloom_story::{
    Clip, Continuation, ErrorClass, HostTensor, Line, LoopState, Manifest, Method, Opening,
    RgbImage, Scene, ShotInputs, ShotScript, Stage, StoryEntry, StoryId, StoryScript, VideoSpec,
};
use storyloom_telemetry::{Event, Reporter, ShotEvent, Silent};

fn story(id: &str, cuts: &[bool]) -> StoryEntry {
    let shot = |(number, &cut): (usize, &bool)| ShotScript {
        prompt: format!("shot {number} of {id}"),
        first_frame_prompt: None,
        cut,
    };
    let shots = cuts.iter().enumerate().map(shot).collect();
    let scenes = vec![Scene { number: 1, shots }];
    let script = StoryScript {
        name: None,
        overview: None,
        scenes,
    };
    StoryEntry::new(StoryId::new(id).unwrap(), script)
}

fn manifest() -> Manifest {
    let stories = vec![
        story("ad", &[true, false, false]),
        story("tale", &[true, true, false]),
    ];
    Manifest { stories }
}

fn config(out: &Path) -> RunConfig {
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
            height: 16,
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
        // Tests that count events want one story at a time; others ask for more.
        interleave: 1,
        replicas: 1,
        quarantine_limit: None,
        index: IndexKind::Sled,
        index_folder: None,
        videos: Videos::Encoded,
        resolved: serde_json::json!({}),
        config_file: "engine = \"simulated\"\n".to_owned(),
    }
}

fn begin(out: &Path, engine: &dyn ShotEngine) -> Result<RunOutcome, RunError> {
    run(
        &config(out),
        &manifest(),
        engine,
        &Silent,
        &StopFlag::default(),
    )
}

fn folder(out: &Path) -> RunFolder {
    RunFolder::new(out, Arc::new(Disk))
}

fn checked(out: &Path) -> Verdict {
    verify(&folder(out), Depth::Frames).unwrap()
}

fn look(out: &Path) -> Status {
    status(&folder(out)).unwrap()
}

/// The digest of an undisturbed run.
fn calm_digest() -> String {
    let out = tempfile::tempdir().unwrap();
    begin(out.path(), &SimulatedEngine::default()).unwrap();
    checked(out.path()).content_digest.unwrap()
}

/// Passes everything on, and interferes where a test wants it.
struct Meddling {
    inner: SimulatedEngine,
    shots: AtomicUsize,
    on_denoise: Box<OnDenoise>,
}

/// Given the number of the shot in this run; `None` leaves it to the real engine.
type OnDenoise =
    dyn Fn(usize, &ShotInputs) -> Option<Result<HostTensor, EngineError>> + Send + Sync;

impl Meddling {
    fn new(
        on_denoise: impl Fn(usize, &ShotInputs) -> Option<Result<HostTensor, EngineError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let on_denoise = Box::new(on_denoise);
        Self {
            inner: SimulatedEngine::default(),
            shots: AtomicUsize::new(0),
            on_denoise,
        }
    }
}

impl ShotEngine for Meddling {
    fn describe(&self, method: Method) -> Option<EngineDescription> {
        self.inner.describe(method)
    }

    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, EngineError> {
        self.inner.encode(inputs, pass)
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError> {
        let number = self.shots.fetch_add(1, Ordering::SeqCst);
        match (self.on_denoise)(number, inputs) {
            Some(result) => result,
            None => self.inner.denoise(inputs, encoded, resume, observer),
        }
    }

    fn decode(
        &self,
        inputs: &ShotInputs,
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError> {
        self.inner.decode(inputs, pass, latents)
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError> {
        self.inner.score(pictures)
    }

    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, EngineError> {
        self.inner.remember(kept)
    }
}

#[test]
fn a_run_makes_everything_once() {
    let out = tempfile::tempdir().unwrap();
    let outcome = begin(out.path(), &SimulatedEngine::default()).unwrap();
    assert_eq!(
        (outcome.done, outcome.failed, outcome.stopped),
        (2, 0, false)
    );
    let found = look(out.path());
    assert_eq!(
        (found.stories.done, found.shots.done, found.shots.total),
        (2, 6, 6)
    );
    // Nobody kept a journal.
    assert_eq!(found.goodput, None);
    let verdict = checked(out.path());
    assert!(verdict.ok, "{:?}", verdict.problems);
    assert_eq!(verdict.shots_proven, 6);

    let tale = StoryId::new("tale").unwrap();
    let memory = memory_view::story_memory(&folder(out.path()), &tale, None).unwrap();
    let openings: Vec<Opening> = memory.shots.iter().map(|shot| shot.opening).collect();
    assert_eq!(
        openings,
        [Opening::Text, Opening::Memory, Opening::LastFrame]
    );
    let added = |shot: usize| memory.shots[shot].added.len();
    assert!((1..=3).contains(&added(0)));
    assert_eq!(memory.shots[1].saw.len(), added(0));
    assert_eq!(memory.shots[2].saw.len(), (added(0) + added(1)).min(4));
    assert_eq!(
        memory.shots[2].saw[0], memory.shots[0].added[0].file,
        "the sink stays"
    );

    let written = report::write_report(&folder(out.path())).unwrap();
    assert_eq!((written.stories, written.changed), (2, 2));
    let root = written.page.parent().unwrap();
    let html = std::fs::read_to_string(root.join("stories/tale.html")).unwrap();
    let html = html.replace("&#x2f;", "/");
    // Three shots and the whole story.
    assert_eq!(html.matches("<video").count(), 4);
    for attribute in ["poster=\"", "<img src=\"", "href=\"../../", "src=\"../../"] {
        let found: Vec<&str> = html.split(attribute).skip(1).collect();
        assert!(!found.is_empty(), "{attribute}");
        let up = if attribute.contains("../../") {
            "../../"
        } else {
            ""
        };
        for rest in found {
            let name = rest.split('"').next().unwrap();
            let path = root.join("stories").join(format!("{up}{name}"));
            assert!(path.is_file(), "{}", path.display());
        }
    }
}

#[test]
fn a_second_start_touches_nothing() {
    let out = tempfile::tempdir().unwrap();
    begin(out.path(), &SimulatedEngine::default()).unwrap();
    let never = Meddling::new(|_, _| panic!("a shot was made again"));
    assert_eq!(begin(out.path(), &never).unwrap().done, 2);
}

/// Wherever a run is stopped, going on gives the same content.
#[test]
fn stopping_anywhere_loses_nothing() {
    let expected = calm_digest();
    for stop_at_shot in 0..6 {
        let out = tempfile::tempdir().unwrap();
        let stop = StopFlag::default();
        let asked = stop.clone();
        let engine = Meddling::new(move |number, _| {
            if number == stop_at_shot {
                asked.set(StopAt::Step);
            }
            None
        });
        let outcome = run(&config(out.path()), &manifest(), &engine, &Silent, &stop).unwrap();
        assert!(outcome.stopped);
        assert_eq!(look(out.path()).shots.done, stop_at_shot);
        begin(out.path(), &SimulatedEngine::default()).unwrap();
        assert_eq!(checked(out.path()).content_digest.as_ref(), Some(&expected));
    }
}

/// Every call that changes the file system is refused once, or is the last before the machine goes
/// off in the middle of it; the next start ends with the same content.
#[test]
fn every_failing_call_is_recovered_from() {
    /// In milliseconds. Signs of life are calls, too: there should be none.
    const DAY: u64 = 24 * 3600 * 1000;
    let manifest = Manifest {
        stories: vec![story("ad", &[true, false])],
    };
    let make = |storage: Arc<dyn Storage>, out: &Path, lease_timeout: u64| {
        let mut config = config(out);
        config.lease_timeout = Duration::from_millis(lease_timeout);
        config.checkpoint = CheckpointSettings::Every(2);
        let engine = SimulatedEngine::default();
        let stop = StopFlag::default();
        let engines = Engines {
            engine: &engine,
            planner: None,
        };
        let lines: Vec<Line> = manifest.stories.iter().cloned().map(Line::Story).collect();
        run_on(storage, &config, &lines, &engines, &Silent, &stop)
    };
    let calm = tempfile::tempdir().unwrap();
    let counting = Arc::new(FaultyDisk::after(u64::MAX, Fault::Die));
    make(counting.clone(), calm.path(), DAY).unwrap();
    let expected = checked(calm.path()).content_digest.unwrap();

    // Neighbours are often halves of one thing: they take turns in how they fail.
    let faults = [Fault::Die, Fault::Refuse(std::io::ErrorKind::Interrupted)];
    let points: Vec<(Fault, u64)> = (0..counting.calls())
        .map(|at| (faults[at as usize % 2], at))
        .collect();
    assert!(points.len() >= 200, "only {} points", points.len());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(&(fault, at)) = points.get(next.fetch_add(1, Ordering::SeqCst)) {
            let out = tempfile::tempdir().unwrap();
            let first = make(Arc::new(FaultyDisk::after(at, fault)), out.path(), DAY);
            if fault == Fault::Die && first.is_ok() {
                // Only what is done by the way, on the way out, may fail without a word.
                assert!(at + 3 >= counting.calls(), "nobody noticed call {at}");
            }
            // The first program's process is this one, so that it seems to be alive.
            let outcome = make(Arc::new(Disk), out.path(), 40);
            let outcome = outcome.unwrap_or_else(|error| panic!("{fault:?} {at}: {error}"));
            assert_eq!(outcome.done, 1, "{fault:?} {at}");
            let verdict = verify(&folder(out.path()), Depth::Content).unwrap();
            assert!(verdict.ok, "{fault:?} {at}: {:?}", verdict.problems);
            assert_eq!(verdict.content_digest.as_ref(), Some(&expected));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
}

/// A shot that was stopped between two steps goes on there, with the same bits.
#[test]
fn a_saved_step_is_used_once_and_only_if_it_fits() {
    let expected = calm_digest();
    let out = tempfile::tempdir().unwrap();
    let saved = || {
        let ad = folder(out.path()).root().join("stories/ad");
        Disk.list(&ad.join("checkpoints")).unwrap()
    };
    let stop_in_second_shot = || {
        let stop = StopFlag::default();
        let asked = stop.clone();
        let engine = Meddling::new(move |number, _| {
            if number == 1 {
                asked.set(StopAt::Step);
            }
            None
        });
        run(&config(out.path()), &manifest(), &engine, &Silent, &stop).unwrap()
    };
    assert!(stop_in_second_shot().stopped);
    assert_eq!(saved(), ["01_02.json"]);
    let heard = Heard::default();
    let stop = StopFlag::default();
    let engine = SimulatedEngine::default();
    run(&config(out.path()), &manifest(), &engine, &heard, &stop).unwrap();
    assert_eq!(heard.lines(), ["ad 01_02 resumed 1 of 4"]);
    assert!(saved().is_empty());
    assert_eq!(checked(out.path()).content_digest.as_ref(), Some(&expected));

    // One that belongs to something else, or is damaged, is left alone, and the reason is told.
    for (change, reason) in [
        ("\"attempt\": 0", "changed after it was written"),
        ("\"format\": 1", "format"),
    ] {
        let out = tempfile::tempdir().unwrap();
        let stop = StopFlag::default();
        let asked = stop.clone();
        let first = Meddling::new(move |_, _| {
            asked.set(StopAt::Step);
            None
        });
        run(&config(out.path()), &manifest(), &first, &Silent, &stop).unwrap();
        let path = out.path().join("stories/ad/checkpoints/01_01.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(change));
        std::fs::write(
            &path,
            text.replacen(change, &change.replace(['0', '1'], "7"), 1),
        )
        .unwrap();
        let heard = Heard::default();
        let stop = StopFlag::default();
        run(&config(out.path()), &manifest(), &engine, &heard, &stop).unwrap();
        let lines = heard.lines();
        assert!(
            lines[0].starts_with("ad 01_01 ignored") && lines[0].contains(reason),
            "{lines:?}"
        );
        assert_eq!(checked(out.path()).content_digest.as_ref(), Some(&expected));
    }
}

/// A program that ended between the record of a shot and forgetting what was saved of it leaves that
/// behind; so may the next one, at whatever call it ends while it finishes the story. Once the story
/// is done, nothing is left.
#[test]
fn nothing_saved_outlives_its_story() {
    let manifest = Manifest {
        stories: vec![story("ad", &[true, false])],
    };
    let lines: Vec<Line> = manifest.stories.iter().cloned().map(Line::Story).collect();
    for at in 0.. {
        let out = tempfile::tempdir().unwrap();
        let mut config = config(out.path());
        config.videos = Videos::Placeholders;
        let stop = StopFlag::default();
        let asked = stop.clone();
        let stopping = Meddling::new(move |number, _| {
            if number == 1 {
                asked.set(StopAt::Step);
            }
            None
        });
        run(&config, &manifest, &stopping, &Silent, &stop).unwrap();
        let saved = out.path().join("stories/ad/checkpoints");
        std::fs::copy(saved.join("01_02.json"), saved.join("01_01.json")).unwrap();

        let engine = SimulatedEngine::default();
        let engines = Engines {
            engine: &engine,
            planner: None,
        };
        let full = Fault::Refuse(std::io::ErrorKind::StorageFull);
        let disk = Arc::new(FaultyDisk::after(at, full));
        let make = |storage, config: &RunConfig| {
            let stop = StopFlag::default();
            run_on(storage, config, &lines, &engines, &Silent, &stop)
        };
        // A full disk ends a program at once.
        let _ = make(disk.clone(), &config);
        // The first program's process is this one, so that it seems to be alive.
        config.lease_timeout = Duration::from_millis(40);
        assert_eq!(make(Arc::new(Disk), &config).unwrap().done, 1, "{at}");
        let left = Disk.list(&saved).unwrap();
        assert!(left.is_empty(), "after call {at}: {left:?}");
        if disk.calls() <= at {
            break;
        }
    }
}

/// Asks to stop when the last shot is committed, and waits until everybody has heard it.
struct TooLate(StopFlag);

impl Reporter for TooLate {
    fn report(&self, event: &Event) {
        if let Event::Shot {
            shot,
            event: ShotEvent::StageBegun { stage, .. },
            ..
        } = event
            && (*stage, shot.shot) == (Stage::Commit, 2)
        {
            self.0.set(StopAt::Step);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Threads without a story hear of the stop first, and there is nothing that they leave undone.
#[test]
fn a_stop_in_the_last_commit_stops_nothing() {
    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path());
    config.interleave = 2;
    let stories = vec![story("ad", &[true, false])];
    let stop = StopFlag::default();
    let late = TooLate(stop.clone());
    let engine = SimulatedEngine::default();
    let outcome = run(&config, &Manifest { stories }, &engine, &late, &stop).unwrap();
    assert_eq!((outcome.done, outcome.stopped), (1, false));
}

/// Notes what is resumed, ignored and taken over.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Reporter for Heard {
    fn report(&self, event: &Event) {
        let line = match event {
            Event::Shot {
                story,
                shot,
                event: ShotEvent::Resumed { done, total },
            } => format!("{story} {shot} resumed {done} of {total}"),
            Event::Shot {
                story,
                shot,
                event: ShotEvent::CheckpointIgnored { reason },
            } => format!("{story} {shot} ignored: {reason}"),
            Event::LeaseTaken { story, .. } => format!("{story} taken"),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

#[test]
fn a_shot_that_is_not_finite_fails_its_story_only() {
    let out = tempfile::tempdir().unwrap();
    let engine = Meddling::new(|_, inputs| {
        let bad = inputs.request.story.as_str() == "ad" && inputs.request.shot.shot == 2;
        let values = vec![f32::NAN; 16 * 3 * 2 * 4];
        bad.then(|| Ok(HostTensor::new(vec![16, 3, 2, 4], values).unwrap()))
    });
    let outcome = begin(out.path(), &engine).unwrap();
    assert_eq!((outcome.done, outcome.quarantined), (1, 1));
    let folder = folder(out.path());
    let list = quarantine::list(&folder).unwrap();
    let [poison] = list.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(poison.story.as_str(), "ad");
    assert_eq!(poison.shot.unwrap().to_string(), "01_02");
    assert!(poison.reason.contains("not finite"), "{}", poison.reason);
    let alone = out.path().join("quarantine/ad");
    assert!(poison.command.contains(&alone.display().to_string()));
    assert!(alone.join("manifest.jsonl").is_file() && alone.join("config.toml").is_file());
    let found = look(out.path());
    assert_eq!((found.shots.done, found.shots.quarantined), (4, 2));
    assert!(!checked(out.path()).ok);

    // Nobody tries again before it is let back.
    let outcome = begin(out.path(), &SimulatedEngine::default()).unwrap();
    assert_eq!((outcome.done, outcome.quarantined), (1, 1));
    let other = [StoryId::new("tale").unwrap()];
    assert!(quarantine::release(&folder, &other).unwrap().is_empty());
    assert_eq!(quarantine::release(&folder, &[]).unwrap().len(), 1);
    begin(out.path(), &SimulatedEngine::default()).unwrap();
    assert_eq!(checked(out.path()).content_digest, Some(calm_digest()));
}

#[test]
fn another_attempt_has_other_noise() {
    let out = tempfile::tempdir().unwrap();
    let error = |class| EngineError {
        stage: storyloom_story::Stage::Denoise,
        class,
        message: "no".to_owned(),
    };
    let engine = Meddling::new(move |number, _| match number {
        0 => Some(Err(error(ErrorClass::Transient))),
        1 => Some(Err(error(ErrorClass::Shot))),
        _ => None,
    });
    assert_eq!(begin(out.path(), &engine).unwrap().done, 2);
    assert!(checked(out.path()).ok);
    assert_ne!(checked(out.path()).content_digest, Some(calm_digest()));
}

#[test]
fn another_engine_or_setting_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let engine = SimulatedEngine {
        steps: 2,
        ..SimulatedEngine::default()
    };
    begin(out.path(), &engine).unwrap();
    let mut other = config(out.path());
    other.seed = 8;
    let stop = StopFlag::default();
    let refused = run(&other, &manifest(), &engine, &Silent, &stop)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("run.seed (was 7, is 8)"), "{refused}");
    let mut changed = manifest();
    changed.stories[0].script.scenes[0].shots[0].prompt = "something else".to_owned();
    let outcome = run(&config(out.path()), &changed, &engine, &Silent, &stop).unwrap();
    assert_eq!((outcome.done, outcome.set_aside), (1, 1));
    let path = out.path().join("run.json");
    let newer =
        std::fs::read_to_string(&path)
            .unwrap()
            .replacen("\"format\": 1", "\"format\": 9", 1);
    std::fs::write(&path, newer).unwrap();
    let refused = begin(out.path(), &engine).unwrap_err().to_string();
    assert!(refused.contains("format 9 is not known"), "{refused}");
}

/// Programs that start together share the work: every shot is made once.
#[test]
fn twins_share_a_run() {
    let out = tempfile::tempdir().unwrap();
    let manifest = Manifest {
        stories: (0..6)
            .map(|n| story(&format!("story-{n}"), &[true, false]))
            .collect(),
    };
    let made = AtomicUsize::new(0);
    let outcomes: Vec<RunOutcome> = std::thread::scope(|scope| {
        let twin = || {
            let config = config(out.path());
            let engine = SimulatedEngine {
                step_time: Duration::from_millis(5),
                ..SimulatedEngine::default()
            };
            let counting = Counting(&made);
            run(&config, &manifest, &engine, &counting, &StopFlag::default()).unwrap()
        };
        let twins: Vec<_> = (0..3).map(|_| scope.spawn(twin)).collect();
        twins.into_iter().map(|twin| twin.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|outcome| outcome.done == 6));
    assert_eq!(made.load(Ordering::SeqCst), 12);
    assert!(checked(out.path()).ok, "{:?}", checked(out.path()).problems);
}

struct Counting<'a>(&'a AtomicUsize);

impl Reporter for Counting<'_> {
    fn report(&self, event: &Event) {
        if let Event::Shot {
            event: ShotEvent::Committed { .. },
            ..
        } = event
        {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A program that was stalled while another took its story over commits nothing.
#[test]
fn a_stalled_program_does_not_commit_over_its_successor() {
    let out = tempfile::tempdir().unwrap();
    let manifest = Manifest {
        stories: vec![story("ad", &[true, false])],
    };
    let (root, successor) = (out.path().to_owned(), manifest.clone());
    let stalled = Meddling::new(move |number, _| {
        if number == 1 {
            // Meanwhile the story is taken over, as by a program that has lost sight of us.
            let lease = root.join("leases/stories/ad/00000001.json");
            let text = std::fs::read_to_string(&lease).unwrap();
            let nobody = serde_json::json!({"story": "ad", "worker": "nobody", "released": false});
            assert!(text.contains("released"));
            std::fs::write(&lease, nobody.to_string()).unwrap();
            let heard = Heard::default();
            let engine = SimulatedEngine::default();
            let stop = StopFlag::default();
            let outcome = run(&config(&root), &successor, &engine, &heard, &stop).unwrap();
            assert_eq!(
                (outcome.done, heard.lines()),
                (1, vec!["ad taken".to_owned()])
            );
        }
        None
    });
    let stop = StopFlag::default();
    let made = AtomicUsize::new(0);
    let outcome = run(
        &config(out.path()),
        &manifest,
        &stalled,
        &Counting(&made),
        &stop,
    )
    .unwrap();
    assert_eq!(outcome.done, 1);
    // The first shot only: the second was its successor's.
    assert_eq!(made.load(Ordering::SeqCst), 1);
    assert!(checked(out.path()).ok, "{:?}", checked(out.path()).problems);
}

#[test]
fn unused_blobs_are_swept() {
    let out = tempfile::tempdir().unwrap();
    begin(out.path(), &SimulatedEngine::default()).unwrap();
    let folder = folder(out.path());
    let blobs = BlobStore::new(folder.blobs(), Arc::new(Disk));
    let stray = blobs.put(b"nobody names this").unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    for shelf in Disk.list(&folder.blobs()).unwrap() {
        for name in Disk.list(&folder.blobs().join(&shelf)).unwrap() {
            let file = std::fs::File::open(folder.blobs().join(&shelf).join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
    }
    let sweep = run::sweep(&folder, Duration::from_secs(3600)).unwrap();
    assert_eq!((sweep.removed, sweep.freed_bytes), (1, stray.bytes));
    assert!(checked(out.path()).ok);
    std::fs::write(out.path().join("stories/ad/commits/01_01.json"), "{}").unwrap();
    assert!(
        run::sweep(&folder, Duration::ZERO).is_err(),
        "who knows what it named"
    );
}

#[test]
fn reference_images_come_first() {
    let inputs = tempfile::tempdir().unwrap();
    let picture = RgbImage::new(40, 80, vec![90; 40 * 80 * 3]).unwrap();
    let png = storyloom_memory::pictures::encode_png(&picture).unwrap();
    std::fs::write(inputs.path().join("hero.png"), png).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path());
    config.input_folder = inputs.path().into();
    config.video = VideoSpec {
        width: 32,
        height: 32,
        ..config.video
    };
    let mut entry = story("ad", &[true, false]);
    entry.reference_images = vec!["hero.png".to_owned()];
    let manifest = Manifest {
        stories: vec![entry],
    };
    let engine = SimulatedEngine::default();
    let stop = StopFlag::default();
    assert_eq!(
        run(&config, &manifest, &engine, &Silent, &stop)
            .unwrap()
            .done,
        1
    );
    let id = StoryId::new("ad").unwrap();
    let memory = memory_view::story_memory(&folder(out.path()), &id, None).unwrap();
    assert_eq!(memory.references, ["keyframes/00_00_keyframe0.png"]);
    assert_eq!(memory.shots[0].opening, Opening::Memory);
    assert_eq!(memory.shots[0].saw, memory.references);
    let size = folder(out.path()).story_file(&id).unwrap().size.unwrap();
    assert_eq!(
        (size.width, size.height),
        (16, 32),
        "the shape of the reference"
    );
    assert!(checked(out.path()).ok, "{:?}", checked(out.path()).problems);

    // A program that ended between the record of the references and their names.
    let cut_short = tempfile::tempdir().unwrap();
    config.out = cut_short.path().to_owned();
    let early = StopFlag::default();
    let asked = early.clone();
    let stopping = Meddling::new(move |_, _| {
        asked.set(StopAt::Step);
        None
    });
    assert!(
        run(&config, &manifest, &stopping, &Silent, &early)
            .unwrap()
            .stopped
    );
    let ad = cut_short.path().join("stories/ad");
    let named = ad.join("keyframes/00_00_keyframe0.png");
    let digest = BlobRef::of(&std::fs::read(&named).unwrap()).blake3;
    std::fs::create_dir_all(ad.join(".staged")).unwrap();
    std::fs::rename(&named, ad.join(".staged").join(format!("{digest}.png"))).unwrap();
    assert_eq!(
        run(&config, &manifest, &engine, &Silent, &stop)
            .unwrap()
            .done,
        1
    );
    assert!(
        checked(cut_short.path()).ok,
        "{:?}",
        checked(cut_short.path()).problems
    );

    std::fs::write(inputs.path().join("hero.png"), b"no picture").unwrap();
    let fresh = tempfile::tempdir().unwrap();
    config.out = fresh.path().to_owned();
    assert_eq!(
        run(&config, &manifest, &engine, &Silent, &stop)
            .unwrap()
            .set_aside,
        1
    );
}

/// A film of a size that no model makes is the middle of one that a model makes: the same latents and
/// frames, other files.
#[test]
fn a_film_may_be_smaller_than_its_frames() {
    let made = |width, height| {
        let out = tempfile::tempdir().unwrap();
        let mut config = config(out.path());
        config.video = VideoSpec {
            width,
            height,
            ..config.video
        };
        let engine = SimulatedEngine::default();
        let stop = StopFlag::default();
        let outcome = run(&config, &manifest(), &engine, &Silent, &stop).unwrap();
        assert_eq!(outcome.done, 2);
        (out, config)
    };
    let ((cropped, mut config), (whole, _)) = (made(60, 44), made(64, 48));
    let verdicts = [&cropped, &whole].map(|out| checked(out.path()));
    for verdict in &verdicts {
        assert!(verdict.ok, "{:?}", verdict.problems);
    }
    assert_eq!(verdicts[0].content_digest, verdicts[1].content_digest);

    let ad = |name: &str| [&cropped, &whole].map(|out| out.path().join("stories/ad").join(name));
    for name in ["story.mp4", "01_02.mp4"] {
        let [cropped, whole] = ad(name);
        let frames = decode_frames(&Disk, &cropped, (60, 44), &[])
            .unwrap()
            .frames;
        assert_eq!(
            decode_frames(&Disk, &whole, (64, 48), &[]).unwrap().frames,
            frames,
            "{name}"
        );
        assert!(
            decode_frames(&Disk, &whole, (60, 44), &[]).is_err(),
            "{name}"
        );
    }
    let records = ad("commits/01_02.json").map(|path| {
        let text = std::fs::read(path).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    });
    for record in &records {
        assert_eq!(record["frame_size"], serde_json::json!([64, 48]));
        assert_eq!(record["request"]["video"]["width"], 64);
    }
    assert_ne!(records[0]["video"], records[1]["video"]);
    let [keyframe, same] =
        ad("keyframes/01_01_keyframe0.png").map(|path| std::fs::read(path).unwrap());
    assert!(keyframe == same, "the memory has the size that was made");

    // What is asked for is the film's size, and it stays.
    config.video.width = 64;
    let stop = StopFlag::default();
    let engine = SimulatedEngine::default();
    let refused = run(&config, &manifest(), &engine, &Silent, &stop).unwrap_err();
    assert!(refused.to_string().contains("video"), "{refused}");
    // Nor does verify take one size for the other.
    let path = cropped.path().join("stories/ad/story.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["size"]["width"], 60);
    file["size"]["width"] = 62.into();
    seal(file.as_object_mut().unwrap());
    std::fs::write(&path, file.to_string()).unwrap();
    assert!(!checked(cropped.path()).ok);
}

#[test]
fn a_window_of_zero_turns_memory_off() {
    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path());
    config.window = WindowSettings {
        max_images: 0,
        sink: 3,
    };
    let stop = StopFlag::default();
    run(
        &config,
        &manifest(),
        &SimulatedEngine::default(),
        &Silent,
        &stop,
    )
    .unwrap();
    let id = StoryId::new("tale").unwrap();
    let memory = memory_view::story_memory(&folder(out.path()), &id, None).unwrap();
    assert!(memory.shots.iter().all(|shot| shot.saw.is_empty()));
    assert!(checked(out.path()).ok);
}

#[test]
fn stories_that_keep_no_keyframe_are_told() {
    let calm = tempfile::tempdir().unwrap();
    let outcome = begin(calm.path(), &SimulatedEngine::default()).unwrap();
    assert_eq!((outcome.done, outcome.without_keyframes), (2, 0));

    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path());
    // The simulated engine gives 5 to all.
    config.selection.quality_threshold = 20.0;
    let single = story("single", &[true]);
    let stories = [manifest().stories, vec![single]].concat();
    let stop = StopFlag::default();
    let engine = SimulatedEngine::default();
    // The second start only looks at what is there.
    for _ in 0..2 {
        let stories = Manifest {
            stories: stories.clone(),
        };
        let outcome = run(&config, &stories, &engine, &Silent, &stop).unwrap();
        assert_eq!((outcome.done, outcome.without_keyframes), (3, 2));
    }
    let status = look(out.path());
    assert_eq!(status.without_keyframes, 2);
    let of = |id: &str| {
        let mut list = status.list.iter();
        list.find(|story| story.id.as_str() == id)
            .unwrap()
            .no_keyframes
    };
    let finding = of("tale").unwrap();
    assert_eq!((finding.threshold, finding.best), (20.0, Some(5.0)));
    assert_eq!(of("single"), None);
    let written = report::write_report(&folder(out.path())).unwrap();
    let overview = std::fs::read_to_string(&written.page).unwrap();
    assert!(overview.contains("2 stories kept no keyframe"));
    let page = |id: &str| {
        let path = written.page.with_file_name(format!("stories/{id}.html"));
        std::fs::read_to_string(path).unwrap()
    };
    let said = "storymem.quality_threshold = 20, the best scored 5.0000";
    assert!(page("ad").contains(said) && !page("single").contains(said));
    assert!(checked(out.path()).ok);
}

#[test]
fn shots_too_short_to_continue_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path());
    config.continuation = Continuation::Mm2v;
    config.video.frames = 5;
    let stop = StopFlag::default();
    let engine = SimulatedEngine::default();
    let error = run(&config, &manifest(), &engine, &Silent, &stop)
        .unwrap_err()
        .to_string();
    assert!(error.contains("at least 9"), "{error}");
}

/// Each way to tamper with a finished run is found, and undone it is clean again.
#[test]
fn verify_finds_every_kind_of_damage() {
    let out = tempfile::tempdir().unwrap();
    begin(out.path(), &SimulatedEngine::default()).unwrap();
    let root = out.path();
    let digest = checked(root).content_digest;
    let ad = root.join("stories/ad");
    let first = |folder: &Path| {
        std::fs::read_dir(folder)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
    };
    let blob = first(&first(&root.join("blobs")));
    let record = ad.join("commits/01_02.json");
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let halve = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let edit = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replacen("shot 1 of ad", "shot 9 of ad", 1)
            .into_bytes();
    };
    type Change<'a> = (&'a str, PathBuf, Box<dyn Fn(&mut Vec<u8>)>);
    let changes: [Change; 6] = [
        ("flipped blob", blob, Box::new(flip)),
        ("truncated video", ad.join("01_02.mp4"), Box::new(halve)),
        ("truncated story", ad.join("story.mp4"), Box::new(halve)),
        (
            "changed keyframe",
            first(&ad.join("keyframes")),
            Box::new(flip),
        ),
        ("edited record", record.clone(), Box::new(edit)),
        ("cut record", record.clone(), Box::new(halve)),
    ];
    for (name, path, change) in changes {
        let original = std::fs::read(&path).unwrap();
        let mut bytes = original.clone();
        change(&mut bytes);
        assert_ne!(bytes, original, "{name}");
        std::fs::write(&path, bytes).unwrap();
        let verdict = checked(root);
        assert!(
            !verdict.ok && verdict.content_digest.is_none(),
            "{name} was not found"
        );
        std::fs::write(&path, original).unwrap();
    }
    for path in [record, first(&ad.join("keyframes")), ad.join("01_01.mp4")] {
        let aside = root.join("aside");
        std::fs::rename(&path, &aside).unwrap();
        assert!(!checked(root).ok, "{} was not missed", path.display());
        std::fs::rename(&aside, &path).unwrap();
    }
    // A story swapped for another, and a record that nobody asked for.
    for part in ["commits", "keyframes"] {
        let (a, b) = (ad.join(part), root.join("stories/tale").join(part));
        let aside = root.join("aside");
        let swap = || {
            std::fs::rename(&a, &aside).unwrap();
            std::fs::rename(&b, &a).unwrap();
            std::fs::rename(&aside, &b).unwrap();
        };
        swap();
        assert!(!checked(root).ok, "swapped {part}");
        swap();
    }
    let extra = ad.join("commits/01_09.json");
    std::fs::copy(ad.join("commits/01_03.json"), &extra).unwrap();
    assert!(!checked(root).ok);
    std::fs::remove_file(extra).unwrap();
    assert_eq!(checked(root).content_digest, digest);
}

/// A checkpoint whose tokens are of 32 pixels: frames are made at multiples of it, and `verify`
/// knows it from `run.json` alone.
#[test]
fn frames_have_the_sides_of_the_grid_of_the_run() {
    let out = tempfile::tempdir().unwrap();
    let mut config = config(out.path());
    config.grid.patch = 4;
    config.video = VideoSpec {
        width: 40,
        height: 32,
        ..config.video
    };
    let manifest = Manifest {
        stories: vec![story("wide", &[true])],
    };
    let engine = SimulatedEngine::default();
    let stop = StopFlag::default();
    run(&config, &manifest, &engine, &Silent, &stop).unwrap();
    let identity = folder(out.path()).run_file().unwrap().identity;
    assert_eq!(identity.grid, config.grid);
    let text = std::fs::read_to_string(out.path().join("stories/wide/commits/01_01.json"));
    let record: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!(record["frame_size"], serde_json::json!([64, 32]));
    let verdict = verify(&folder(out.path()), Depth::Content).unwrap();
    assert!(verdict.problems.is_empty(), "{:?}", verdict.problems);
    // A run of the published models says nothing of it, as before.
    let usual = tempfile::tempdir().unwrap();
    begin(usual.path(), &engine).unwrap();
    let text = std::fs::read_to_string(usual.path().join("run.json")).unwrap();
    assert!(!text.contains("\"grid\""), "{text}");
}
