//! The seams of a run: errors between the record of a shot and the end of its story.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storyloom_memory::storage::Calls;
use storyloom_memory::{Disk, Storage};
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::run::run_on;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::verify::{Depth, verify};
use storyloom_orchestrator::{
    CheckpointSettings, Engines, RunConfig, RunError, RunFolder, RunOutcome, StopFlag,
};
use storyloom_story::{ErrorClass, Line};
use storyloom_telemetry::{AttemptEnd, Event, Reporter, ShotEvent};

/// The real file system, until the record of the first shot is there: of the calls after that, those
/// from `from` on fail, at most `most`, with transient errors.
#[derive(Debug)]
struct AfterRecord {
    from: u64,
    most: u64,
    is_there: AtomicBool,
    calls: AtomicU64,
}

impl AfterRecord {
    fn new(from: u64, most: u64) -> Self {
        Self {
            from,
            most,
            is_there: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        }
    }

    fn count(&self) -> io::Result<()> {
        if !self.is_there.load(Ordering::SeqCst) {
            return Ok(());
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match (self.from..self.from.saturating_add(self.most)).contains(&number) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

impl Calls for AfterRecord {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.count()?;
        Disk.create_folder(path)
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.count()?;
        Disk.write_new(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.count()?;
        Disk.sync(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.count()?;
        Disk.sync_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count()?;
        Disk.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count()?;
        Disk.rename_new(from, to)?;
        if to.ends_with("commits/01_01.json") {
            self.is_there.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.count()?;
        Disk.remove_file(path)
    }
}

/// Counts how attempts at shots end.
#[derive(Default)]
struct Attempts(Mutex<Counts>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    begun: usize,
    committed: usize,
    failed: usize,
    shots: usize,
}

impl Reporter for Attempts {
    fn report(&self, event: &Event) {
        let mut counts = self.0.lock().unwrap();
        match event {
            Event::Shot {
                event: ShotEvent::AttemptBegun { .. },
                ..
            } => counts.begun += 1,
            Event::Shot {
                event: ShotEvent::AttemptEnded { end, .. },
                ..
            } => match end {
                AttemptEnd::Committed => counts.committed += 1,
                AttemptEnd::Failed | AttemptEnd::Stopped => counts.failed += 1,
            },
            Event::Shot {
                event: ShotEvent::AttemptFailed { .. },
                ..
            } => counts.failed += 1,
            Event::Shot {
                event: ShotEvent::Committed { .. },
                ..
            } => counts.shots += 1,
            _ => {}
        }
    }
}

const ONE_ATTEMPT: Counts = Counts {
    begun: 1,
    committed: 1,
    failed: 0,
    shots: 1,
};

/// A run of one story of one shot, with a step that is saved.
struct Run {
    _root: tempfile::TempDir,
    config: RunConfig,
    lines: Vec<Line>,
    heard: Attempts,
}

impl Run {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings::instant(root.path(), 1, 1);
        let (mut config, manifest) = plain_run(&root.path().join("out"), 1, &settings).unwrap();
        config.checkpoint = CheckpointSettings::Every(2);
        // Signs of life are calls, too: there should be none.
        config.lease_timeout = Duration::from_secs(24 * 3600);
        Self {
            _root: root,
            config,
            lines: manifest.stories.into_iter().map(Line::Story).collect(),
            heard: Attempts::default(),
        }
    }

    fn start(&self, storage: Arc<dyn Storage>) -> Result<RunOutcome, RunError> {
        let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
        let engines = Engines {
            engine: &engine,
            planner: None,
        };
        let (config, lines) = (&self.config, &self.lines);
        run_on(storage, config, lines, &engines, &self.heard, &stop)
    }

    fn counts(&self) -> Counts {
        *self.heard.0.lock().unwrap()
    }

    fn is_proven(&self) -> bool {
        let folder = RunFolder::new(&self.config.out, Arc::new(Disk));
        verify(&folder, Depth::Content).unwrap().ok
    }
}

/// How many calls follow the record.
fn calls() -> u64 {
    let calm = Arc::new(AfterRecord::new(u64::MAX, 0));
    Run::new().start(calm.clone()).unwrap();
    let calls = calm.calls.load(Ordering::SeqCst);
    assert!(calls >= 15, "only {calls} calls");
    calls
}

#[test]
fn a_hiccup_after_the_record_is_no_failed_attempt() {
    for at in 0..calls() {
        let run = Run::new();
        let outcome = run.start(Arc::new(AfterRecord::new(at, 1)));
        let outcome = outcome.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!((outcome.done, outcome.failed), (1, 0), "{at}");
        assert_eq!(run.counts(), ONE_ATTEMPT, "{at}");
        assert!(run.is_proven(), "{at}");
    }
}

#[test]
fn an_error_after_the_record_that_stays_is_the_storys() {
    let stays = |at: u64| {
        let mut run = Run::new();
        match run.start(Arc::new(AfterRecord::new(at, u64::MAX))) {
            // What is left is by the way, on the way out.
            Ok(outcome) => assert_eq!((outcome.done, outcome.quarantined), (1, 0), "{at}"),
            // Not even that the story has failed can be written.
            Err(error) => assert_eq!(error.class(), ErrorClass::Transient, "{at}: {error}"),
        }
        assert_eq!(run.counts(), ONE_ATTEMPT, "{at}");
        // The first program's process is this one, so that it seems to be alive.
        run.config.lease_timeout = Duration::from_millis(40);
        let outcome = run.start(Arc::new(Disk)).unwrap();
        assert_eq!((outcome.done, outcome.quarantined), (1, 0), "{at}");
        assert_eq!(run.counts(), ONE_ATTEMPT, "{at}: nothing is made again");
        assert!(run.is_proven(), "{at}");
    };
    std::thread::scope(|scope| {
        for at in 0..calls() {
            scope.spawn(move || stays(at));
        }
    });
}

/// Longer than anybody waits, but the story can say that it has failed.
#[test]
fn a_story_that_fails_after_its_record_goes_on_at_the_next_start() {
    let run = Run::new();
    // The film: each of four tries fails at its first call.
    let film = calls() - 1;
    let found = (0..film).rev().find(|&at| {
        let run = Run::new();
        let outcome = run.start(Arc::new(AfterRecord::new(at, 4)));
        matches!(outcome, Ok(outcome) if outcome.failed == 1)
    });
    let at = found.expect("a call whose error the story outlives");
    let outcome = run.start(Arc::new(AfterRecord::new(at, 4))).unwrap();
    assert_eq!((outcome.failed, outcome.quarantined), (1, 0));
    assert_eq!(run.counts(), ONE_ATTEMPT);
    assert_eq!(run.start(Arc::new(Disk)).unwrap().done, 1);
    assert_eq!(run.counts(), ONE_ATTEMPT);
    assert!(run.is_proven());
}
