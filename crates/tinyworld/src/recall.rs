//! What a shot has to remember, and where it was seen.

use super::attribute::{Attribute, Owner};
use super::scene::Scene;
use super::story::{Shot, Story};

/// How many shots ago a thing was seen last if a memory of the newest shots does not hold it: neither of the two
/// shots before shows it.
pub const FAR: usize = 3;

impl Shot {
    /// Whether the caption tells `attribute`. What the shot shows of the others has to be remembered.
    pub const fn tells(&self, attribute: Attribute) -> bool {
        !attribute.is_remembered()
            || match attribute.owner() {
                Owner::Product => self.news.product,
                Owner::Character => self.news.character,
                Owner::Place => self.news.place,
                Owner::Shot => true,
            }
    }
}

impl Scene {
    /// Whether both show the very thing that `attribute` belongs to, and the attribute can be seen of it.
    pub fn shares(&self, other: &Self, attribute: Attribute) -> bool {
        let (mine, others) = (&self.subject, &other.subject);
        let is_seen = attribute.of(self).is_some();
        is_seen
            && match attribute.owner() {
                Owner::Product => mine.product() == others.product(),
                Owner::Character => mine.character() == others.character(),
                Owner::Place => self.place == other.place,
                Owner::Shot => false,
            }
    }
}

impl Story {
    /// What shot `shot`, from 0, shows although its caption only names the thing it belongs to; with how many
    /// shots ago that thing was seen last. Nothing of a shot that is not there.
    pub fn remembers(&self, shot: usize) -> impl Iterator<Item = (Attribute, usize)> + '_ {
        let told = self.shots.get(shot).into_iter();
        told.flat_map(move |told| {
            let attributes = Attribute::ALL.iter().copied();
            attributes.filter_map(move |attribute| {
                let earlier = self.shots[..shot].iter().rev();
                let mut earlier = (1..).zip(earlier);
                let is_open = !told.tells(attribute);
                let (ago, _) = earlier
                    .find(|(_, seen)| is_open && told.scene.shares(&seen.scene, attribute))?;
                Some((attribute, ago))
            })
        })
    }

    /// What [`Story::remembers`] of things that were seen last [`FAR`] shots ago or more.
    pub fn recalls(&self, shot: usize) -> impl Iterator<Item = (Attribute, usize)> + '_ {
        self.remembers(shot).filter(|&(_, ago)| ago >= FAR)
    }

    /// What shot `shot` has to remember and shot `earlier` shows.
    pub fn held(&self, shot: usize, earlier: usize) -> impl Iterator<Item = Attribute> + '_ {
        let seen = self.shots.get(earlier).filter(move |_| earlier < shot);
        let remembered = self.remembers(shot).map(|(attribute, _)| attribute);
        remembered.filter(move |&attribute| {
            seen.is_some_and(|seen| self.shots[shot].scene.shares(&seen.scene, attribute))
        })
    }

    /// The earlier shots that show the product, the character or the place that the caption of shot `shot`
    /// names without telling what it looks like; all from 0, oldest first.
    pub fn holders(&self, shot: usize) -> Vec<usize> {
        let earlier = 0..shot.min(self.shots.len());
        earlier
            .filter(|&earlier| self.held(shot, earlier).next().is_some())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outline, Pattern, Split, Subject};

    #[test]
    fn what_a_caption_only_names_was_seen_before() {
        let plain = (0..40).map(|seed| Story::draw(seed, Split::HeldOut));
        let patterns = Pattern::ALL.iter();
        let patterns = patterns.flat_map(|&pattern| {
            (0..20).map(move |seed| Outline::of(pattern).draw(seed, Split::Train))
        });
        for story in plain.chain(patterns) {
            assert!(story.holders(0).is_empty() && story.holders(99).is_empty());
            for (position, shot) in story.shots.iter().enumerate() {
                let open = Attribute::ALL.iter().filter(|attribute| {
                    attribute.of(&shot.scene).is_some() && !shot.tells(**attribute)
                });
                let remembered: Vec<Attribute> =
                    story.remembers(position).map(|(it, _)| it).collect();
                assert!(open.eq(&remembered), "{} {position}", story.id);
                let all_new = shot.news.place
                    && match shot.scene.subject {
                        Subject::Product(_) => shot.news.product,
                        Subject::Character(_) => shot.news.character,
                        Subject::Both(..) => shot.news.product && shot.news.character,
                    };
                assert_eq!(story.holders(position).is_empty(), all_new);
            }
        }
    }

    #[test]
    fn what_an_earlier_shot_holds_is_what_both_show() {
        let story = Outline::of(Pattern::Composable).draw(3, Split::HeldOut);
        let owners = |earlier| {
            let mut owners: Vec<Owner> = story.held(5, earlier).map(Attribute::owner).collect();
            owners.sort_unstable();
            owners.dedup();
            owners
        };
        let (main, inserted) = match story.shots[0].scene.subject {
            Subject::Product(_) => (Owner::Product, Owner::Character),
            _ => (Owner::Character, Owner::Product),
        };
        assert_eq!(owners(0), [main, Owner::Place]);
        assert_eq!(owners(2), [inserted]);
        for other in [1, 3, 4, 5, 6] {
            assert!(owners(other).is_empty(), "{other}");
        }
        let ago: Vec<usize> = story.remembers(5).map(|(_, ago)| ago).collect();
        assert!(ago.contains(&3) && ago.contains(&5), "{ago:?}");
    }
}
