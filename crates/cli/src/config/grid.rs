//! How the networks that the settings name divide videos.

use std::path::{Path, PathBuf};

use storyloom_engine::method::onestory::{Backend, onestory_paths};
use storyloom_engine::method::storymem::storymem_paths;
use storyloom_engine::method::wan::latent_grid;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_story::{LatentGrid, Method};

use super::Config;
use super::options::{EngineKind, OneStory};

impl Config {
    /// As the configs of the checkpoint say, which are read for it. Without a checkpoint that says it,
    /// as the published models of the method; whatever is wrong with one is told where it is loaded.
    pub fn latent_grid(&self) -> LatentGrid {
        match self.top.engine {
            EngineKind::Simulated => SimulatedEngine::GRID,
            EngineKind::Torch if self.models.dir.is_empty() => LatentGrid::WAN_2_1,
            EngineKind::Torch => of_checkpoint(self.networks_of(), Path::new(&self.models.dir)),
        }
    }
}

fn of_checkpoint(method: Method, dir: &Path) -> LatentGrid {
    latent_grid(&text_pipeline(method, dir)).unwrap_or(LatentGrid::WAN_2_1)
}

impl Config {
    /// The method whose pipelines make the shots.
    fn networks_of(&self) -> Method {
        networks_of(self.top.method, &self.onestory)
    }
}

/// The method whose pipelines make the shots of a method.
pub fn networks_of(method: Method, onestory: &OneStory) -> Method {
    match (method, onestory.backend) {
        (Method::OneStory, Backend::StoryMemInject) => Method::StoryMem,
        (method, _) => method,
    }
}

/// The pipeline of a method whose autoencoder, text encoder and tokenizer are used. Both pipelines of StoryMem
/// have the same, and runs without memory may have the first alone.
pub fn text_pipeline(method: Method, dir: &Path) -> PathBuf {
    match method {
        Method::OneStory => onestory_paths(dir, None).pipeline,
        _ => {
            let mut paths = storymem_paths(dir, None);
            let is_there = |pipeline: &PathBuf| pipeline.is_dir();
            paths.image_to_video = paths.image_to_video.filter(is_there);
            paths.shared().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::config::load;

    use super::*;

    /// A checkpoint whose latents are of two frames and whose tokens are of 32 pixels.
    fn write(dir: &Path, pipeline: &str) {
        let vae = r#"{"_class_name": "AutoencoderKLWan", "dim_mult": [1, 2, 4, 4],
            "temperal_downsample": [false, false, true]}"#;
        let transformer = r#"{"_class_name": "WanTransformer3DModel", "patch_size": [1, 4, 4]}"#;
        for (part, config) in [("vae", vae), ("transformer", transformer)] {
            let folder = dir.join(pipeline).join(part);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("config.json"), config).unwrap();
        }
    }

    #[test]
    fn sizes_and_lengths_are_those_of_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let models = format!("models.dir={}", dir.path().display());
        let seven = "video.frames=7".to_owned();
        let refused = load(None, [], &[models.clone(), seven.clone()]).unwrap_err();
        assert!(refused[0].message.contains("4n + 1"), "{refused:?}");
        write(dir.path(), "t2v");
        let config = load(None, [], &[models.clone(), seven.clone()]).unwrap();
        let grid = config.latent_grid();
        assert_eq!((grid.frames, grid.token_side()), (2, 32));
        let even = "video.frames=8".to_owned();
        let refused = load(None, [], &[models.clone(), even]).unwrap_err();
        assert!(refused[0].message.contains("2n + 1"), "{refused:?}");
        // The stand-in for networks has no checkpoint.
        let simulated = "engine=simulated".to_owned();
        assert!(load(None, [], &[models, simulated, seven]).is_err());
    }
}
