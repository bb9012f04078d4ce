//! Pairs of shots that show the same thing.

use std::collections::BTreeSet;

use storyloom_tinyworld::Attribute;

use crate::folder::StoryReading;

/// Two shots that show the same thing.
pub(crate) struct Pair {
    /// How much their captions have in common.
    pub relation: f64,
    /// Each remembered attribute of what both show, and whether it looks alike.
    pub alike: Vec<(Attribute, bool)>,
}

/// All of a story, in the order of its shots.
pub(super) fn pairs(reading: &StoryReading) -> Vec<Pair> {
    let shots: Vec<_> = reading.story.shots.iter().zip(&reading.shots).collect();
    let mut pairs = Vec::new();
    for (position, (first, first_read)) in shots.iter().enumerate() {
        for (second, second_read) in &shots[position + 1..] {
            let (Some(first_read), Some(second_read)) = (first_read, second_read) else {
                continue;
            };
            let shared = Attribute::ALL.iter().filter(|attribute| {
                attribute.is_remembered() && first.scene.shares(&second.scene, **attribute)
            });
            let alike: Vec<(Attribute, bool)> = shared
                .map(|&attribute| {
                    let alike = first_read.best(attribute) == second_read.best(attribute);
                    (attribute, alike)
                })
                .collect();
            if !alike.is_empty() {
                let relation = relation(&first.caption, &second.caption);
                pairs.push(Pair { relation, alike });
            }
        }
    }
    pairs
}

/// Words that two captions share, of all their words.
fn relation(first: &str, second: &str) -> f64 {
    let set = |caption: &str| -> BTreeSet<String> {
        let words = caption.split(|letter: char| !letter.is_alphabetic());
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (first, second) = (set(first), set(second));
    let all = first.union(&second).count().max(1);
    first.intersection(&second).count() as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_related_pairs_share_most_words() {
        assert_eq!(relation("the mug stands.", "the mug stands."), 1.0);
        assert_eq!(relation("the red mug", "a lamp"), 0.0);
        assert!((relation("the mug stands", "the mug rocks") - 0.5).abs() < 1e-12);
    }
}
