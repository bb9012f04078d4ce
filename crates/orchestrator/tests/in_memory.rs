//! A run folder on a store that is no disk: nothing of a run, its verdict, its status and its report needs
//! a file system where it lies.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storyloom_memory::pictures::encode_png;
use storyloom_memory::{Disk, InMemory, Storage};
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::repair::{Repair, repair};
use storyloom_orchestrator::report::write_report;
use storyloom_orchestrator::run::{run_on, sweep};
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::{now, status};
use storyloom_orchestrator::testing::planner::SimulatedPlanner;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::watch::Watcher;
use storyloom_orchestrator::{
    Engines, RunConfig, RunError, RunFolder, RunOutcome, StopFlag, Videos, drain, memory_view,
};
use storyloom_story::{Brief, Line, Method, RgbImage, StoryId};
use storyloom_telemetry::shift::{Journal, ShiftEnd, ShiftStart, shifts_folder};
use storyloom_telemetry::{Reporter, Silent};

/// A run of a story with a reference image, of one without, and of a brief.
struct Run {
    root: tempfile::TempDir,
    storage: Arc<dyn Storage>,
    config: RunConfig,
    lines: Vec<Line>,
}

impl Run {
    fn new(storage: Arc<dyn Storage>, videos: Videos) -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings {
            videos,
            ..PipelineSettings::instant(root.path(), 5, 3)
        };
        let (mut config, mut manifest) = plain_run(&root.path().join("out"), 1, &settings).unwrap();
        let hero = RgbImage::new(40, 80, vec![90; 40 * 80 * 3]).unwrap();
        std::fs::write(root.path().join("hero.png"), encode_png(&hero).unwrap()).unwrap();
        config.input_folder = root.path().to_owned().into();
        config.index_folder = Some(root.path().join("index"));
        manifest.stories[0].reference_images = vec!["hero.png".to_owned()];
        let brief = Brief {
            title: Some("A mug".to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new("mug").unwrap())
        };
        let stories = manifest.stories.into_iter().map(Line::Story);
        Self {
            root,
            storage,
            config,
            lines: stories.chain([Line::Brief(brief)]).collect(),
        }
    }

    fn start(&self) -> Result<RunOutcome, RunError> {
        self.start_with(&Silent)
    }

    fn start_with(&self, reporter: &dyn Reporter) -> Result<RunOutcome, RunError> {
        let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
        let engines = Engines {
            engine: &engine,
            planner: Some(&SimulatedPlanner::default()),
        };
        let (storage, config) = (self.storage.clone(), &self.config);
        run_on(storage, config, &self.lines, &engines, reporter, &stop)
    }

    fn folder(&self) -> RunFolder {
        RunFolder::new(&self.config.out, self.storage.clone())
    }

    fn verdict(&self) -> Verdict {
        verify(&self.folder(), Depth::Frames).unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.config.out.join(file)
    }

    /// What of the run folder is on a disk after all.
    fn is_on_disk(&self) -> bool {
        self.config.out.exists()
    }
}

#[test]
fn a_whole_run_lies_in_memory() {
    let store = Arc::new(InMemory::new());
    let run = Run::new(store.clone(), Videos::Placeholders);
    let outcome = run.start().unwrap();
    assert_eq!((outcome.stories, outcome.done), (3, 3));
    let verdict = run.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    assert_eq!((verdict.shots, verdict.shots_proven), (7, 7));
    let on_disk = Run::new(Arc::new(Disk), Videos::Placeholders);
    on_disk.start().unwrap();
    assert_eq!(verdict.content_digest, on_disk.verdict().content_digest);

    let folder = run.folder();
    let seen = status(&folder).unwrap();
    assert_eq!((seen.stories.done, seen.shots.done), (3, 7));
    let report = write_report(&folder).unwrap();
    assert_eq!((report.stories, report.changed), (3, 3));
    let page = String::from_utf8(store.read(&report.page).unwrap()).unwrap();
    assert!(page.contains("mug"), "{page}");
    let pictures = run.path("report/pictures");
    let is_row = |path: &PathBuf| path.starts_with(&pictures) && path.ends_with("row.jpg");
    assert!(store.paths().iter().any(is_row), "keyframes are shown");
    assert_eq!(write_report(&folder).unwrap().changed, 0);
    let story = run.lines[0].id();
    let memory = memory_view::story_memory(&folder, story, None).unwrap();
    assert_eq!((memory.references.len(), memory.shots.len()), (1, 3));

    // A later start finds it as it is, and nothing is left over.
    assert_eq!(run.start().unwrap().finished_before, 3);
    let before = store.paths();
    assert_eq!(sweep(&folder, Duration::ZERO).unwrap().removed, 0);
    let terms = Repair {
        stories: &[],
        anew: false,
        lease_timeout: Duration::from_secs(60),
    };
    assert!(repair(&folder, &terms).unwrap().deeds.is_empty());
    assert_eq!(store.paths(), before);
    assert!(drain::request(&folder).unwrap() && drain::withdraw(&folder).unwrap());
    assert!(!run.is_on_disk());
}

