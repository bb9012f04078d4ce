//! Records that are deleted in the middle of a chain: made again as they were, or told.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use storyloom_memory::Disk;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::quarantine::release;
use storyloom_orchestrator::run::run;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{RunConfig, RunFolder, RunOutcome, StopFlag, StoryState, Videos};
use storyloom_story::{
    Line, Manifest, Method, ShotNotes, StoryEntry, StoryNotes, StoryPattern, parse_lines,
};
use storyloom_telemetry::shift::{Journal, ShiftStart};
use storyloom_telemetry::{Reporter, Silent};

/// A run of two stories of four shots each, with a journal of each start.
struct Made {
    _root: tempfile::TempDir,
    config: RunConfig,
    manifest: Manifest,
    starts: u32,
}

impl Made {
    fn new(videos: Videos) -> Self {
        Self::of(Method::StoryMem, videos)
    }

    fn of(method: Method, videos: Videos) -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings {
            videos,
            ..PipelineSettings::instant(root.path(), 8, 4)
        };
        let (mut config, manifest) = plain_run(&root.path().join("out"), 1, &settings).unwrap();
        config.method = method;
        let mut made = Self {
            _root: root,
            config,
            manifest,
            starts: 0,
        };
        assert_eq!(made.start().done, 2);
        made
    }

    fn start(&mut self) -> RunOutcome {
        self.start_by(&SimulatedEngine::default())
    }

    fn start_by(&mut self, engine: &SimulatedEngine) -> RunOutcome {
        self.starts += 1;
        let (id, pulse) = (format!("w{}", self.starts), Duration::from_secs(60));
        let (start, begun) = (ShiftStart::default(), f64::from(self.starts));
        self.run(
            engine,
            &Journal::begin(&self.config.out, &id, start, begun, pulse),
        )
    }

    fn run(&self, engine: &SimulatedEngine, reporter: &dyn Reporter) -> RunOutcome {
        let stop = StopFlag::default();
        run(&self.config, &self.manifest, engine, reporter, &stop).unwrap()
    }

    fn folder(&self) -> RunFolder {
        RunFolder::new(&self.config.out, Arc::new(Disk))
    }

    fn verdict(&self) -> Verdict {
        verify(&self.folder(), Depth::Content).unwrap()
    }

    fn record(&self, shot: &str) -> PathBuf {
        let story = self.manifest.stories[0].id.as_str();
        let commits = self.config.out.join("stories").join(story).join("commits");
        commits.join(format!("{shot}.json"))
    }

    /// The records of the first story, byte for byte.
    fn records(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.record("01_01").parent().unwrap().to_owned();
        let entries = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    fn lose(&self, shots: &[&str]) {
        for shot in shots {
            fs::remove_file(self.record(shot)).unwrap();
        }
    }

    fn retry(&self) {
        let released = release(&self.folder(), &[]).unwrap();
        assert_eq!(released, [self.manifest.stories[0].id.clone()]);
    }

    /// The first story is in quarantine, with a reason that names what is gone and what follows from it.
    fn is_told(&self, outcome: RunOutcome, follower: &str) {
        assert_eq!((outcome.done, outcome.quarantined), (1, 1));
        let file = self
            .folder()
            .story_file(&self.manifest.stories[0].id)
            .unwrap();
        let StoryState::Quarantined { reason, .. } = file.state else {
            panic!("{:?}", file.state);
        };
        for word in [
            "01_02.json is gone",
            &format!("{follower}.json follows"),
            "storyloom retry",
        ] {
            assert!(reason.contains(word), "{word}: {reason}");
        }
        assert!(!self.verdict().ok);
    }
}

#[test]
fn a_lost_record_is_made_again_as_it_was() {
    for lost in [
        &["01_01"][..],
        &["01_02"],
        &["01_03"],
        &["01_02", "01_03"],
        &["01_01", "01_03"],
    ] {
        let mut made = Made::new(Videos::Placeholders);
        let (before, wanted) = (made.records(), made.verdict());
        assert!(wanted.ok, "{:?}", wanted.problems);
        made.lose(lost);
        assert!(!made.verdict().ok, "{lost:?}");
        assert_eq!(made.start().done, 2, "{lost:?}");
        assert_eq!(made.records(), before, "{lost:?}");
        assert_eq!(made.verdict(), wanted, "{lost:?}");
    }
}

#[test]
fn a_damaged_record_is_a_lost_one() {
    for damaged in ["01_01", "01_03"] {
        let mut made = Made::new(Videos::Placeholders);
        let (before, wanted) = (made.records(), made.verdict());
        let path = made.record(damaged);
        fs::write(&path, &before[&path][..100]).unwrap();
        assert!(!made.verdict().ok, "{damaged}");
        assert_eq!(made.start().done, 2, "{damaged}");
        let mut after = made.records();
        after.retain(|path, _| before.contains_key(path));
        assert_eq!(after, before, "{damaged}");
        assert_eq!(made.verdict(), wanted, "{damaged}");
    }
}

#[test]
fn a_record_may_be_lost_twice() {
    let mut made = Made::new(Videos::Encoded);
    let (before, wanted) = (made.records(), made.verdict());
    for _ in 0..2 {
        made.lose(&["01_02"]);
        assert_eq!(made.start().done, 2);
        assert_eq!(
            (made.records(), made.verdict()),
            (before.clone(), wanted.clone())
        );
    }
}

