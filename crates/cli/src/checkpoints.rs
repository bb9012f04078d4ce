//! Which checkpoints the settings need, and what of them is there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use storyloom_engine::method::onestory::parts::{self as onestory, onestory_parts};
use storyloom_engine::method::onestory::{Backend, OneStoryPaths, onestory_paths};
use storyloom_engine::method::storymem::parts::{self as storymem, storymem_parts};
use storyloom_engine::method::storymem::{StoryMemPaths, storymem_paths};
use storyloom_engine::method::wan::parts::Part;
use storyloom_models::tiny::folders;
use storyloom_nn::lora::LoraSettings;
use storyloom_story::{Continuation, Line, Method};

use crate::config::choices::ScorerKind;
use crate::config::paths;
use crate::config::resolved::EngineConfig;
use crate::exit::{Exit, Failure};

/// Where the checkpoints of a method lie.
#[derive(Debug)]
pub enum MethodPaths {
    /// Two pipelines, adapters, and what tells keyframes apart.
    StoryMem(StoryMemPaths),
    /// One pipeline, with what chooses among earlier frames in it.
    OneStory(OneStoryPaths),
    /// Those of StoryMem, for what OneStory chooses.
    Inject(StoryMemPaths),
}

/// The checkpoints that the settings need.
pub struct CheckpointSet {
    /// Where they lie.
    pub paths: MethodPaths,
    dir: PathBuf,
    parts: Vec<Part>,
}

/// Looks at the checkpoints that `config` needs.
///
/// # Errors
/// It names no folder, or a method that has no networks.
pub fn of(config: &EngineConfig) -> Result<CheckpointSet, Failure> {
    let dir = &config.models_dir;
    if dir.is_empty() {
        let message = format!(
            "models.dir is empty; set it to a folder of checkpoints, or write a tiny one with: \
             storyloom model init-tiny DIR --method {}",
            config.method
        );
        return Err(Failure::new(Exit::Config, message));
    }
    for (key, folder) in [("models.dir", dir), ("lora.dir", &config.lora.dir)] {
        if !folder.is_empty() && !Path::new(folder).exists() {
            return Err(Failure::new(Exit::Config, paths::missing(key, folder)));
        }
    }
    let (paths, parts) = match config.method {
        Method::StoryMem => {
            let paths = storymem_of(config);
            let parts = storymem_parts(&paths, lora_settings(config));
            (MethodPaths::StoryMem(paths), parts)
        }
        Method::OneStory if config.onestory.backend == Backend::StoryMemInject => {
            // Without the adapters nothing looks at memory.
            let lora = lora_folder(config).unwrap_or_else(|| config.models().join(folders::LORA));
            let mut paths = storymem_paths(Path::new(dir), Some(lora));
            // Nothing tells keyframes apart, since none are kept.
            paths.clip = None;
            let parts = storymem_parts(&paths, lora_settings(config));
            (MethodPaths::Inject(paths), parts)
        }
        Method::OneStory => {
            let paths = onestory_paths(Path::new(dir), lora_of_onestory(config));
            let scored_by = (config.onestory.backend, config.onestory.selector);
            let parts = onestory_parts(&paths, scored_by, lora_settings(config));
            (MethodPaths::OneStory(paths), parts)
        }
        other => {
            let message = format!("there are no checkpoints for the method {other}");
            return Err(Failure::new(Exit::Config, message));
        }
    };
    let dir = PathBuf::from(dir);
    Ok(CheckpointSet { paths, dir, parts })
}

/// Those of StoryMem that its options need.
fn storymem_of(config: &EngineConfig) -> StoryMemPaths {
    let dir = config.models();
    let mut paths = storymem_paths(dir, lora_folder(config));
    if config.storymem.max_images == 0 {
        let is_there = |folder: &PathBuf| folder.is_dir();
        paths.image_to_video = paths.image_to_video.filter(is_there);
        paths.clip = paths.clip.filter(is_there);
    }
    if config.storymem.scorer == ScorerKind::Aesthetic {
        paths.aesthetic = Some(dir.join(folders::AESTHETIC));
    }
    paths
}

