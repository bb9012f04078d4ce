//! How shots are made by OneStory.

use storyloom_models::onestory::ScoreNorm;
use storyloom_models::sampler::SamplerSettings;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::lora::LoraSettings;
use storyloom_story::onestory::{Budget, ContextTime, Selector};

use crate::method::wan::Compute;

/// How shots are sampled, and what they see of their history.
#[derive(Debug, Clone)]
pub struct OneStorySettings {
    /// Where the networks run. Selector and patchifiers are f32 in any case.
    pub compute: Compute,
    /// Solver and grid.
    pub sampler: SamplerSettings,
    /// Guidance scale; 1 skips the negative prompt. Both predictions see the same context.
    pub guidance: f64,
    /// The negative prompt; `None` takes that of the original Wan code.
    pub negative_prompt: Option<String>,
    /// How the adapter is applied.
    pub lora: LoraSettings,
    /// How many tokens of history a shot sees.
    pub budget: Budget,
    /// What says how relevant a frame is.
    pub selector: Selector,
    /// How scores are made of queries and frames; `None`: as the checkpoint says.
    pub score_norm: Option<ScoreNorm>,
    /// Where context tokens stand in time.
    pub time: ContextTime,
    /// Whether context tokens are modulated as at timestep 0, and not as the shot.
    pub context_is_clean: bool,
    /// What is kept of a shot.
    pub source: MemorySource,
    /// Whose weights choose and condition.
    pub backend: Backend,
}

impl OneStorySettings {
    /// Where what is not the transformer runs, in f32.
    pub(super) fn floats(&self) -> Target {
        Target {
            device: self.compute.target.device,
            ..Target::CPU_F32
        }
    }
}

/// Whose weights choose frames and make something of them. All but the first stand for weights that are not
/// published, and are named in all that they make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Trained parts of OneStory.
    #[default]
    OneStory,
    /// Wan2.1 of 14 billion parameters as it is published: the whole way of the data, and a transformer that has
    /// never seen context tokens.
    Wan14bUntrained,
    /// The same with Fun-InP of 1.3 billion parameters.
    Wan13bFun,
    /// StoryMem's experts, which see the chosen frames whole.
    StoryMemInject,
}

impl Backend {
    /// The name in configs, fingerprints and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneStory => "onestory",
            Self::Wan14bUntrained => "wan14b-untrained",
            Self::Wan13bFun => "wan1.3b-fun",
            Self::StoryMemInject => "storymem-inject",
        }
    }
}

/// What is kept of a shot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemorySource {
    /// The latents as they were sampled.
    #[default]
    Latent,
    /// The latents of its decoded frames, as the paper writes it.
    Reencode,
}

impl MemorySource {
    /// The name in configs and fingerprints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latent => "latent",
            Self::Reencode => "reencode",
        }
    }
}
