//! The memory of StoryMem (specification, section 3): keyframes are chosen by likeness and quality, and a
//! shot sees the oldest and the newest of them.

pub mod select;
pub mod window;

use serde::{Deserialize, Serialize};
use storyloom_story::Opening;

use self::select::{SelectionSettings, select};
use self::window::{WindowSettings, is_admitted, window};
use super::{Keep, MemoryPolicy, Stored, Visible};

/// A bank of keyframes with a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryMemPolicy {
    /// What a shot sees of the bank.
    pub window: WindowSettings,
    /// How keyframes are chosen.
    pub selection: SelectionSettings,
}

impl MemoryPolicy for StoryMemPolicy {
    fn visible(&self, opening: Opening, stored: Stored) -> Visible {
        Visible::Items(match opening {
            Opening::Text => Vec::new(),
            Opening::Memory | Opening::LastFrame | Opening::Motion => {
                window(stored.items, self.window)
            }
        })
    }

    fn wants_scores(&self) -> bool {
        true
    }

    fn keep(&self, embeddings: &[Vec<f32>], quality: &[f32]) -> Keep {
        Keep::Frames(select(embeddings, quality, &self.selection))
    }

    /// The whole bank counts, also what the window no longer shows.
    fn admits(&self, embedding: &[f32], stored: &[Vec<f32>]) -> bool {
        is_admitted(embedding, stored.iter().map(Vec::as_slice))
    }
}