/// Without memory and without `i2v` no shot can continue the one before: that is said before
/// anything is loaded.
///
/// # Errors
/// A shot of the input is to do so.
pub fn check_continuations(config: &EngineConfig, lines: &[Line]) -> Result<(), Failure> {
    let continues = |line: &&Line| match line {
        // Only the first shot of a story has none before it.
        Line::Story(story) => story.script.shots().skip(1).any(|(_, shot)| !shot.cut),
        Line::Brief(_) => false,
    };
    let is_without = config.method == Method::StoryMem && config.storymem.max_images == 0;
    if !is_without || config.storymem.continuation == Continuation::None {
        return Ok(());
    }
    let Some(line) = lines.iter().find(continues) else {
        return Ok(());
    };
    of(config)?;
    if storymem_of(config).image_to_video.is_some() {
        return Ok(());
    }
    let message = format!(
        "memory is off and there is no {} in {}, but shots of the story {} continue the one before \
         (\"cut\": false); set storymem.continuation = \"none\" to begin all shots from text",
        folders::IMAGE_TO_VIDEO,
        config.models_dir,
        line.id()
    );
    Err(Failure::new(Exit::Config, message))
}

/// How adapters are applied.
pub fn lora_settings(config: &EngineConfig) -> LoraSettings {
    LoraSettings {
        alpha: (config.lora.alpha > 0.0).then_some(config.lora.alpha),
        scaling: config.lora.scaling,
        merge: config.lora.merge,
        ..LoraSettings::AS_FILES_SAY
    }
}

/// The folder that the config names, or else the one beside the checkpoints, if there is one.
fn lora_folder(config: &EngineConfig) -> Option<PathBuf> {
    if !config.lora.dir.is_empty() {
        return Some(PathBuf::from(&config.lora.dir));
    }
    let beside = Path::new(&config.models_dir).join(folders::LORA);
    beside.is_dir().then_some(beside)
}

/// The folder that the config names, or else `lora` in the pipeline, if there is one.
fn lora_of_onestory(config: &EngineConfig) -> Option<PathBuf> {
    if !config.lora.dir.is_empty() {
        return Some(PathBuf::from(&config.lora.dir));
    }
    let inside = config.models().join(folders::ONESTORY).join(folders::LORA);
    inside.is_dir().then_some(inside)
}

impl CheckpointSet {
    /// Whether nothing is missing or broken.
    pub fn is_whole(&self) -> bool {
        self.parts.iter().all(|part| part.problem.is_none())
    }