#[test]
fn without_a_journal_nothing_else_takes_its_place() {
    let mut made = Made::new(Videos::Placeholders);
    let (before, wanted) = (made.records(), made.verdict());
    fs::remove_dir_all(made.config.out.join("logs")).unwrap();
    made.lose(&["01_02"]);
    let left = made.records();
    let outcome = made.run(&SimulatedEngine::default(), &Silent);
    made.is_told(outcome, "01_03");
    assert_eq!(made.records(), left, "nothing is committed");
    // From a copy.
    fs::write(made.record("01_02"), &before[&made.record("01_02")]).unwrap();
    made.retry();
    assert_eq!(made.start().done, 2);
    assert_eq!(made.verdict(), wanted);
    // Or all that follows is made anew.
    made.lose(&["01_02", "01_03", "01_04"]);
    assert_eq!(made.start().done, 2);
    let verdict = made.verdict();
    assert_eq!(
        verdict.content_digest, wanted.content_digest,
        "{:?}",
        verdict.problems
    );
    assert_ne!(made.records(), before, "their seconds are others");
}

/// A journal that says something else, or an engine that makes something else.
#[test]
fn what_comes_out_otherwise_is_never_committed() {
    let mut made = Made::new(Videos::Placeholders);
    let journal = made.config.out.join("logs/shifts/w1.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replace("\"recorded\":", "\"noted\":")).unwrap();
    made.lose(&["01_02"]);
    let left = made.records();
    let outcome = made.start();
    made.is_told(outcome, "01_03");
    assert_eq!(made.records(), left);
    // It is not tried at each start.
    let outcome = made.start();
    made.is_told(outcome, "01_03");
    fs::write(&journal, text).unwrap();
    made.retry();
    assert_eq!(made.start().done, 2);
    assert!(made.verdict().ok);
}

#[test]
fn a_lost_record_of_any_method_comes_back_byte_for_byte() {
    for method in Method::KNOWN {
        for shots in [&["01_02"][..], &["01_01", "01_02", "01_03"]] {
            let mut made = Made::of(method, Videos::Placeholders);
            let (records, wanted) = (made.records(), made.verdict());
            assert!(wanted.ok, "{method}: {:?}", wanted.problems);
            made.lose(shots);
            assert!(!made.verdict().ok, "{method}: nobody missed {shots:?}");
            let outcome = made.start();
            assert_eq!(
                (outcome.done, outcome.quarantined),
                (2, 0),
                "{method} {shots:?}"
            );
            assert_eq!(made.records(), records, "{method} {shots:?}");
            assert_eq!(made.verdict(), wanted, "{method} {shots:?}");
        }
    }
}

/// Who tries a story in quarantine alone tries it by its own method.
#[test]
fn a_story_in_quarantine_is_tried_alone_by_its_method() {
    let mut made = Made::new(Videos::Placeholders);
    fs::remove_dir_all(&made.config.out).unwrap();
    made.manifest.stories[0].method = Some(Method::OneStory);
    assert_eq!(made.start().done, 2);
    made.lose(&["01_02"]);
    fs::remove_dir_all(made.config.out.join("logs")).unwrap();
    assert_eq!(made.start().quarantined, 1);
    let id = &made.manifest.stories[0].id;
    let line = made
        .config
        .out
        .join(format!("quarantine/{id}/manifest.jsonl"));
    let line = fs::read_to_string(line).unwrap();
    assert!(line.contains("\"method\":\"onestory\""), "{line}");
}

/// What a story script says beside its captions is said of it alone too.
#[test]
fn a_story_in_quarantine_keeps_its_notes() {
    let mut made = Made::new(Videos::Placeholders);
    fs::remove_dir_all(&made.config.out).unwrap();
    let story = &mut made.manifest.stories[0];
    story.method = Some(Method::OneStory);
    let shot = ShotNotes {
        characters: vec!["fox".to_owned()],
        environment: Some("forest".to_owned()),
    };
    story.notes = Some(StoryNotes {
        pattern: Some(StoryPattern::InsertRecall),
        shots: vec![shot; 4],
        ..StoryNotes::default()
    });
    assert_eq!(made.start().done, 2);
    made.lose(&["01_02"]);
    fs::remove_dir_all(made.config.out.join("logs")).unwrap();
    assert_eq!(made.start().quarantined, 1);
    let story = &made.manifest.stories[0];
    let line = format!("quarantine/{}/manifest.jsonl", story.id);
    let line = fs::read_to_string(made.config.out.join(line)).unwrap();
    let no_files = |name: &str| Err(format!("there is no {name}"));
    let (lines, problems) = parse_lines("manifest.jsonl", &line, &no_files);
    let [Line::Story(read)] = lines.as_slice() else {
        panic!("{line}: {problems:?}");
    };
    assert_eq!((&read.notes, read.method), (&story.notes, story.method));
    let prompts = |entry: &StoryEntry| -> Vec<String> {
        let shots = entry.script.shots();
        shots.map(|(_, shot)| shot.prompt.clone()).collect()
    };
    assert_eq!(prompts(read), prompts(story));
}
