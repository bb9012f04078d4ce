//! OneStory: all earlier shots are kept as latents, and a network chooses which of their frames a shot sees,
//! and how finely (arXiv 2512.07802).
//!
//! A shot has two passes. The pass [`SELECT`] scores every latent frame of the history by the caption; its
//! latents are the scores, which are committed with the shot. The pass [`PassName::SHOT`] makes context
//! tokens of the frames that follow from the scores, and samples the shot with them. So both networks work
//! once per shot, and never per step.
//!
//! Each stage has a file. The networks that look at the history are on the leader of a replica, which reads
//! it shot by shot: no rank ever holds the whole history.

#[cfg(test)]
mod backends_test;
mod choose;
mod condition;
mod denoise;
mod encode;
mod fingerprint;
mod inject;
mod labels;
#[cfg(test)]
mod labels_test;
mod likeness;
mod message;
pub mod parts;
mod paths;
#[cfg(test)]
mod replicas_test;
mod scorer;
mod select;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;
use storyloom_nn::error::Result;
use storyloom_nn::loaded::LoadedFiles;
use storyloom_nn::shard::{Peers, Shard};
use storyloom_story::onestory::{SELECT, Selector};
use storyloom_story::{
    Capacities, Clip, HostTensor, LatentGrid, LoopState, PassName, Resolution, RgbImage, ShotInputs,
};

use self::condition::{Conditioner, ShotConditions};
use self::denoise::Loop;
use self::encode::Encoder;
use self::labels::Labels;
use self::message::{BeginningRequest, TextRequest};
use crate::backbone::Networks;
use crate::method::wan::message::answer_frames;
use crate::method::wan::{
    self, Compute, FrameDecoder, Identity, Stages, WanMethod, arithmetic, latent_grid,
};
use crate::replica::Replica;
use crate::replica::station::lock;
use crate::replica::wire::Tensors;
use crate::sampling::LoopProgress;

pub use self::inject::{InjectConditions, InjectEngine};
pub use self::paths::{OneStoryPaths, onestory_paths};
pub use self::scorer::OneStoryScorer;
pub use self::settings::{Backend, MemorySource, OneStorySettings};

/// Makes shots by the method OneStory, on one rank or as the leader of a replica.
///
/// Every stage has its own networks and can be used by one thread at a time, so that threads with
/// different shots work side by side.
#[derive(Debug)]
pub struct OneStoryEngine {
    stages: Stages<Encoder, FrameDecoder, Loop>,
    conditioner: Mutex<Conditioner>,
    /// Where scores are likenesses, and not learned.
    labels: Option<Mutex<Labels>>,
    source: MemorySource,
}

/// What a pass is conditioned on.
#[derive(Debug)]
pub enum Conditions {
    /// The pass that scores the history has done so: one score for each latent frame, `[F]`.
    Scores(HostTensor),
    /// The shot is the ready-made first one of its story: its latents `[C, T, h, w]`.
    ReadyMade(HostTensor),
    /// What the transformer sees.
    Shot(Box<ShotConditions>),
}

impl OneStoryEngine {
    /// Loads what this rank needs to lead `replica`; the other ranks of it call [`serve`].
    ///
    /// # Errors
    /// A network cannot be loaded, or it does not fit the others.
    pub fn open(
        paths: &OneStoryPaths,
        settings: &OneStorySettings,
        replica: Replica,
    ) -> Result<Self> {
        let method = OneStory { paths, settings };
        let stages = Stages::open(&method, replica)?;
        let conditioner = Conditioner::open(paths, settings, method.grid()?)?;
        let labels = match settings.selector {
            Selector::Clip => Some(Labels::open(
                paths,
                settings.floats(),
                method.grid()?.frames,
            )?),
            _ => None,
        };
        Ok(Self {
            conditioner: Mutex::new(conditioner),
            labels: labels.map(Mutex::new),
            source: settings.source,
            stages,
        })
    }

    /// The passes of every shot.
    pub fn passes() -> Vec<PassName> {
        vec![SELECT, PassName::SHOT]
    }

