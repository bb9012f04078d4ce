//! StoryMem: keyframes of earlier shots injected into the latents of Wan2.2 (arXiv 2512.19539).
//!
//! Each stage has a file. All networks are loaded once and kept.

mod decode;
mod denoise;
pub mod encode;
mod fingerprint;
mod message;
pub mod parts;
mod paths;
#[cfg(test)]
pub(super) mod replicas_test;
mod select;
mod settings;

use std::path::Path;

use serde_json::Value;
use storyloom_models::scorer;
use storyloom_nn::error::Result;
use storyloom_nn::loaded::LoadedFiles;
use storyloom_nn::shard::{Peers, Shard};
use storyloom_story::{
    Capacities, Clip, HostTensor, LatentGrid, LoopState, Resolution, RgbImage, ShotInputs,
};

use self::decode::{Decoder, DecoderParts};
use self::denoise::Loops;
use self::encode::{Conditions, Encoder, EncoderParts};
use self::message::{EncodeRequest, ScoreRequest};
use crate::backbone::Networks;
use crate::method::wan::{self, Compute, Identity, Stages, WanMethod, arithmetic, latent_grid};
use crate::replica::Replica;
use crate::replica::wire::Tensors;
use crate::sampling::LoopProgress;

pub use self::paths::{StoryMemPaths, storymem_paths};
pub use self::settings::{DenoiseSettings, StoryMemSettings};

/// Makes shots by the method StoryMem, on one rank or as the leader of a replica.
///
/// Every stage has its own networks and can be used by one thread at a time, so that threads with
/// different shots work side by side.
#[derive(Debug)]
pub struct StoryMemEngine(Stages<Encoder, Decoder, Loops>);

impl StoryMemEngine {
    /// Loads what this rank needs to lead `replica`; the other ranks of it call [`serve`].
    ///
    /// # Errors
    /// A network cannot be loaded, or it does not fit the others.
    pub fn open(
        paths: &StoryMemPaths,
        settings: &StoryMemSettings,
        replica: Replica,
    ) -> Result<Self> {
        Ok(Self(Stages::open(&StoryMem { paths, settings }, replica)?))
    }

    /// What this engine is.
    pub fn identity(&self) -> &Identity {
        self.0.identity()
    }

    /// Fails if files of weights are not any more what they were when they were loaded.
    ///
    /// # Errors
    /// As [`LoadedFiles::check`].
    pub fn check_weights(&self) -> Result<()> {
        self.0.check_weights()
    }

    /// Shots that each stage can work on at once.
    pub fn capacities(&self) -> Capacities {
        self.0.capacities()
    }

    /// Stage `encode`: prompt, memory window and the frames that the shot continues.
    ///
    /// # Errors
    /// A picture does not fit, or libtorch or a rank fails; so it is for all stages.
    pub fn encode(&self, inputs: &ShotInputs) -> Result<Conditions> {
        self.0.encode(&EncodeRequest(inputs))
    }

    /// Stage `denoise`: noise to normalised latents `[C, T, h, w]`, memory slots dropped.
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
        let loops = &self.0.plans;
        self.0.denoise(|networks, team| {
            loops.denoise((networks, team), inputs, conditions, resume, observer)
        })
    }

    /// Lets this replica, which has no story, compute for another one, until that has finished its
    /// shot. `false` if nobody needs it.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub fn assist(&self) -> Result<bool> {
        self.0.assist()
    }

    /// Stage `decode`: latents `[C, T, h, w]` of a shot, the frames it was given dropped.
    ///
    /// # Errors
    /// As for all stages.
    pub fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip> {
        self.0.decode(&inputs.request, latents)
    }

    /// First half of `select`: a unit-length embedding and a quality score for each picture.
    ///
    /// # Errors
    /// As for all stages.
    pub fn score(&self, pictures: &[&RgbImage]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        self.0.ask_decoder(&ScoreRequest(pictures))
    }

    /// A picture as one normalised latent frame `[C, 1, h, w]` at the story's size.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor> {
        self.0.remember(&[picture], size)
    }

    /// The frames of a clip as normalised latents `[C, T, h, w]` at the story's size.
    ///
    /// # Errors
    /// As for all stages.
    pub fn remember_clip(&self, clip: &Clip, size: Resolution) -> Result<HostTensor> {
        let frames: Vec<&RgbImage> = clip.frames().iter().collect();
        self.0.remember(&frames, size)
    }
}

/// Does what the leader of `replica` asks until it is done, on a rank that is not the leader.
///
/// # Errors
/// A network cannot be loaded, or the world fell apart.
pub fn serve(paths: &StoryMemPaths, settings: &StoryMemSettings, replica: Replica) -> Result<()> {
    wan::serve(&StoryMem { paths, settings }, replica)
}

/// What its stages are made of.
struct StoryMem<'a> {
    paths: &'a StoryMemPaths,
    settings: &'a StoryMemSettings,
}

impl StoryMem<'_> {
    fn grid(&self) -> Result<LatentGrid> {
        latent_grid(self.paths.shared())
    }
}

impl WanMethod for StoryMem<'_> {
    type Encoder = Encoder;
    type Decoder = Decoder;
    type Plans = Loops;

    fn compute(&self) -> &Compute {
        &self.settings.compute
    }

    fn pipeline(&self) -> &Path {
        self.paths.shared()
    }

    fn identity(&self, replica: &Replica) -> Result<(Identity, LoadedFiles)> {
        let quality_score = scorer::name(self.paths.aesthetic.as_deref());
        let adapters = paths::adapters(self.paths, self.settings)?;
        let loaded = paths::loaded(self.paths, &adapters)?;
        let digests = loaded.digests();
        let identity = Identity {
            fingerprint: fingerprint::fingerprint(
                self.settings,
                &digests,
                &adapters,
                quality_score,
            ),
            arithmetic: arithmetic(self.compute(), replica),
            digests,
            quality_score,
        };
        Ok((identity, loaded))
    }

    fn encoder(&self) -> Result<Encoder> {
        Encoder::open(&EncoderParts {
            pipeline: self.paths.shared(),
            takes_pictures: self.paths.image_to_video.is_some(),
            negative_prompt: self.settings.negative_prompt.as_deref(),
            memory_stride: self.settings.memory_stride,
            grid: self.grid()?,
            target: self.settings.compute.target,
        })
    }

    fn decoder(&self, rows: Peers) -> Result<Decoder> {
        let parts = DecoderParts {
            pipeline: self.paths.shared(),
            clip: self.paths.clip.as_deref(),
            aesthetic: self.paths.aesthetic.as_deref(),
            resize: self.settings.selection_resize,
            device: self.settings.compute.target.device,
        };
        Decoder::open(&parts, rows)
    }

    fn networks(&self, shard: &Shard) -> Result<(Networks, Loops)> {
        Loops::open(self.paths, self.settings, self.grid()?, shard)
    }

    fn answer_encode(
        encoder: &mut Encoder,
        message: Value,
        tensors: Tensors,
    ) -> Result<(Value, Tensors)> {
        message::encode(encoder, message, tensors)
    }

    fn answer_decode(
        decoder: &Decoder,
        message: Value,
        tensors: Tensors,
    ) -> Result<(Value, Tensors)> {
        message::decode(decoder, message, tensors)
    }
}