/// Clips, clips of what a network chose of its memory, pictures, and keyframes with their clips.
#[test]
fn every_method_has_its_run_in_memory() {
    for method in Method::KNOWN {
        let digest = |storage: Arc<dyn Storage>| {
            let mut run = Run::new(storage, Videos::Placeholders);
            run.config.method = method;
            assert_eq!(run.start().unwrap().done, 3, "{method}");
            let verdict = run.verdict();
            assert!(verdict.ok, "{method}: {:?}", verdict.problems);
            write_report(&run.folder()).unwrap();
            (verdict.content_digest, run.is_on_disk())
        };
        let (in_memory, is_on_disk) = digest(Arc::new(InMemory::new()));
        assert!(!is_on_disk, "{method}");
        assert_eq!((in_memory, true), digest(Arc::new(Disk)), "{method}");
    }
}

/// ffmpeg knows files of this machine only.
#[test]
fn videos_come_into_the_store_and_are_read_from_it() {
    let store = Arc::new(InMemory::new());
    let run = Run::new(store.clone(), Videos::Encoded);
    assert_eq!(run.start().unwrap().done, 3);
    let verdict = run.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    let on_disk = Run::new(Arc::new(Disk), Videos::Encoded);
    on_disk.start().unwrap();
    for video in ["01_01.mp4", "story.mp4"] {
        let video = Path::new("stories")
            .join(run.lines[0].id().as_str())
            .join(video);
        let file = |run: &Run| run.storage.read(&run.config.out.join(&video)).unwrap();
        assert_eq!(file(&run), file(&on_disk), "{}", video.display());
    }
    assert!(!run.is_on_disk());
}

#[test]
fn what_was_damaged_in_the_store_is_found_and_made_again() {
    let store = Arc::new(InMemory::new());
    let run = Run::new(store.clone(), Videos::Placeholders);
    run.start().unwrap();
    let digest = run.verdict().content_digest;
    let story = Path::new("stories").join(run.lines[1].id().as_str());
    let story = run.config.out.join(story);
    store.write(&story.join("01_01.mp4"), b"no video").unwrap();
    let shelf = store.list(&run.path("blobs")).unwrap().remove(0);
    let blobs = run.path("blobs").join(shelf);
    let blob = store.list(&blobs).unwrap().remove(0);
    store.remove(&blobs.join(blob)).unwrap();
    store.remove(&run.path("run.json")).unwrap();
    assert!(!run.verdict().ok);
    let terms = Repair {
        stories: &[],
        anew: false,
        lease_timeout: Duration::from_secs(60),
    };
    repair(&run.folder(), &terms).unwrap();
    assert_eq!(run.start().unwrap().done, 3);
    let verdict = run.verdict();
    assert!(verdict.ok, "{:?}", verdict.problems);
    assert_eq!(verdict.content_digest, digest);
    assert!(!run.is_on_disk());
}

/// Programs write their journals where they run; who looks on finds them where the run folder is.
#[test]
fn journals_are_read_from_the_store() {
    let store = Arc::new(InMemory::new());
    let run = Run::new(store.clone(), Videos::Placeholders);
    let elsewhere = tempfile::tempdir().unwrap();
    let start = ShiftStart {
        ranks: 1,
        ..ShiftStart::default()
    };
    let journal = Journal::begin(elsewhere.path(), "w", start, now(), Duration::from_secs(60));
    run.start_with(&journal).unwrap();
    let mut watcher = Watcher::new(run.folder());
    assert!(watcher.look().unwrap().workers.is_empty());
    let copy = |name: &str| {
        let bytes = std::fs::read(shifts_folder(elsewhere.path()).join(name)).unwrap();
        let path = shifts_folder(&run.config.out).join(name);
        store.write(&path, &bytes).unwrap();
    };
    copy("w.jsonl");
    assert_eq!(watcher.look().unwrap().workers.len(), 1);
    journal.end(ShiftEnd::Done);
    copy("w.jsonl");
    let made = status(&run.folder()).unwrap();
    assert!(
        made.time.useful > 0.0 && made.goodput > Some(0.0),
        "{made:?}"
    );
    watcher.look().unwrap();
    let [shift] = watcher.shifts()[..] else {
        panic!("one program was at work");
    };
    assert_eq!(shift.attempts.len(), 7);
    assert!(shift.end.is_some());
}

#[test]
fn an_index_without_a_folder_is_asked_for() {
    let mut run = Run::new(Arc::new(InMemory::new()), Videos::Placeholders);
    run.config.index_folder = None;
    let error = run.start().unwrap_err();
    assert!(error.to_string().contains("memory.path"), "{error}");
    assert!(
        std::fs::read_dir(run.root.path()).unwrap().count() == 1,
        "only the picture"
    );
}