    /// What this engine is.
    pub fn identity(&self) -> &Identity {
        self.stages.identity()
    }

    /// Fails if files of weights are not any more what they were when they were loaded.
    ///
    /// # Errors
    /// As [`LoadedFiles::check`].
    pub fn check_weights(&self) -> Result<()> {
        self.stages.check_weights()
    }

    /// Shots that each stage can work on at once.
    pub fn capacities(&self) -> Capacities {
        self.stages.capacities()
    }

    /// As [`Stages::assist`](wan::Stages::assist).
    ///
    /// # Errors
    /// A rank is gone or late.
    pub fn assist(&self) -> Result<bool> {
        self.stages.assist()
    }

    /// Stage `encode` of the pass [`SELECT`]: the history is scored by the caption. What the shot sees
    /// follows from the scores in the next pass, also where they were computed by other ranks.
    ///
    /// # Errors
    /// A caption says nothing, the memory is not what a shot of this story can see, or libtorch or a rank
    /// fails; so it is for all stages.
    pub fn select(&self, inputs: &ShotInputs) -> Result<Conditions> {
        Ok(Conditions::Scores(self.scores(inputs)?))
    }

    /// One score for each latent frame of the history of a shot, `[F]` in f32; `[1]` with a 0 where there is
    /// none.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    pub fn scores(&self, inputs: &ShotInputs) -> Result<HostTensor> {
        if let Some(labels) = &self.labels {
            self.stages.enter();
            let chooser = lock(&self.conditioner).chooser;
            return labels::scores(labels, &chooser, inputs);
        }
        condition::scores(&self.conditioner, inputs, || {
            self.stages.encode(&TextRequest(&inputs.request.prompt))
        })
    }

    /// Stage `encode` of the pass that makes the shot: prompt, first image and the frames that follow from
    /// the `scores` of the pass before. The places in the memory of the shots that are seen come with it. A
    /// ready-made first shot has no conditions but itself.
    ///
    /// # Errors
    /// The scores are not those of this history, and as for all stages.
    pub fn encode(
        &self,
        inputs: &ShotInputs,
        scores: &HostTensor,
    ) -> Result<(Vec<usize>, Conditions)> {
        encode::check_caption(&inputs.request)?;
        let history = select::history(inputs)?;
        let chooser = lock(&self.conditioner).chooser;
        if let Some(latents) = chooser.ready_made(inputs, &history)? {
            let choice = chooser.choice(inputs, &history, scores)?;
            return Ok((choice.places(), Conditions::ReadyMade(latents)));
        }
        let beginning = self.stages.encode(&BeginningRequest {
            request: &inputs.request,
            first_image: select::first_image(inputs, &history)?,
        })?;
        let conditioner = lock(&self.conditioner);
        let choice = conditioner.chooser.choice(inputs, &history, scores)?;
        let conditions = ShotConditions {
            beginning,
            context: conditioner.context(inputs, &history, &choice)?,
        };
        Ok((choice.places(), Conditions::Shot(Box::new(conditions))))
    }

    /// Stage `denoise`: the scores or a ready-made shot as they are, or noise to normalised latents `[C, T, h, w]`.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`](storyloom_nn::ModelError::Interrupted) where `observer` returns `false`, and as for all stages.
    pub fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&LoopProgress) -> bool,
    ) -> Result<HostTensor> {
        match conditions {
            Conditions::Scores(made) | Conditions::ReadyMade(made) => Ok(made.clone()),
            Conditions::Shot(conditions) => self.stages.denoise(|networks, team| {
                let (plan, ranks) = (&self.stages.plans, (networks, team));
                plan.denoise(ranks, inputs, conditions, resume, observer)
            }),
        }
    }

    /// Stage `decode` of the pass [`SELECT`]: a picture of the history, in which what the shot sees is bright.
    ///
    /// # Errors
    /// The scores are not those of this history.
    pub fn draw(&self, inputs: &ShotInputs, scores: &HostTensor) -> Result<Clip> {
        let history = select::history(inputs)?;
        let chooser = lock(&self.conditioner).chooser;
        select::draw_clip(&history, &chooser.choice(inputs, &history, scores)?)
    }

    /// Stage `decode` of the pass that makes the shot: latents `[C, T, h, w]` to frames.
    ///
    /// # Errors
    /// As for all stages.
    pub fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip> {
        self.stages.decode(&inputs.request, latents)
    }

    /// What is kept of a shot: its latents `[C, T, h, w]` as they were sampled, or those of its frames.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_shot(
        &self,
        latents: &HostTensor,
        clip: &Clip,
        size: Resolution,
    ) -> Result<HostTensor> {
        match self.source {
            MemorySource::Latent => Ok(latents.clone()),
            MemorySource::Reencode => self.remember_clip(clip, size),
        }
    }

    /// What is kept of a shot beside its latents, from its decoded frames: what `selector = "clip"` compares, by name;
    /// nothing with other selectors.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_features(&self, clip: &Clip) -> Result<BTreeMap<String, HostTensor>> {
        let Some(labels) = &self.labels else {
            return Ok(BTreeMap::new());
        };
        self.stages.enter();
        lock(labels).features(clip)
    }

    /// What is kept of a ready-made first shot: the normalised latents `[C, T, h, w]` of its frames at the story's size.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_clip(&self, clip: &Clip, size: Resolution) -> Result<HostTensor> {
        let frames: Vec<&RgbImage> = clip.frames().iter().collect();
        self.stages.remember(&frames, size)
    }

    /// What is kept of a reference image: one normalised latent frame `[C, 1, h, w]` at the story's size.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_picture(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        self.stages.remember(&[picture], size)
    }
}

