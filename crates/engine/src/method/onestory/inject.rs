//! The backend `storymem-inject`: OneStory chooses frames, and the experts of StoryMem see them as their memory.
//!
//! The transformers are those of Wan2.2 with StoryMem's adapters, which were trained to look at memory; the
//! frames are seen whole, each as a memory slot, and there are no patchifiers. It is no OneStory, and says so in
//! all that it makes.

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::to_host;
use storyloom_story::onestory::{Budget, History, Selector};
use storyloom_story::{
    Capacities, Clip, HostTensor, LoopState, MemoryFrame, Opening, Resolution, RgbImage, ShotInputs,
};
use tch::Device;

use super::choose::Chooser;
use super::encode::check_caption;
use super::fingerprint::of_inject;
use super::select;
use super::settings::Backend;
use crate::method::storymem::encode::Conditions;
use crate::method::storymem::{StoryMemEngine, StoryMemPaths, StoryMemSettings};
use crate::method::wan::{Identity, latent_grid};
use crate::replica::Replica;
use crate::sampling::LoopProgress;

/// What OneStory chooses, made by StoryMem.
#[derive(Debug)]
pub struct InjectEngine {
    shots: StoryMemEngine,
    chooser: Chooser,
    identity: Identity,
}

/// What a pass is conditioned on.
#[derive(Debug)]
pub enum InjectConditions {
    /// The scores of the history, `[F]`.
    Scores(HostTensor),
    /// The shot is the ready-made first one of its story: its latents `[C, T, h, w]`.
    ReadyMade(HostTensor),
    /// What StoryMem's experts see.
    Shot(ShotInputs, Box<Conditions>),
}

impl InjectEngine {
    /// Loads StoryMem's networks; the other ranks of `replica` call
    /// [`storymem::serve`](crate::method::storymem::serve).
    ///
    /// # Errors
    /// A network cannot be loaded, or the selector is one that has to be trained.
    pub fn open(
        paths: &StoryMemPaths,
        settings: &StoryMemSettings,
        (budget, selector): (Budget, Selector),
        replica: Replica,
    ) -> Result<Self> {
        let grid = latent_grid(paths.shared())?;
        if paths.image_to_video.is_none() {
            let reason = "the backend storymem-inject needs the pipeline for pictures";
            return Err(ModelError::bad_file("i2v", reason));
        }
        let shots = StoryMemEngine::open(paths, settings, replica)?;
        let mut identity = shots.identity().clone();
        identity.fingerprint = of_inject(&identity.fingerprint, budget, selector);
        identity.quality_score = "none";
        let chooser = Chooser {
            budget,
            selector,
            grid,
        };
        Ok(Self {
            shots,
            chooser,
            identity,
        })
    }

    /// What this engine is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// As [`StoryMemEngine::check_weights`].
    ///
    /// # Errors
    /// A file has changed.
    pub fn check_weights(&self) -> Result<()> {
        self.shots.check_weights()
    }

    /// Shots that each stage can work on at once.
    pub fn capacities(&self) -> Capacities {
        self.shots.capacities()
    }

    /// As [`StoryMemEngine::assist`].
    ///
    /// # Errors
    /// A rank is gone or late.
    pub fn assist(&self) -> Result<bool> {
        self.shots.assist()
    }

    /// Stage `encode` of the pass that scores the history.
    ///
    /// # Errors
    /// The caption says nothing, the memory is not what a shot can see, or the selector is one that has to be
    /// trained.
    pub fn select(&self, inputs: &ShotInputs) -> Result<InjectConditions> {
        check_caption(&inputs.request)?;
        let history = select::history(inputs)?;
        let scores = self.chooser.known_scores(inputs, &history)?;
        let scores = scores.ok_or_else(|| {
            let reason = format!(
                "the backend {} has no selector that was trained: use recent or uniform",
                Backend::StoryMemInject.name()
            );
            ModelError::input("onestory.selector", reason)
        })?;
        Ok(InjectConditions::Scores(scores))
    }

    /// Stage `encode` of the pass that makes the shot, with the places in the memory that are seen. The image
    /// that a story begins with is a picture of StoryMem's memory, for the first shot.
    ///
    /// # Errors
    /// The scores are not those of this history, and as for all stages of StoryMem.
    pub fn encode(
        &self,
        inputs: &ShotInputs,
        scores: &HostTensor,
    ) -> Result<(Vec<usize>, InjectConditions)> {
        let history = select::history(inputs)?;
        let choice = self.chooser.choice(inputs, &history, scores)?;
        if let Some(latents) = self.chooser.ready_made(inputs, &history)? {
            return Ok((choice.places(), InjectConditions::ReadyMade(latents)));
        }
        let frames = self
            .chooser
            .frames(inputs, &history, &choice, Device::Cpu)?;
        let mut memory: Vec<MemoryFrame> =
            self.first_image(inputs, &history)?.into_iter().collect();
        for (frame, seen) in frames.iter().zip(&choice.frames) {
            let latents = to_host(&frame.f_unsqueeze(1)?)?;
            memory.push(MemoryFrame {
                hash: format!("frame {} of shot {}", seen.frame, seen.shot),
                image: None,
                arrays: [(MemoryFrame::LATENTS.to_owned(), latents.into())].into(),
            });
        }
        let mut inputs = ShotInputs {
            request: inputs.request.clone(),
            memory,
            previous_tail: Vec::new(),
        };
        inputs.request.opening = match inputs.memory.is_empty() {
            true => Opening::Text,
            false => Opening::Memory,
        };
        let conditions = Box::new(self.shots.encode(&inputs)?);
        Ok((choice.places(), InjectConditions::Shot(inputs, conditions)))
    }

    fn first_image(&self, inputs: &ShotInputs, history: &History) -> Result<Option<MemoryFrame>> {
        let image = select::first_image(inputs, history)?;
        Ok(image.and(inputs.memory.first()).cloned())
    }

    /// Stage `denoise`: the scores or a ready-made shot as they are, or noise to normalised latents `[C, T, h, w]`.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] where `observer` returns `false`, and as for all stages.
    pub fn denoise(
        &self,
        conditions: &InjectConditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&LoopProgress) -> bool,
    ) -> Result<HostTensor> {
        match conditions {
            InjectConditions::Scores(made) | InjectConditions::ReadyMade(made) => Ok(made.clone()),
            InjectConditions::Shot(inputs, conditions) => {
                self.shots.denoise(inputs, conditions, resume, observer)
            }
        }
    }

    /// Stage `decode` of the pass that scores: the history as a picture.
    ///
    /// # Errors
    /// The scores are not those of this history.
    pub fn draw(&self, inputs: &ShotInputs, scores: &HostTensor) -> Result<Clip> {
        let history = select::history(inputs)?;
        let choice = self.chooser.choice(inputs, &history, scores)?;
        select::draw_clip(&history, &choice)
    }

    /// Stage `decode` of the pass that makes the shot.
    ///
    /// # Errors
    /// As for all stages.
    pub fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip> {
        self.shots.decode(inputs, latents)
    }

    /// What is kept of a reference image: one normalised latent frame `[C, 1, h, w]`.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_picture(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        self.shots.remember(picture, size)
    }

    /// What is kept of a ready-made first shot: the normalised latents `[C, T, h, w]` of its frames.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_clip(&self, clip: &Clip, size: Resolution) -> Result<HostTensor> {
        self.shots.remember_clip(clip, size)
    }
}
