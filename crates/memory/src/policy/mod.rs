//! What is kept of a shot, and what a later shot sees of it: pure functions of each method.
//!
//! A run asks the [`MemoryPolicy`] of its method, and its proof asks the same one again.

pub mod moviedreamer;
pub mod narrative_weaver;
pub mod onestory;
pub mod storymem;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use storyloom_story::{Method, Opening, PassName};

use self::moviedreamer::MovieDreamerPolicy;
use self::narrative_weaver::NarrativeWeaverPolicy;
use self::onestory::OneStoryPolicy;
use self::storymem::StoryMemPolicy;
use self::storymem::select::Selection;

/// How a method remembers. It reads nothing and knows no file.
pub trait MemoryPolicy: Debug + Send + Sync {
    /// What a shot that begins so sees of what is stored.
    fn visible(&self, opening: Opening, stored: Stored) -> Visible;

    /// Whether [`keep`](Self::keep) looks at embeddings and quality scores. Without, nobody computes them.
    fn wants_scores(&self) -> bool {
        false
    }

    /// Whether a shot is to know in which earlier shots its characters are.
    fn wants_characters(&self) -> bool {
        false
    }

    /// What is kept of a shot, by unit-length embeddings and quality scores of all its frames; both are
    /// empty where it [wants none](Self::wants_scores).
    fn keep(&self, embeddings: &[Vec<f32>], quality: &[f32]) -> Keep;

    /// Whether a kept picture is new to the bank, by their embeddings.
    fn admits(&self, _embedding: &[f32], _stored: &[Vec<f32>]) -> bool {
        true
    }
}

/// What the memory of a story holds before a shot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Items in all, oldest first; the reference images are the first of them.
    pub items: usize,
    /// Reference images among them.
    pub references: usize,
}

impl Stored {
    /// Positions of the reference images and of the newest `window` items after them.
    pub fn newest(self, window: usize) -> Vec<usize> {
        let first = self.items.saturating_sub(window).max(self.references);
        (0..self.references).chain(first..self.items).collect()
    }
}

/// What is kept of a shot.
#[derive(Debug, Clone, PartialEq)]
pub enum Keep {
    /// Some of its frames, each as a picture.
    Frames(Selection),
    /// The shot as one item: what its networks say of it.
    Shot {
        /// The sampling loop whose first frame is the item's picture; `None` for an item without one.
        shown: Option<PassName>,
    },
}

/// The policy of a method with its settings. A run notes it, and its proof derives the same again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum PolicySettings {
    /// A bank of keyframes with a window.
    #[serde(rename = "storymem")]
    StoryMem(StoryMemPolicy),
    /// All that was made, of which a network chooses.
    #[serde(rename = "onestory")]
    OneStory(OneStoryPolicy),
    /// The newest pictures.
    NarrativeWeaver(NarrativeWeaverPolicy),
    /// The newest tokens and keyframes.
    #[serde(rename = "moviedreamer")]
    MovieDreamer(MovieDreamerPolicy),
}

/// What a config says of the memory of each method. Methods that are not here remember as their papers have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemorySettings {
    /// StoryMem's.
    pub storymem: StoryMemPolicy,
    /// OneStory's.
    pub onestory: OneStoryPolicy,
}

impl PolicySettings {
    /// The settings of a method.
    pub fn new(method: Method, settings: &MemorySettings) -> Self {
        match method {
            Method::StoryMem => Self::StoryMem(settings.storymem),
            Method::OneStory => Self::OneStory(settings.onestory),
            Method::NarrativeWeaver => Self::NarrativeWeaver(NarrativeWeaverPolicy::default()),
            Method::MovieDreamer => Self::MovieDreamer(MovieDreamerPolicy::default()),
        }
    }

    /// The policy that they are of.
    pub fn policy(&self) -> &dyn MemoryPolicy {
        match self {
            Self::StoryMem(policy) => policy,
            Self::OneStory(policy) => policy,
            Self::NarrativeWeaver(policy) => policy,
            Self::MovieDreamer(policy) => policy,
        }
    }
}

/// What a shot sees of its story's bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// The pictures at these positions, oldest first.
    Items(Vec<usize>),
    /// What a network of the method chooses of the whole bank, in its order.
    ChosenByNetwork {
        /// Most pictures that it may choose.
        at_most: usize,
    },
}

impl Visible {
    /// Positions of the pictures that the method must be given, of a bank of `stored`.
    pub fn given(self, stored: usize) -> Vec<usize> {
        match self {
            Self::Items(positions) => positions,
            Self::ChosenByNetwork { .. } => (0..stored).collect(),
        }
    }

