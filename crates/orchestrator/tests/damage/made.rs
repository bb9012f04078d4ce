//! A small run, and what can happen to its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::quarantine::list;
use storyloom_orchestrator::report::write_report;
use storyloom_orchestrator::run::run;
use storyloom_orchestrator::seal::seal;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::status;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{RunConfig, RunFolder, RunOutcome, StopFlag, Videos};
use storyloom_story::Manifest;
use storyloom_telemetry::Silent;

/// A run of two stories of three shots each.
pub struct Made {
    _root: tempfile::TempDir,
    pub config: RunConfig,
    pub manifest: Manifest,
}

impl Made {
    pub fn new(videos: Videos) -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings {
            videos,
            ..PipelineSettings::instant(root.path(), 6, 3)
        };
        let out = root.path().join("out");
        let (config, manifest) = plain_run(&out, 1, &settings).unwrap();
        Self {
            _root: root,
            config,
            manifest,
        }
    }

    pub fn run(&self) -> RunOutcome {
        let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
        run(&self.config, &self.manifest, &engine, &Silent, &stop).unwrap()
    }

    pub fn verdict(&self, depth: Depth) -> Verdict {
        verify(&RunFolder::new(&self.config.out, Arc::new(Disk)), depth).unwrap()
    }

    pub fn story(&self, place: usize) -> PathBuf {
        let id = self.manifest.stories[place].id.as_str();
        self.config.out.join("stories").join(id)
    }

    /// No reader stumbles over one story.
    pub fn look_on(&self, what: &str) {
        let folder = RunFolder::new(&self.config.out, Arc::new(Disk));
        let seen = status(&folder).unwrap();
        assert_eq!((seen.stories.total, seen.stories.done), (2, 1), "{what}");
        let first = &seen.list[0];
        assert_eq!(first.shots, 3, "{what}: of the list");
        if what != "gone" {
            let reason = format!("{:?}", first.state);
            assert!(
                reason.contains("unreadable") && reason.contains("story.json"),
                "{reason}"
            );
        }
        assert!(list(&folder).unwrap().is_empty());
        write_report(&folder).unwrap();
    }

    /// The first story is not finished, as far as its file says.
    pub fn reopen(&self) {
        self.change(|file| file["state"] = serde_json::json!({"state": "running"}));
    }

    pub fn change(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.story(0).join("story.json");
        let mut file: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut file);
        seal(file.as_object_mut().unwrap());
        fs::write(path, file.to_string()).unwrap();
    }

    /// As a program leaves the first story that is killed after its second shot.
    pub fn interrupt(&self) {
        let story = self.story(0);
        for file in ["story.mp4", "01_03.mp4", "commits/01_03.json"] {
            fs::remove_file(story.join(file)).unwrap();
        }
        self.change(|file| {
            file["state"] = serde_json::json!({"state": "running"});
            file["video"] = serde_json::Value::Null;
        });
    }
}

/// Does something to a file.
pub type Damage = fn(&Path);

/// What can happen to a file, by name.
pub fn damages() -> [(&'static str, Damage); 6] {
    [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("cut", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a bit", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen("\"id\"", "\"ie\"", 1)).unwrap();
        }),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a link to itself", |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink(path, path).unwrap();
        }),
    ]
}

/// Files of the first story, relative to the run folder, that records name.
pub fn named_files(made: &Made) -> Vec<PathBuf> {
    let story = made.story(0);
    let keyframes = fs::read_dir(story.join("keyframes")).unwrap();
    let keyframe = keyframes.map(|entry| entry.unwrap().path()).min();
    let record = fs::read(story.join("commits/01_02.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let blob = |blob: &serde_json::Value| {
        let name = blob["blake3"].as_str().unwrap();
        let shelf = made.config.out.join("blobs").join(&name[..2]);
        shelf.join(format!("{name}.safetensors"))
    };
    let kept = &record["keyframes"][0];
    let mut files = vec![
        story.join("01_01.mp4"),
        story.join("01_02.mp4"),
        keyframe.unwrap(),
        blob(&record["latents"]),
        blob(&record["tail"]),
    ];
    if kept.is_object() {
        files.extend([blob(&kept["latents"]), blob(&kept["embedding"])]);
    }
    files
}

/// Changes one byte and leaves the size.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}
