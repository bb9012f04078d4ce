//! How shots are made by StoryMem.

use std::time::Duration;

use storyloom_models::sampler::SamplerSettings;
use storyloom_models::vision::clip::SelectionResize;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::lora::LoraSettings;
use storyloom_nn::shard::Peers;

use crate::replica::Replica;

/// How shots are sampled.
#[derive(Debug, Clone)]
pub struct StoryMemSettings {
    /// Kind and device of the transformers and the text encoder.
    pub target: Target,
    /// Sampling of first shots.
    pub text_to_video: DenoiseSettings,
    /// Sampling of all other shots.
    pub image_to_video: DenoiseSettings,
    /// How the adapters are applied.
    pub lora: LoraSettings,
    /// Distance of memory pictures on the temporal axis.
    pub memory_stride: i64,
    /// Whose resize comes before the vision tower that tells keyframes apart.
    pub selection_resize: SelectionResize,
    /// The negative prompt; `None` takes that of the original Wan code.
    pub negative_prompt: Option<String>,
    /// Threads of libtorch; `None` leaves that to it.
    pub threads: Option<i32>,
    /// Whether the ranks of a denoiser also share the rows of pictures that are decoded.
    pub share_decode: bool,
    /// Whether replicas without a story help others.
    pub widen: bool,
    /// How long ranks wait for each other in collectives and offers.
    pub collective_timeout: Duration,
}

/// Sampler and guidance of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenoiseSettings {
    /// Solver and grid.
    pub sampler: SamplerSettings,
    /// The lowest noise level of the high-noise expert; `None`: it samples alone.
    pub boundary: Option<f64>,
    /// Guidance scale of the high-noise expert; 1 skips the negative prompt.
    pub guidance_high: f64,
    /// Guidance scale of the low-noise expert.
    pub guidance_low: f64,
}

impl StoryMemSettings {
    pub(super) fn set_threads(&self) {
        set_threads(self.threads);
    }

    /// The ranks that decode together: those of the denoiser, if they shall.
    pub(super) fn rows(&self, replica: &Replica) -> Peers {
        let is_shared = self.share_decode && replica.layout.plan.decoders == 0;
        Peers::new(is_shared.then(|| replica.denoiser.clone()).flatten())
    }
}

/// libtorch keeps the number of threads per thread.
pub(super) fn set_threads(threads: Option<i32>) {
    if let Some(threads) = threads {
        tch::set_num_threads(threads);
    }
}