/// Does what the leader of `replica` asks until it is done, on a rank that is not the leader.
///
/// # Errors
/// A network cannot be loaded, or the world fell apart.
pub fn serve(paths: &OneStoryPaths, settings: &OneStorySettings, replica: Replica) -> Result<()> {
    wan::serve(&OneStory { paths, settings }, replica)
}

/// What its stages are made of.
struct OneStory<'a> {
    paths: &'a OneStoryPaths,
    settings: &'a OneStorySettings,
}

impl OneStory<'_> {
    fn grid(&self) -> Result<LatentGrid> {
        latent_grid(&self.paths.pipeline)
    }
}

impl WanMethod for OneStory<'_> {
    type Encoder = Encoder;
    type Decoder = FrameDecoder;
    type Plans = Loop;

    fn compute(&self) -> &Compute {
        &self.settings.compute
    }

    fn pipeline(&self) -> &Path {
        &self.paths.pipeline
    }

    fn identity(&self, replica: &Replica) -> Result<(Identity, LoadedFiles)> {
        let lora = paths::lora(self.paths, self.settings.lora)?;
        let loaded = paths::loaded(self.paths, self.settings, lora.as_ref())?;
        let digests = loaded.digests();
        let identity = Identity {
            fingerprint: fingerprint::fingerprint(self.settings, &digests, lora.as_ref()),
            arithmetic: arithmetic(self.compute(), replica),
            digests,
            quality_score: "none",
        };
        Ok((identity, loaded))
    }

    fn encoder(&self) -> Result<Encoder> {
        Encoder::open(self.paths, self.settings, self.grid()?)
    }

    fn decoder(&self, rows: Peers) -> Result<FrameDecoder> {
        FrameDecoder::open(self.pipeline(), self.settings.compute.target.device, rows)
    }

    fn networks(&self, shard: &Shard) -> Result<(Networks, Loop)> {
        Loop::open(self.paths, self.settings, self.grid()?, shard)
    }

    fn answer_encode(
        encoder: &mut Encoder,
        message: Value,
        tensors: Tensors,
    ) -> Result<(Value, Tensors)> {
        message::encode(encoder, message, tensors)
    }

    fn answer_decode(
        decoder: &FrameDecoder,
        message: Value,
        tensors: Tensors,
    ) -> Result<(Value, Tensors)> {
        answer_frames(decoder, message, tensors)
    }
}
