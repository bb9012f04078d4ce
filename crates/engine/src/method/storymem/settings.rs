//! How shots are made by StoryMem.

use storyloom_models::sampler::SamplerSettings;
use storyloom_models::vision::clip::SelectionResize;
use storyloom_nn::lora::LoraSettings;

use crate::method::wan::Compute;

/// How shots are sampled.
#[derive(Debug, Clone)]
pub struct StoryMemSettings {
    /// Where the networks run.
    pub compute: Compute,
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
