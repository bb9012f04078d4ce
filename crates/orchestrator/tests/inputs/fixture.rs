//! What the tests of inputs work on.

use std::fs;
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_memory::pictures::encode_png;
use storyloom_orchestrator::admission::Asked;
use storyloom_orchestrator::pipeline::{PipelineSettings, plain_run};
use storyloom_orchestrator::run::run_on;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::{Status, status};
use storyloom_orchestrator::testing::planner::SimulatedPlanner;
use storyloom_orchestrator::verify::{Depth, Verdict, verify};
use storyloom_orchestrator::{
    Engines, RunConfig, RunFolder, RunOutcome, RunTerms, StopFlag, StoryPlanner,
};
use storyloom_story::{Brief, Line, RgbImage, Scene, ShotScript, StoryEntry, StoryId, StoryScript};
use storyloom_telemetry::Silent;

/// A folder with pictures, and the settings of small runs without videos on them.
pub struct Fixture {
    root: tempfile::TempDir,
    pub config: RunConfig,
}

impl Fixture {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let settings = PipelineSettings::instant(root.path(), 1, 1);
        let (mut config, _) = plain_run(&root.path().join("out"), 2, &settings).unwrap();
        config.input_folder = root.path().join("in").into();
        fs::create_dir_all(config.input_folder.path()).unwrap();
        Self { root, config }
    }

    pub fn input(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join("in").join(name)
    }

    pub fn paint(&self, name: &str, (width, height): (u32, u32), shade: u8) {
        let data = vec![shade; (width * height * 3) as usize];
        let picture = RgbImage::new(width, height, data).unwrap();
        fs::write(self.input(name), encode_png(&picture).unwrap()).unwrap();
    }

    pub fn folder(&self) -> RunFolder {
        RunFolder::new(&self.config.out, Arc::new(Disk))
    }

    pub fn make(&self, lines: &[Line]) -> RunOutcome {
        let (engine, planner) = (SimulatedEngine::default(), SimulatedPlanner::default());
        let engines = Engines {
            engine: &engine,
            planner: Some(&planner as &dyn StoryPlanner),
        };
        let (disk, stop) = (Arc::new(Disk), StopFlag::default());
        run_on(disk, &self.config, lines, &engines, &Silent, &stop).unwrap()
    }

    pub fn begin(&self, lines: &[Line]) -> Vec<Asked> {
        let terms = RunTerms::new(&self.config, lines, &SimulatedEngine::default()).unwrap();
        self.folder().begin(&self.config, &terms, lines).unwrap()
    }

    pub fn status(&self) -> Status {
        status(&self.folder()).unwrap()
    }

    pub fn verdict(&self) -> Verdict {
        verify(&self.folder(), Depth::Content).unwrap()
    }

    pub fn story_path(&self, name: &str) -> std::path::PathBuf {
        self.config
            .out
            .join("stories")
            .join(name)
            .join("story.json")
    }
}

pub fn id(name: &str) -> StoryId {
    StoryId::new(name).unwrap()
}

fn entry(name: &str, prompts: &[&str]) -> StoryEntry {
    let shot = |prompt: &&str| ShotScript {
        prompt: (*prompt).to_owned(),
        first_frame_prompt: None,
        cut: true,
    };
    let scene = Scene {
        number: 1,
        shots: prompts.iter().map(shot).collect(),
    };
    let script = StoryScript {
        name: None,
        overview: None,
        scenes: vec![scene],
    };
    StoryEntry::new(id(name), script)
}

pub fn story(name: &str, prompts: &[&str]) -> Line {
    Line::Story(entry(name, prompts))
}

pub fn pictured(name: &str, pictures: &[&str]) -> Line {
    Line::Story(StoryEntry {
        reference_images: pictures.iter().map(|&name| name.to_owned()).collect(),
        ..entry(name, &["a mug"])
    })
}

pub fn brief(name: &str, picture: &str) -> Line {
    Line::Brief(Brief {
        title: Some("The mug".to_owned()),
        product_image: Some(picture.to_owned()),
        shots: 1,
        ..Brief::new(id(name))
    })
}
