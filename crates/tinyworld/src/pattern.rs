//! The three patterns of OneStory's benchmark (arXiv 2512.07802, section 5.1 and appendix B): one subject throughout,
//! insertion and recall, and composition.

use serde::{Deserialize, Serialize};

use super::caption::caption;
use super::draw::Draw;
use super::scene::Subject;
use super::split::Split;
use super::story::{Cast, Known, Shot, Story, cast, fresh, id, title};
use super::things::{Light, Place};

/// Different places that a story can have.
const PLACES: usize = 6;

/// How a story goes back to what it showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// One character or product, each shot in another place.
    MainSubject,
    /// A character at home, then other things in other places, then the character at home again, then the first
    /// of the other things again.
    InsertRecall,
    /// A character and a product, apart at first with something else between, together in the end.
    Composable,
}

/// What a shot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The main thing, at home.
    Main,
    /// What is inserted, in a place of its own.
    Inserted,
    /// Something else in a third place, which only keeps the others apart.
    Between,
    /// The main thing and what was inserted, at home.
    Together,
}

impl Pattern {
    /// All of them, in a fixed order.
    pub const ALL: &'static [Self] = &[Self::MainSubject, Self::InsertRecall, Self::Composable];

    /// Its name in specifications and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MainSubject => "main_subject",
            Self::InsertRecall => "insert_recall",
            Self::Composable => "composable",
        }
    }

    /// How it is written in the ids of stories.
    const fn word(self) -> &'static str {
        match self {
            Self::MainSubject => "subject",
            Self::InsertRecall => "recall",
            Self::Composable => "composable",
        }
    }

    /// Random choices of its own: a seed does not give the same things in all patterns.
    const fn stream(self) -> u64 {
        match self {
            Self::MainSubject => 4,
            Self::InsertRecall => 5,
            Self::Composable => 6,
        }
    }

    /// The shots of a story; a longer one begins again.
    const fn round(self) -> [Part; Outline::SHOTS] {
        use Part::{Between, Inserted, Main, Together};
        match self {
            Self::MainSubject => [Main; Outline::SHOTS],
            Self::InsertRecall => [Main, Main, Inserted, Between, Main, Inserted],
            Self::Composable => [Main, Between, Inserted, Between, Between, Together],
        }
    }
}

/// A pattern and how many shots follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    pattern: Pattern,
    shots: usize,
}

impl Outline {
    /// Shots of a story that says nothing else.
    pub const SHOTS: usize = 6;

    /// Most shots of a story.
    pub const MOST_SHOTS: usize = 40;

    /// `shots` shots of `pattern`; `None` unless they are 1 to [`Outline::MOST_SHOTS`].
    pub fn new(pattern: Pattern, shots: usize) -> Option<Self> {
        (1..=Self::MOST_SHOTS)
            .contains(&shots)
            .then_some(Self { pattern, shots })
    }

    /// The pattern in [`Outline::SHOTS`] shots.
    pub const fn of(pattern: Pattern) -> Self {
        Self {
            pattern,
            shots: Self::SHOTS,
        }
    }

    /// What [`Outline::word`] writes.
    pub(super) fn named(word: &str) -> Option<Self> {
        let name = word.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let pattern = Pattern::ALL.iter().find(|pattern| pattern.word() == name)?;
        match word.strip_prefix(name)? {
            "" => Some(Self::of(*pattern)),
            shots => Self::new(*pattern, shots.parse().ok()?),
        }
    }

    /// How it is written in the ids of stories: `recall`, or `recall40` with 40 shots.
    fn word(self) -> String {
        let word = self.pattern.word();
        match self.shots {
            Self::SHOTS => word.to_owned(),
            shots => format!("{word}{shots}"),
        }
    }

    /// The story of `seed`. All its shots open with a cut. With more shots the same story goes on.
    pub fn draw(self, seed: u64, split: Split) -> Story {
        let mut draw = Draw::new(seed, self.pattern.stream());
        let leads = Leads::draw(&mut draw, self.pattern, split);
        let mut known = Known::default();
        let mut shots: Vec<Shot> = Vec::with_capacity(self.shots);
        let mut light = draw.pick(Light::ALL);
        for position in 0..self.shots {
            let (subject, place) = leads.shot(self.pattern, position);
            let before = shots.last();
            let moved = before.is_some_and(|shot| shot.scene.place != place);
            if moved {
                light = draw.pick(Light::ALL);
            }
            let part = before.map_or(1, |shot| shot.part + u32::from(moved));
            let before = before.map(|shot| &shot.scene);
            let scene = fresh(&mut draw, place, light, subject, before);
            let news = known.news(&scene);
            shots.push(Shot {
                caption: caption(&scene, news),
                news,
                cut: true,
                part,
                scene,
            });
        }
        Story {
            id: id(&format!("tiny-{}-{}-{seed}", split.name(), self.word())),
            title: title(&leads.title_words(self.pattern)),
            pattern: Some(self.pattern),
            cast: leads.cast,
            shots,
        }
    }
}