    /// Every part with its state.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            let state = match &part.problem {
                None => format!("there    {}", part.place.display()),
                Some(problem) => format!("MISSING  {problem}"),
            };
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{:<20} {:<46} {state}", part.name, part.purpose);
        }
        for line in self.advice() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// What a run says that cannot begin.
    pub fn missing(&self) -> String {
        let mut text = format!("the checkpoints in {} cannot be used:", self.dir.display());
        for part in &self.parts {
            if let Some(problem) = &part.problem {
                let _ = write!(text, "\n  {} ({}): {problem}", part.name, part.purpose);
            }
        }
        for line in self.advice() {
            let _ = write!(text, "\n{line}");
        }
        text
    }

    fn advice(&self) -> Vec<String> {
        match self.is_whole() {
            true => Vec::new(),
            false => match self.paths {
                MethodPaths::StoryMem(_) | MethodPaths::Inject(_) => {
                    storymem::advice(&self.dir, &self.parts)
                }
                MethodPaths::OneStory(_) => onestory::advice(&self.dir, &self.parts),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use storyloom_models::tiny::init_tiny;
    use storyloom_story::{Seed, StoryId, parse_script};

    use super::*;
    use crate::config::{Resolved, load};

    fn config(sets: &[&str]) -> EngineConfig {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        Resolved::new(load(None, [], &sets).unwrap()).engine
    }

    fn refusal(found: Result<CheckpointSet, Failure>) -> String {
        let failure = found.err().unwrap();
        assert_eq!(failure.exit, Exit::Config);
        failure.message
    }

    #[test]
    fn a_folder_that_is_not_named_or_not_there_is_told_with_its_option() {
        let said = refusal(of(&config(&[])));
        assert!(
            said.contains("models.dir is empty") && said.contains("init-tiny"),
            "{said}"
        );
        let said = refusal(of(&config(&["models.dir=no/such/folder"])));
        assert!(said.contains("models.dir = \"no/such/folder\""), "{said}");
        let set = ["models.dir=src", "lora.dir=no/adapters"];
        assert!(refusal(of(&config(&set))).contains("lora.dir = \"no/adapters\""));
    }

    /// All that is missing is told at once, each with what it is for.
    #[test]
    fn an_empty_folder_lacks_every_part_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let dir = format!("models.dir={}", folder.path().display());
        let set = of(&config(&[&dir])).unwrap();
        assert!(!set.is_whole());
        let told = set.missing();
        for part in ["t2v", "i2v", "clip"] {
            assert!(told.contains(part), "{part}: {told}");
            assert!(set.table().contains(part), "{part}");
        }
        // Without memory nothing looks at pictures.
        let set = of(&config(&[&dir, "storymem.max_images=0", "storymem.sink=0"])).unwrap();
        let MethodPaths::StoryMem(paths) = set.paths else {
            panic!("{:?}", set.paths);
        };
        assert!(paths.clip.is_none() && paths.image_to_video.is_none());
    }

    /// A pipeline of Wan has everything but what chooses among earlier frames.
    #[test]
    fn what_onestory_adds_to_a_pipeline_is_told_with_the_ways_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = format!("models.dir={}", folder.path().display());
        let look = || of(&config(&[&dir, "method=onestory"])).unwrap();
        init_tiny(folder.path(), Method::OneStory, Seed(1)).unwrap();
        assert!(look().is_whole(), "{}", look().missing());
        let added = folder.path().join("onestory/onestory");
        fs::remove_dir_all(&added).unwrap();
        let told = look().missing();
        assert!(told.contains(&added.display().to_string()), "{told}");
        for way in [
            "train onestory",
            "init-tiny DIR --method onestory",
            "wan14b-untrained",
        ] {
            assert!(told.contains(way), "{way}: {told}");
        }
        // A named backend does without.
        let plain = [
            dir.as_str(),
            "method=onestory",
            "onestory.selector=recent",
            "onestory.backend=wan14b-untrained",
        ];
        assert!(of(&config(&plain)).unwrap().is_whole());
        let inject = [&plain[..3], &["onestory.backend=storymem-inject"]].concat();
        let told = of(&config(&inject)).unwrap().missing();
        assert!(told.contains("i2v") && told.contains("lora"), "{told}");
    }

    #[test]
    fn without_memory_a_shot_that_continues_needs_the_pipeline_for_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let dir = format!("models.dir={}", folder.path().display());
        let line = |cut: bool| {
            let text = format!(
                r#"{{"scenes":[{{"scene_num":1,"video_prompts":["A cat.","It sits."],"cut":[true,{cut}]}}]}}"#
            );
            let script = parse_script("s", &text).unwrap();
            let id = StoryId::new("cat").unwrap();
            vec![Line::Story(storyloom_story::StoryEntry::new(id, script))]
        };
        let off = [dir.as_str(), "storymem.max_images=0", "storymem.sink=0"];
        let failure = check_continuations(&config(&off), &line(false)).unwrap_err();
        assert!(
            failure.message.contains("the story cat"),
            "{}",
            failure.message
        );
        assert!(check_continuations(&config(&off), &line(true)).is_ok());
        let none = [&off[..], &["storymem.continuation=none"]].concat();
        assert!(check_continuations(&config(&none), &line(false)).is_ok());
        assert!(check_continuations(&config(&[&dir]), &line(false)).is_ok());
        fs::create_dir(folder.path().join("i2v")).unwrap();
        assert!(check_continuations(&config(&off), &line(false)).is_ok());
    }
}
