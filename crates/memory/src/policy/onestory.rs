//! The memory of OneStory (arXiv 2512.07802, section 4.2): every earlier shot is kept, and a network chooses
//! what the next one sees.

use serde::{Deserialize, Serialize};
use storyloom_story::Opening;

use super::{Keep, MemoryPolicy, Stored, Visible};

/// All that was made, of which a network chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneStoryPolicy {
    /// Most items that a shot sees.
    pub at_most: usize,
}

impl Default for OneStoryPolicy {
    fn default() -> Self {
        Self { at_most: 8 }
    }
}

impl MemoryPolicy for OneStoryPolicy {
    fn visible(&self, _opening: Opening, _stored: Stored) -> Visible {
        Visible::ChosenByNetwork {
            at_most: self.at_most,
        }
    }

    fn keep(&self, _embeddings: &[Vec<f32>], _quality: &[f32]) -> Keep {
        Keep::Shot { shown: None }
    }
}