/// The things of a story.
struct Leads {
    cast: Cast,
    main: Subject,
    inserted: Subject,
    between: Subject,
    /// Home, away and others; no two of one kind, as captions only name them later.
    places: Vec<Place>,
}

impl Leads {
    fn draw(draw: &mut Draw, pattern: Pattern, split: Split) -> Self {
        let cast = cast(draw, split);
        let product = Subject::Product(cast.product);
        let character = Subject::Character(cast.character);
        let product_first = draw.chance(0.5) && pattern != Pattern::InsertRecall;
        let (main, inserted) = match product_first {
            true => (product, character),
            false => (character, product),
        };
        Self {
            main,
            inserted,
            between: between(draw, &cast, split),
            places: places(draw, &cast, split),
            cast,
        }
    }

    /// What the shot shows, and where.
    fn shot(&self, pattern: Pattern, position: usize) -> (Subject, Place) {
        let part = pattern.round()[position % Outline::SHOTS];
        let (subject, place) = match part {
            Part::Main => (self.main, 0),
            Part::Inserted => (self.inserted, 1),
            Part::Between => (self.between, 2),
            Part::Together => (Subject::Both(self.cast.character, self.cast.product), 0),
        };
        let place = match pattern {
            Pattern::MainSubject => position % PLACES,
            _ => place,
        };
        (subject, self.places[place])
    }

    fn title_words(&self, pattern: Pattern) -> String {
        let role = self.cast.character.role.word();
        let kind = self.cast.product.kind.word();
        match (pattern, &self.main) {
            (Pattern::MainSubject, Subject::Product(_)) => format!("The {kind}"),
            (Pattern::MainSubject, _) => format!("The {role}"),
            (_, Subject::Product(_)) => format!("The {kind} and the {role}"),
            _ => format!("The {role} and the {kind}"),
        }
    }
}

/// Another product or character, not of the kind of the one in the cast.
fn between(draw: &mut Draw, cast: &Cast, split: Split) -> Subject {
    let is_product = draw.chance(0.5);
    loop {
        if is_product {
            let product = split.product(draw);
            if product.kind != cast.product.kind {
                return Subject::Product(product);
            }
        } else {
            let character = split.character(draw);
            if character.role != cast.character.role {
                return Subject::Character(character);
            }
        }
    }
}

