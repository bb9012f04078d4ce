//! The selector alone, for the proof of a run: it says again how relevant the frames of a history are.

use std::sync::Mutex;

use storyloom_nn::error::Result;
use storyloom_nn::loaded::LoadedFiles;
use storyloom_story::{HostTensor, ShotInputs};

use super::condition::{self, Conditioner};
use super::paths::{self, OneStoryPaths};
use super::settings::OneStorySettings;
use crate::method::wan::{Prompts, latent_grid};
use crate::replica::station::lock;

/// The text encoder and the selector of a pipeline, without what makes shots.
#[derive(Debug)]
pub struct OneStoryScorer {
    prompts: Mutex<Prompts>,
    conditioner: Mutex<Conditioner>,
    loaded: LoadedFiles,
}

impl OneStoryScorer {
    /// Loads them.
    ///
    /// # Errors
    /// One cannot be loaded, or does not fit the others.
    pub fn open(paths: &OneStoryPaths, settings: &OneStorySettings) -> Result<Self> {
        settings.compute.set_threads();
        let grid = latent_grid(&paths.pipeline)?;
        let target = settings.compute.target;
        Ok(Self {
            prompts: Mutex::new(Prompts::open(&paths.pipeline, target, None)?),
            conditioner: Mutex::new(Conditioner::open(paths, settings, grid)?),
            loaded: paths::loaded_for_scores(paths)?,
        })
    }

    /// Names and digests of what decides the scores, as an engine that makes shots has them too.
    pub fn digests(&self) -> Vec<(String, String)> {
        self.loaded.digests()
    }

    /// One score for each latent frame of the history of a shot, `[F]` in f32; `[1]` with a 0 where there is
    /// none.
    ///
    /// # Errors
    /// As [`OneStoryEngine::scores`](super::OneStoryEngine::scores).
    pub fn scores(&self, inputs: &ShotInputs) -> Result<HostTensor> {
        let _guard = tch::no_grad_guard();
        condition::scores(&self.conditioner, inputs, || {
            lock(&self.prompts).positive(&inputs.request.prompt)
        })
    }
}
