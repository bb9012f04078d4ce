//! What is trained for how long: everything that decides the result but the seed.

use std::time::Duration;

use crate::clips::ClipSource;
use crate::latents::Length;
use crate::optimizer::AdamSettings;
use crate::shape::Shape;
use crate::stages::captions::CaptionSettings;
use crate::stages::flow::onestory::{OneStorySettings, PatchStart};
use crate::stages::flow::{Distil, FlowSettings};
use crate::stages::scorer::ScorerSettings;
use crate::stages::vae::VaeSettings;

/// Sizes, data and lengths of all stages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// Shapes of the networks.
    pub shape: Shape,
    /// Clips that are trained on.
    pub source: ClipSource,
    /// Stage `scorer`.
    pub scorer: (ScorerSettings, AdamSettings),
    /// Stage `vae`.
    pub vae: (VaeSettings, AdamSettings),
    /// Stage `captions`.
    pub captions: (CaptionSettings, AdamSettings),
    /// Stage `pictures`: text to a picture.
    pub pictures: (FlowSettings, AdamSettings),
    /// Stage `t2v`: text to video.
    pub clips: (FlowSettings, AdamSettings),
    /// Stage `memory`: pictures and text to video.
    pub memory: (FlowSettings, AdamSettings),
    /// Stage `onestory`: selected history and text to video.
    pub onestory: (OneStorySettings, AdamSettings),
    /// Rank of the adapters of stage `memory-lora`, which is as long as `memory`.
    pub rank: i64,
    /// Stages `fast-clips` and `fast-memory`: steps of training, and how few steps of sampling
    /// are left after them.
    pub fast: (u64, Distil),
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Time between checkpoints.
    pub save_every: Duration,
    /// Time between previews.
    pub preview_every: Duration,
}

impl Preset {
    /// What the LoRA form of the memory stage is trained with.
    pub fn lora(&self) -> (FlowSettings, AdamSettings) {
        let (settings, adam) = self.memory;
        let settings = FlowSettings {
            adapters: Some(self.rank),
            ..settings
        };
        (settings, adam)
    }

    /// What the fast form of a stage is trained with.
    pub fn fast(
        &self,
        (settings, adam): (FlowSettings, AdamSettings),
    ) -> (FlowSettings, AdamSettings) {
        let (steps, distil) = self.fast;
        let settings = FlowSettings {
            dropped: 0.0,
            distil: Some(distil),
            ..settings
        };
        let adam = AdamSettings {
            rate: 0.6 * adam.rate,
            steps,
            ..adam
        };
        (settings, adam)
    }

    /// What the fast form of OneStory is trained with.
    pub fn fast_onestory(&self) -> (OneStorySettings, AdamSettings) {
        let (settings, adam) = self.onestory;
        let (flow, adam) = self.fast((settings.flow, adam));
        (OneStorySettings { flow, ..settings }, adam)
    }

