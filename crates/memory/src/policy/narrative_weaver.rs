//! The memory of Narrative Weaver: the condition image, and the latents of the newest pictures.

use serde::{Deserialize, Serialize};
use storyloom_story::{Opening, PassName};

use super::{Keep, MemoryPolicy, Stored, Visible};

/// The reference images and the newest pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NarrativeWeaverPolicy {
    /// How many of the newest pictures a shot sees.
    pub window: usize,
}

impl Default for NarrativeWeaverPolicy {
    fn default() -> Self {
        Self { window: 4 }
    }
}

impl MemoryPolicy for NarrativeWeaverPolicy {
    fn visible(&self, _opening: Opening, stored: Stored) -> Visible {
        Visible::Items(stored.newest(self.window))
    }

    fn keep(&self, _embeddings: &[Vec<f32>], _quality: &[f32]) -> Keep {
        Keep::Shot {
            shown: Some(PassName::SHOT),
        }
    }
}
