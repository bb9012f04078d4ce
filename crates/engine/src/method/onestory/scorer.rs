//! What scores alone, for the proof of a run: it says again how relevant the frames of a history are.

use std::sync::Mutex;

use storyloom_nn::error::Result;
use storyloom_nn::loaded::LoadedFiles;
use storyloom_story::onestory::Selector;
use storyloom_story::{HostTensor, ShotInputs};

use super::choose::Chooser;
use super::condition::{self, Conditioner};
use super::labels::{self, Labels};
use super::paths::{self, OneStoryPaths};
use super::settings::OneStorySettings;
use crate::method::wan::{Prompts, latent_grid};
use crate::replica::station::lock;

/// What scores the history of a pipeline, without what makes shots.
#[derive(Debug)]
pub struct OneStoryScorer {
    judge: Judge,
    loaded: LoadedFiles,
}

/// What gives the scores.
#[derive(Debug)]
enum Judge {
    /// The text encoder and the selector of the pipeline, or the length of the history.
    Pipeline(Box<(Mutex<Prompts>, Mutex<Conditioner>)>),
    /// Likenesses to caption and characters.
    Labels(Box<Mutex<Labels>>, Chooser),
}

impl OneStoryScorer {
    /// Loads them.
    ///
    /// # Errors
    /// One cannot be loaded, or does not fit the others.
    pub fn open(paths: &OneStoryPaths, settings: &OneStorySettings) -> Result<Self> {
        settings.compute.set_threads();
        let grid = latent_grid(&paths.pipeline)?;
        let judge = match settings.selector {
            Selector::Clip => {
                let labels = Labels::open(paths, settings.floats(), grid.frames)?;
                let chooser = Chooser {
                    budget: settings.budget,
                    selector: settings.selector,
                    grid,
                };
                Judge::Labels(Box::new(Mutex::new(labels)), chooser)
            }
            _ => {
                let prompts = Prompts::open(&paths.pipeline, settings.compute.target, None)?;
                let conditioner = Conditioner::open(paths, settings, grid)?;
                Judge::Pipeline(Box::new((Mutex::new(prompts), Mutex::new(conditioner))))
            }
        };
        Ok(Self {
            judge,
            loaded: paths::loaded_for_scores(paths, settings.selector)?,
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
        match &self.judge {
            Judge::Labels(labels, chooser) => labels::scores(labels, chooser, inputs),
            Judge::Pipeline(networks) => {
                let (prompts, conditioner) = networks.as_ref();
                condition::scores(conditioner, inputs, || {
                    lock(prompts).positive(&inputs.request.prompt)
                })
            }
        }
    }
}