    /// The model that is shipped.
    pub fn tiny() -> Self {
        let adam = |rate: f64, warm_up: u64, steps: u64| AdamSettings {
            rate,
            warm_up,
            steps,
            decay: 0.01,
            clip: 1.0,
            average: 0.999,
        };
        let flow = FlowSettings {
            parts: 2,
            samples: 8,
            dropped: 0.1,
            pool: 96,
            renew_every: 2,
            shift: 1.5,
            early: 0.0,
            memory: 0,
            length: Length::Picture,
            stills: 0.0,
            distil: None,
            adapters: None,
        };
        Self {
            shape: Shape {
                vae_width: 16,
                latent: 8,
                heads: 6,
                head: 32,
                layers: 6,
                text: 128,
                text_layers: 2,
            },
            source: ClipSource {
                size: [160, 96],
                frames: 9,
            },
            scorer: (
                ScorerSettings {
                    parts: 2,
                    pairs: 32,
                },
                AdamSettings {
                    average: 0.995,
                    ..adam(1e-3, 50, 2_000)
                },
            ),
            vae: (
                VaeSettings {
                    parts: 2,
                    still: 2000,
                    still_every: 2,
                    pictures: 1,
                    crops: 1,
                    crop: [96, 80],
                    frames: 5,
                    divergence: 1e-4,
                    edges: 0.5,
                },
                AdamSettings {
                    decay: 0.0,
                    average: 0.995,
                    ..adam(2e-3, 50, 4_000)
                },
            ),
            captions: (
                CaptionSettings {
                    parts: 2,
                    captions: 128,
                },
                adam(2e-3, 50, 300),
            ),
            pictures: (flow, adam(1.5e-3, 100, 20_000)),
            clips: (
                FlowSettings {
                    samples: 6,
                    pool: 64,
                    renew_every: 16,
                    length: Length::Clip,
                    stills: 0.6,
                    ..flow
                },
                adam(5e-4, 50, 600),
            ),
            memory: (
                FlowSettings {
                    samples: 4,
                    pool: 64,
                    renew_every: 8,
                    shift: 3.0,
                    early: 0.35,
                    memory: 4,
                    length: Length::Clip,
                    stills: 0.6,
                    ..flow
                },
                adam(1.2e-3, 50, 6_000),
            ),
            onestory: (
                OneStorySettings {
                    flow: FlowSettings {
                        samples: 4,
                        pool: 96,
                        renew_every: 5,
                        shift: 3.0,
                        early: 0.35,
                        length: Length::History,
                        stills: 0.5,
                        ..flow
                    },
                    lambda: 0.1,
                    backbone: 0.6,
                    warm_up: 0.2,
                    opening: 0.15,
                    bare: 0.08,
                    inflated: 0.3,
                    patches: PatchStart::Memory,
                },
                adam(1e-3, 50, 6_000),
            ),
            rank: 16,
            fast: (
                160,
                Distil {
                    steps: 6,
                    shift: 3.0,
                    guidance: 2.0,
                    recall: 1.5,
                    substeps: 2,
                },
            ),
            log_every: 20,
            save_every: Duration::from_secs(120),
            preview_every: Duration::from_secs(300),
        }
    }

    /// The same in seconds, for tests: it learns a little.
    pub fn test() -> Self {
        let tiny = Self::tiny();
        let adam = |settings: AdamSettings, steps: u64| AdamSettings {
            warm_up: 2,
            steps,
            ..settings
        };
        let flow = |settings: FlowSettings| FlowSettings {
            samples: 2,
            pool: 2,
            renew_every: 4,
            memory: settings.memory.min(2),
            ..settings
        };
        Self {
            shape: Shape {
                vae_width: 8,
                latent: 4,
                heads: 2,
                head: 12,
                layers: 1,
                text: 32,
                text_layers: 1,
            },
            source: ClipSource {
                size: [48, 32],
                frames: 5,
            },
            scorer: (
                ScorerSettings {
                    pairs: 4,
                    ..tiny.scorer.0
                },
                adam(tiny.scorer.1, 6),
            ),
            vae: (
                VaeSettings {
                    still: 4,
                    crop: [16, 24],
                    ..tiny.vae.0
                },
                adam(tiny.vae.1, 12),
            ),
            captions: (
                CaptionSettings {
                    captions: 8,
                    ..tiny.captions.0
                },
                adam(tiny.captions.1, 6),
            ),
            pictures: (flow(tiny.pictures.0), adam(tiny.pictures.1, 12)),
            clips: (flow(tiny.clips.0), adam(tiny.clips.1, 6)),
            memory: (flow(tiny.memory.0), adam(tiny.memory.1, 6)),
            onestory: (
                OneStorySettings {
                    flow: flow(tiny.onestory.0.flow),
                    ..tiny.onestory.0
                },
                adam(tiny.onestory.1, 8),
            ),
            rank: 2,
            fast: (
                4,
                Distil {
                    substeps: 2,
                    ..tiny.fast.1
                },
            ),
            log_every: 2,
            ..tiny
        }
    }
}
