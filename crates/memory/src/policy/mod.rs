//! What is kept of a shot, and what a later shot sees of it: pure functions of each method.
//!
//! A run asks the [`MemoryPolicy`] of its method, and its proof asks the same one again.

pub mod storymem;

use std::fmt::Debug;

use storyloom_story::Opening;

use self::storymem::select::Selection;

/// How a method remembers. It reads nothing and knows no file.
pub trait MemoryPolicy: Debug + Send + Sync {
    /// What a shot that begins so sees of a bank of `stored` pictures.
    fn visible(&self, opening: Opening, stored: usize) -> Visible;

    /// Which frames of a shot are kept, by unit-length embeddings and quality scores of all its frames.
    fn keep(&self, embeddings: &[Vec<f32>], quality: &[f32]) -> Selection;

    /// Whether a kept picture is new to the bank, by their embeddings.
    fn admits(&self, embedding: &[f32], stored: &[Vec<f32>]) -> bool;
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
}
