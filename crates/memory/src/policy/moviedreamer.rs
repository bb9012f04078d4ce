//! The memory of MovieDreamer (arXiv 2407.16655): tokens and keyframes of the newest shots, after the
//! reference images.

use serde::{Deserialize, Serialize};
use storyloom_story::{Opening, PassName};

use super::{Keep, MemoryPolicy, Stored, Visible};

/// The sampling loop that draws the keyframe of a shot; the next one makes the clip of it.
pub const KEYFRAME: PassName = PassName::new("keyframe");

/// The reference images and the newest shots, each by its tokens and its keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovieDreamerPolicy {
    /// How many of the newest shots a shot sees.
    pub window: usize,
}

impl Default for MovieDreamerPolicy {
    fn default() -> Self {
        Self { window: 128 }
    }
}

impl MemoryPolicy for MovieDreamerPolicy {
    fn visible(&self, _opening: Opening, stored: Stored) -> Visible {
        Visible::Items(stored.newest(self.window))
    }

    fn keep(&self, _embeddings: &[Vec<f32>], _quality: &[f32]) -> Keep {
        Keep::Shot {
            shown: Some(KEYFRAME),
        }
    }
}