/// Home and away, and others of other kinds.
fn places(draw: &mut Draw, cast: &Cast, split: Split) -> Vec<Place> {
    let mut places = vec![cast.home, cast.away];
    while places.len() < PLACES {
        let place = split.place(draw);
        if places.iter().all(|known| known.setting != place.setting) {
            places.push(place);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use storyloom_story::StoryId;

    use super::*;
    use crate::{Owner, vocabulary};

    fn stories(shots: usize) -> impl Iterator<Item = (Pattern, Story)> {
        let seeds = (0..60).flat_map(|seed| [(seed, Split::Train), (seed, Split::HeldOut)]);
        seeds.flat_map(move |(seed, split)| {
            Pattern::ALL.iter().map(move |&pattern| {
                let outline = Outline::new(pattern, shots).unwrap();
                (pattern, outline.draw(seed, split))
            })
        })
    }

    #[test]
    fn a_story_is_its_id() {
        for (_, story) in stories(6).chain(stories(13)) {
            assert_eq!(Story::named(&story.id), Some(story));
        }
        let recall = Outline::of(Pattern::InsertRecall).draw(17, Split::HeldOut);
        assert_eq!(recall.id.as_str(), "tiny-held-out-recall-17");
        let long = Outline::new(Pattern::InsertRecall, 40).unwrap();
        let long = long.draw(17, Split::HeldOut);
        assert_eq!(long.id.as_str(), "tiny-held-out-recall40-17");
        assert_eq!(long.shots[..6], recall.shots[..]);
        for other in [
            "tiny-held-out-recall6-17",
            "tiny-held-out-recall-017",
            "tiny-held-out-recall0-17",
            "tiny-held-out-recall41-17",
            "tiny-held-out-recall040-17",
            "tiny-held-out-recollection-17",
            "tiny-recall-17",
        ] {
            assert_eq!(Story::named(&StoryId::new(other).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn nothing_of_the_held_out_part_is_trained_on() {
        for (_, story) in stories(40).filter(|(_, story)| story.id.as_str().contains("held-out")) {
            for Shot { scene, .. } in &story.shots {
                let products = scene.subject.product().into_iter();
                let characters = scene.subject.character().into_iter();
                assert!(!products.clone().any(|it| Split::Train.has_product(it)));
                assert!(!characters.clone().any(|it| Split::Train.has_character(it)));
                assert!(!Split::Train.has_place(&scene.place), "{}", story.id);
            }
        }
    }

    #[test]
    fn captions_are_short_of_known_words_and_name_one_thing_each() {
        let known: BTreeSet<String> = vocabulary().into_iter().collect();
        for (_, story) in stories(40) {
            for shot in &story.shots {
                assert!(shot.cut && shot.scene.begin == 0.0);
                assert!(shot.caption.split(' ').count() <= 40, "{}", shot.caption);
                let words = shot.caption.split([' ', ':', ',', '.']);
                for word in words.filter(|word| !word.is_empty()) {
                    assert!(known.contains(word), "{word:?} in {:?}", shot.caption);
                }
            }
            for (first, second) in story
                .shots
                .iter()
                .flat_map(|a| story.shots.iter().map(move |b| (&a.scene, &b.scene)))
            {
                let same = first.place.setting == second.place.setting;
                assert_eq!(same, first.place == second.place, "{}", story.id);
                if let Some((a, b)) = first.subject.product().zip(second.subject.product()) {
                    assert_eq!(a.kind == b.kind, a == b, "{}", story.id);
                }
                if let Some((a, b)) = first.subject.character().zip(second.subject.character()) {
                    assert_eq!(a.role == b.role, a == b, "{}", story.id);
                }
            }
        }
    }

    #[test]
    fn the_main_subject_is_in_every_shot_and_never_twice_in_one_place() {
        let mut products = 0;
        for (_, story) in stories(6).filter(|(pattern, _)| *pattern == Pattern::MainSubject) {
            let settings: BTreeSet<_> = story
                .shots
                .iter()
                .map(|shot| shot.scene.place)
                .map(|place| place.setting)
                .collect();
            assert_eq!(settings.len(), 6, "{}", story.id);
            let subject = story.shots[0].scene.subject;
            assert!(story.shots.iter().all(|shot| shot.scene.subject == subject));
            products += usize::from(subject.product().is_some());
            for shot in 1..6 {
                assert_eq!(story.holders(shot), (0..shot).collect::<Vec<_>>());
            }
        }
        assert!((30..90).contains(&products), "{products}");
    }

    #[test]
    fn what_is_recalled_is_far_away() {
        let mut between = [0, 0];
        for (pattern, story) in stories(6) {
            let far: Vec<usize> = (0..6)
                .filter(|&shot| story.recalls(shot).next().is_some())
                .collect();
            match pattern {
                Pattern::MainSubject => assert!(far.is_empty()),
                Pattern::InsertRecall => {
                    assert_eq!(far, [4, 5]);
                    assert_eq!(story.holders(4), [0, 1]);
                    assert_eq!(story.holders(5), [2]);
                    // Everything that these captions name.
                    for shot in far {
                        assert!(story.remembers(shot).eq(story.recalls(shot)));
                    }
                }
                Pattern::Composable => {
                    assert_eq!(far, [5]);
                    assert_eq!(story.holders(5), [0, 2]);
                    let owners: BTreeSet<Owner> =
                        story.recalls(5).map(|(it, _)| it.owner()).collect();
                    assert!(owners.contains(&Owner::Product) && owners.contains(&Owner::Character));
                    assert!(matches!(story.shots[5].scene.subject, Subject::Both(..)));
                    assert!(
                        story.shots[..5]
                            .iter()
                            .all(|shot| !matches!(shot.scene.subject, Subject::Both(..)))
                    );
                    let is_product = story.shots[1].scene.subject.product().is_some();
                    between[usize::from(is_product)] += 1;
                }
            }
        }
        assert!(between.iter().all(|&count| count > 30), "{between:?}");
    }
}
