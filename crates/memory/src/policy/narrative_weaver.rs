//! The memory of Narrative Weaver: the condition image, and the latents of the newest pictures.

use serde::{Deserialize, Serialize};
use storyloom_story::narrative_weaver::BankSettings;
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
        let BankSettings { frames, .. } = BankSettings::default();
        Self {
            window: frames as usize,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The condition images are outside of the bank, and the bank holds the pictures that the arithmetic of its levels
    /// says.
    #[test]
    fn a_picture_sees_the_condition_images_and_the_levels_of_the_bank() {
        for frames in 0..6 {
            let settings = BankSettings {
                frames,
                ..BankSettings::default()
            };
            let policy = NarrativeWeaverPolicy {
                window: frames as usize,
            };
            for (references, n) in
                (0..3).flat_map(|references| (1..12).map(move |n| (references, n)))
            {
                let stored = Stored {
                    items: references + n as usize - 1,
                    references,
                };
                let pictures = settings
                    .seen(n)
                    .map(|picture| references + picture as usize - 1);
                let seen = policy.visible(Opening::Memory, stored);
                assert_eq!(
                    seen,
                    Visible::Items((0..references).chain(pictures).collect())
                );
            }
        }
        assert_eq!(NarrativeWeaverPolicy::default().window, 4);
    }
}
