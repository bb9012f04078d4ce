//! The memory of OneStory (arXiv 2512.07802, section 4.2): every earlier shot is kept, and a network chooses
//! what the next one sees.
//!
//! The network says how relevant each latent frame of the history is. Its scores are what the pass
//! [`SELECT`] makes, so they are committed with the shot; all that follows from them is derived here, for a
//! run, its proof and its report alike.

use serde::{Deserialize, Serialize};
use storyloom_story::onestory::{Budget, Choice, ChoiceError, History, Plane, Selector};
use storyloom_story::{HostTensor, Opening};

use super::{Keep, MemoryPolicy, Stored, Visible};

pub use storyloom_story::onestory::SELECT;

/// All that was made, of which a network chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneStoryPolicy {
    /// Most items that a shot sees: one for each latent frame at most.
    pub at_most: usize,
    /// How many tokens of history a shot sees. Not written where it is that of earlier builds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub budget: Budget,
    /// What scores the history. Not written where it is the network.
    #[serde(default, skip_serializing_if = "is_default")]
    pub selector: Selector,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for OneStoryPolicy {
    fn default() -> Self {
        Self::new(Budget::default(), Selector::default())
    }
}

impl OneStoryPolicy {
    /// A policy with this budget.
    pub fn new(budget: Budget, selector: Selector) -> Self {
        Self {
            at_most: budget.at_most(),
            budget,
            selector,
        }
    }

    /// What a shot sees of `history`, by the scores that its pass [`SELECT`] has stored; `plane` is a latent
    /// frame.
    ///
    /// # Errors
    /// The scores are not those of this history, or of another selector where they follow from the history
    /// alone, or the budget does not hold what it is to hold.
    pub fn choose(
        &self,
        scores: &HostTensor,
        history: &History,
        plane: Plane,
    ) -> Result<Choice, ChoiceError> {
        let choice = history.choose(scores, self.budget, plane)?;
        let derived = self
            .selector
            .scores(history.frames(), self.budget.counts(plane)?);
        let pairs = derived.iter().flatten().zip(scores.data());
        match pairs
            .enumerate()
            .find(|(_, (derived, stored))| derived != stored)
        {
            Some((frame, (&derived, &stored))) => Err(ChoiceError::NotOfSelector {
                frame,
                stored,
                derived,
            }),
            None => Ok(choice),
        }
    }
}

impl MemoryPolicy for OneStoryPolicy {
    /// The first shot has nothing to choose from, and may be what the story begins with.
    fn visible(&self, _opening: Opening, stored: Stored) -> Visible {
        let begins = match stored.items == stored.references {
            true => stored.references,
            false => 0,
        };
        Visible::ChosenByNetwork {
            at_most: self.at_most.max(begins),
        }
    }

    /// Their likeness to those shots is half of the score of likeness.
    fn wants_characters(&self) -> bool {
        self.selector == Selector::Clip
    }

    fn keep(&self, _embeddings: &[Vec<f32>], _quality: &[f32]) -> Keep {
        Keep::Shot { shown: None }
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::onestory::{Counts, Kernel, scores_table};

    use super::*;

    /// What runs of earlier builds noted is read, and a run with the same settings notes the same.
    #[test]
    fn settings_of_earlier_builds_are_written_as_they_were() {
        let plain = r#"{"at_most":8}"#;
        let read: OneStoryPolicy = serde_json::from_str(plain).unwrap();
        assert_eq!(read, OneStoryPolicy::default());
        assert_eq!(serde_json::to_string(&read).unwrap(), plain);
        let counts = Some(Counts([0, 4, 0, 0]));
        let other = OneStoryPolicy::new(Budget { units: 2, counts }, Selector::Recent);
        let text = serde_json::to_string(&other).unwrap();
        let wanted = r#"{"at_most":4,"budget":{"units":2,"counts":[0,4,0,0]},"selector":"recent"}"#;
        assert_eq!(text, wanted);
        assert_eq!(
            serde_json::from_str::<OneStoryPolicy>(&text).unwrap(),
            other
        );
    }

    fn history() -> History {
        History {
            references: 1,
            first_shot: None,
            shots: vec![5, 5],
        }
    }

    #[test]
    fn the_budget_decides_how_many_frames_are_seen() {
        let scores: Vec<f32> = (0..10).map(|frame| (frame % 5) as f32).collect();
        let table = scores_table(scores);
        for (units, frames) in [(0, 0), (1, 6), (2, 7), (3, 8)] {
            let budget = Budget {
                units,
                counts: None,
            };
            let policy = OneStoryPolicy::new(budget, Selector::Learned);
            let choice = policy.choose(&table, &history(), [8, 12]).unwrap();
            assert_eq!(choice.frames.len(), frames);
            let visible = Visible::ChosenByNetwork {
                at_most: budget.at_most(),
            };
            let stored = Stored {
                items: 3,
                references: 1,
            };
            assert_eq!(policy.visible(Opening::Memory, stored), visible);
            let finest = choice.frames.iter().map(|seen| seen.kernel).min();
            assert_eq!(finest == Some(Kernel::P2), units > 1);
        }
    }

    #[test]
    fn a_first_shot_may_be_what_its_story_begins_with() {
        let budget = Budget {
            units: 0,
            counts: None,
        };
        let policy = OneStoryPolicy::new(budget, Selector::Learned);
        let at_most = |items| {
            let stored = Stored {
                items,
                references: 1,
            };
            policy.visible(Opening::Memory, stored)
        };
        assert_eq!(at_most(1), Visible::ChosenByNetwork { at_most: 1 });
        assert_eq!(at_most(2), Visible::ChosenByNetwork { at_most: 0 });
    }

    #[test]
    fn scores_that_another_selector_made_are_refused() {
        let policy = OneStoryPolicy::new(Budget::default(), Selector::Recent);
        let plane = [8, 12];
        let mut scores = storyloom_story::onestory::recent_scores(10);
        let choice = policy.choose(&scores_table(scores.clone()), &history(), plane);
        assert_eq!(choice.unwrap().places(), [1, 2]);
        scores[3] = 0.75;
        let error = policy.choose(&scores_table(scores), &history(), plane);
        let said = error.unwrap_err().to_string();
        assert!(said.contains("frame 3") && said.contains("0.75"), "{said}");
        let none = History::default();
        let empty = policy.choose(&scores_table(Vec::new()), &none, plane);
        assert!(empty.unwrap().frames.is_empty());
    }
}