    /// Whether `seen` is what a shot saw of `bank`. What a network has chosen cannot be derived again: it
    /// must be of the bank, in its order and not more than allowed.
    pub fn allows<T: PartialEq>(&self, seen: &[T], bank: &[T]) -> bool {
        match self {
            Self::Items(positions) => {
                let mut pictures = positions.iter().map(|&position| bank.get(position));
                seen.len() == positions.len()
                    && seen.iter().all(|seen| pictures.next() == Some(Some(seen)))
            }
            Self::ChosenByNetwork { at_most } => {
                let mut rest = bank.iter();
                seen.len() <= *at_most && seen.iter().all(|seen| rest.any(|kept| kept == seen))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::storymem::select::{SelectionRule, SelectionSettings};
    use crate::policy::storymem::window::WindowSettings;

    #[test]
    fn what_was_seen_is_what_the_policy_shows() {
        let items = Visible::Items(vec![0, 2]);
        let allows = |visible: &Visible, seen: &[char]| visible.allows(seen, &['a', 'b', 'c']);
        assert!(allows(&items, &['a', 'c']));
        for wrong in [&['a'][..], &['a', 'b'], &['c', 'a'], &['a', 'c', 'c'], &[]] {
            assert!(!allows(&items, wrong), "{wrong:?}");
        }
        assert!(
            !allows(&Visible::Items(vec![3]), &['a']),
            "there is no such picture"
        );
        let chosen = Visible::ChosenByNetwork { at_most: 2 };
        for right in [&['a', 'c'][..], &['b'], &[]] {
            assert!(allows(&chosen, right), "{right:?}");
        }
        for wrong in [&['a', 'b', 'c'][..], &['c', 'a'], &['d'], &['a', 'a']] {
            assert!(!allows(&chosen, wrong), "{wrong:?}");
        }
        assert_eq!(items.given(3), [0, 2]);
        assert_eq!(chosen.given(3), [0, 1, 2]);
    }

    fn settings(method: Method) -> PolicySettings {
        let storymem = StoryMemPolicy {
            window: WindowSettings {
                max_images: 3,
                sink: 1,
            },
            selection: SelectionSettings {
                rule: SelectionRule::Semantic,
                max_keyframes: 3,
                similarity_start: 0.9,
                quality_threshold: 3.0,
            },
        };
        let onestory = OneStoryPolicy::default();
        PolicySettings::new(method, &MemorySettings { storymem, onestory })
    }

    fn seen(method: Method, opening: Opening, items: usize) -> Visible {
        let stored = Stored {
            items,
            references: 2,
        };
        settings(method).policy().visible(opening, stored)
    }

    #[test]
    fn each_method_sees_what_its_paper_says() {
        let memory = |method, items| seen(method, Opening::Memory, items);
        assert_eq!(memory(Method::StoryMem, 8), Visible::Items(vec![0, 6, 7]));
        assert_eq!(
            memory(Method::OneStory, 8),
            Visible::ChosenByNetwork { at_most: 8 }
        );
        // Two reference images, and the four newest pictures.
        assert_eq!(
            memory(Method::NarrativeWeaver, 8),
            Visible::Items(vec![0, 1, 4, 5, 6, 7])
        );
        assert_eq!(
            memory(Method::NarrativeWeaver, 3),
            Visible::Items(vec![0, 1, 2])
        );
        let movie = memory(Method::MovieDreamer, 200).given(200);
        assert_eq!(movie.len(), 2 + 128);
        assert_eq!((movie[1], movie[2]), (1, 72));
        assert_eq!(
            seen(Method::StoryMem, Opening::Text, 8),
            Visible::Items(Vec::new())
        );
    }

    #[test]
    fn only_storymem_looks_at_scores() {
        for method in Method::KNOWN {
            let settings = settings(method);
            let policy = settings.policy();
            assert_eq!(policy.wants_scores(), method == Method::StoryMem);
            let (embeddings, quality) = (vec![vec![1.0_f32]; 2], [5.0_f32; 2]);
            let keep = match policy.wants_scores() {
                true => policy.keep(&embeddings, &quality),
                false => policy.keep(&[], &[]),
            };
            let is_of_frames = matches!(keep, Keep::Frames(_));
            assert_eq!(is_of_frames, method == Method::StoryMem);
        }
    }

    /// What a run notes of its methods is read by every later start.
    #[test]
    fn noted_settings_come_back() {
        for method in Method::KNOWN {
            let settings = settings(method);
            let text = serde_json::to_string(&settings).unwrap();
            assert!(text.contains(&format!("\"method\":\"{method}\"")), "{text}");
            let read: PolicySettings = serde_json::from_str(&text).unwrap();
            assert_eq!(read, settings);
            let more = text.replacen('{', "{\"more\":1,", 1);
            assert!(serde_json::from_str::<PolicySettings>(&more).is_err());
        }
    }
}
