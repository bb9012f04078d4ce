//! Stories of eight shots whose things keep their looks although later captions only name them.

use std::fmt::Write as _;

use storyloom_story::{Scene as ScriptScene, ShotScript, StoryEntry, StoryId, StoryScript};

use super::caption::{News, caption};
use super::draw::Draw;
use super::pattern::{Outline, Pattern};
use super::scene::{Scene, Subject};
use super::split::Split;
use super::things::{Action, Camera, Character, Framing, Light, Place, Product};

/// Shots of each scene; the last scene is back at the first place.
const SCENES: [usize; 3] = [3, 3, 2];

/// The stream of [`Draw`] that stories use.
const STREAM: u64 = 1;

/// What must look the same throughout a story.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cast {
    /// The product.
    pub product: Product,
    /// The character.
    pub character: Character,
    /// The place of the first and the last scene.
    pub home: Place,
    /// The place of the middle scene.
    pub away: Place,
}

/// One shot of a story.
#[derive(Debug, Clone, PartialEq)]
pub struct Shot {
    /// The prompt.
    pub caption: String,
    /// What the caption introduces.
    pub news: News,
    /// Whether it opens with a hard cut; otherwise it goes on where the shot before ended.
    pub cut: bool,
    /// Number of its scene, from 1.
    pub part: u32,
    /// What is to be seen.
    pub scene: Scene,
}

/// A story of the world.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// `tiny-SPLIT-SEED`, or `tiny-SPLIT-PATTERN-SEED`: enough to draw it again.
    pub id: StoryId,
    /// Title.
    pub title: String,
    /// The pattern that it follows; `None` of a story in three scenes.
    pub pattern: Option<Pattern>,
    /// What must persist.
    pub cast: Cast,
    /// The shots in order.
    pub shots: Vec<Shot>,
}

impl Story {
    /// The story of `seed`.
    ///
    /// # Panics
    ///
    /// Never: the ids it makes are valid.
    pub fn draw(seed: u64, split: Split) -> Self {
        let mut draw = Draw::new(seed, STREAM);
        let cast = cast(&mut draw, split);
        let ad = draw.chance(0.5);
        let mut known = Known::default();
        let mut shots: Vec<Shot> = Vec::with_capacity(SCENES.iter().sum());
        for (part, count) in (1..).zip(SCENES) {
            let place = if part == 2 { cast.away } else { cast.home };
            let light = draw.pick(Light::ALL);
            for position in 0..count {
                let goes_on = position > 0 && draw.chance(0.2);
                let scene = match shots.last() {
                    // A shot that goes on does so once, or its camera would drift away.
                    Some(before) if goes_on && before.cut => Scene {
                        begin: 1.0,
                        ..before.scene
                    },
                    before => {
                        let subject = subject(&mut draw, &cast, ad, shots.is_empty());
                        fresh(
                            &mut draw,
                            place,
                            light,
                            subject,
                            before.map(|shot| &shot.scene),
                        )
                    }
                };
                let news = known.news(&scene);
                shots.push(Shot {
                    caption: caption(&scene, news),
                    news,
                    cut: scene.begin == 0.0,
                    part,
                    scene,
                });
            }
        }
        Self {
            id: id(&format!("tiny-{}-{seed}", split.name())),
            title: title(&title_words(&cast, ad)),
            pattern: None,
            cast,
            shots,
        }
    }

    /// The story that an id names, or `None` if it is no id of this world.
    pub fn named(id: &StoryId) -> Option<Self> {
        let (part, seed) = id.as_str().strip_prefix("tiny-")?.rsplit_once('-')?;
        let seed = seed.parse().ok()?;
        let story = match Split::named(part) {
            Some(split) => Self::draw(seed, split),
            None => {
                let (split, outline) = part.rsplit_once('-')?;
                Outline::named(outline)?.draw(seed, Split::named(split)?)
            }
        };
        (story.id == *id).then_some(story)
    }

    /// The story as a script.
    pub fn script(&self) -> StoryScript {
        let last = self.shots.last().map_or(0, |shot| shot.part);
        let scenes = (1..=last).map(|number| ScriptScene {
            number,
            shots: self
                .shots
                .iter()
                .filter(|shot| shot.part == number)
                .map(|shot| ShotScript {
                    prompt: shot.caption.clone(),
                    first_frame_prompt: None,
                    cut: shot.cut,
                })
                .collect(),
        });
        StoryScript {
            name: Some(self.title.clone()),
            overview: None,
            scenes: scenes.collect(),
        }
    }

    /// The story as an entry of a manifest.
    pub fn entry(&self) -> StoryEntry {
        StoryEntry::new(self.id.clone(), self.script())
    }
}

pub(super) fn id(text: &str) -> StoryId {
    match StoryId::new(text) {
        Ok(id) => id,
        Err(error) => unreachable!("letters, digits and dashes are an id: {error}"),
    }
}

pub(super) fn cast(draw: &mut Draw, split: Split) -> Cast {
    let product = split.product(draw);
    let character = split.character(draw);
    let home = split.place(draw);
    let mut away = split.place(draw);
    while away.setting == home.setting {
        away = split.place(draw);
    }
    Cast {
        product,
        character,
        home,
        away,
    }
}

/// Ads are about the product, stories about the character; both open with theirs.
fn subject(draw: &mut Draw, cast: &Cast, ad: bool, first: bool) -> Subject {
    let product = Subject::Product(cast.product);
    let character = Subject::Character(cast.character);
    let both = Subject::Both(cast.character, cast.product);
    match (ad, first) {
        (true, true) => product,
        (false, true) => character,
        (true, false) => draw.weighted(&[(product, 55), (both, 25), (character, 20)]),
        (false, false) => draw.weighted(&[(character, 45), (both, 30), (product, 25)]),
    }
}

/// A shot after a cut, framed unlike the one before if it shows the same.
pub(super) fn fresh(
    draw: &mut Draw,
    place: Place,
    light: Light,
    subject: Subject,
    before: Option<&Scene>,
) -> Scene {
    loop {
        let framing = match subject {
            Subject::Both(..) => draw.pick(&[Framing::Wide, Framing::Medium]),
            _ => draw.pick(Framing::ALL),
        };
        let action = match (&subject, framing) {
            (Subject::Product(_), _) => draw.pick(Action::PRODUCT),
            (Subject::Both(..), _) => draw.pick(Action::BOTH),
            // Feet are not in the picture.
            (Subject::Character(_), Framing::Close) => draw.pick(&[Action::Stand, Action::Wave]),
            (Subject::Character(_), _) => draw.pick(Action::CHARACTER),
        };
        let scene = Scene {
            place,
            light,
            framing,
            camera: draw.pick(Camera::ALL),
            subject,
            action,
            begin: 0.0,
            offset: draw.range(-16.0, 16.0),
            backdrop: draw.range(-14.0, 14.0),
            size: draw.range(0.95, 1.05),
        };
        let same_view = before.is_some_and(|before| {
            before.place == place && before.subject == subject && before.framing == framing
        });
        if !same_view {
            return scene;
        }
    }
}

/// What earlier captions introduced.
#[derive(Default)]
pub(super) struct Known {
    products: Vec<Product>,
    characters: Vec<Character>,
    places: Vec<Place>,
}

impl Known {
    pub(super) fn news(&mut self, scene: &Scene) -> News {
        News {
            product: is_new(&mut self.products, scene.subject.product()),
            character: is_new(&mut self.characters, scene.subject.character()),
            place: is_new(&mut self.places, Some(&scene.place)),
        }
    }
}

/// Whether something is there and was not before; from now on it is known.
fn is_new<T: PartialEq + Copy>(known: &mut Vec<T>, seen: Option<&T>) -> bool {
    match seen {
        Some(thing) if !known.contains(thing) => {
            known.push(*thing);
            true
        }
        _ => false,
    }
}

fn title_words(cast: &Cast, ad: bool) -> String {
    if ad {
        format!(
            "The {} {}",
            cast.product.body.word(),
            cast.product.kind.word()
        )
    } else {
        let role = cast.character.role.word();
        format!("The {role} and the {}", cast.product.kind.word())
    }
}

/// `words` as a title: all but small ones begin with a capital.
pub(super) fn title(words: &str) -> String {
    let mut title = String::with_capacity(words.len());
    for (position, word) in words.split(' ').enumerate() {
        let small = position > 0 && matches!(word, "and" | "the");
        let (first, rest) = word.split_at(1);
        let first = if small {
            first.to_owned()
        } else {
            first.to_uppercase()
        };
        let space = if position > 0 { " " } else { "" };
        // Writing to a text cannot fail.
        let _ = write!(title, "{space}{first}{rest}");
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attribute;

    #[test]
    fn a_story_is_its_id() {
        for (seed, split) in [
            (0, Split::Train),
            (7, Split::HeldOut),
            (u64::MAX, Split::HeldOut),
        ] {
            let story = Story::draw(seed, split);
            assert_eq!(Story::named(&story.id), Some(story));
        }
        for other in [
            "tiny-train-",
            "tiny-held-out-07",
            "tiny-else-3",
            "lighthouse-keeper",
        ] {
            assert_eq!(Story::named(&StoryId::new(other).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_seed_gives_what_it_always_gave() {
        let mut drawn = String::new();
        for seed in 0..40 {
            for split in [Split::Train, Split::HeldOut] {
                let story = Story::draw(seed, split);
                let _ = write!(drawn, "{} {} ", story.id, story.title);
                for shot in story.shots {
                    let scene = serde_json::to_string(&shot.scene).unwrap();
                    let _ = write!(drawn, "{} {} {} {scene}", shot.caption, shot.cut, shot.part);
                }
            }
        }
        assert_eq!(
            blake3::hash(drawn.as_bytes()).to_hex().as_str(),
            "385a08e8c6bf8325d8550196ec451b4712285fbd33da21a6275b99f6c57edec3"
        );
    }

    #[test]
    fn things_are_introduced_once_and_keep_their_looks() {
        for seed in 0..200 {
            let story = Story::draw(seed, Split::HeldOut);
            assert_eq!(story.shots.len(), 8);
            assert!(story.shots[0].cut && story.shots[0].news.place);
            let count = |news: fn(&News) -> bool| {
                story.shots.iter().filter(|shot| news(&shot.news)).count()
            };
            assert!(count(|news| news.product) <= 1 && count(|news| news.character) <= 1);
            assert_eq!(count(|news| news.place), 2);
            for shot in &story.shots {
                let scene = &shot.scene;
                assert!(
                    scene
                        .subject
                        .product()
                        .is_none_or(|found| *found == story.cast.product)
                );
                let character = scene.subject.character();
                assert!(character.is_none_or(|found| *found == story.cast.character));
            }
        }
    }

    #[test]
    fn a_shot_without_a_cut_begins_with_the_last_picture_of_the_one_before() {
        let stories = (0..50).map(|seed| Story::draw(seed, Split::Train));
        let mut joints = 0;
        for story in stories {
            for pair in story.shots.windows(2).filter(|pair| !pair[1].cut) {
                let last = pair[0].scene.render(8, 9, 80, 48).unwrap();
                let first = pair[1].scene.render(0, 9, 80, 48).unwrap();
                assert_eq!(last, first, "{}", pair[1].caption);
                joints += 1;
            }
        }
        assert!(joints > 10, "{joints}");
    }

    #[test]
    fn nothing_of_the_held_out_part_is_trained_on() {
        let casts = |split| (0..1500).map(move |seed| Story::draw(seed, split).cast);
        for (seed, cast) in casts(Split::HeldOut).enumerate() {
            assert!(!Split::Train.has_product(&cast.product), "{seed}");
            assert!(!Split::Train.has_character(&cast.character), "{seed}");
            assert!(!Split::Train.has_place(&cast.home), "{seed}");
        }
        for split in [Split::Train, Split::HeldOut] {
            // Every word is trained on, and asked for.
            for attribute in Attribute::ALL {
                let mut seen = vec![false; attribute.classes().len()];
                for shot in (0..200).flat_map(|seed| Story::draw(seed, split).shots) {
                    if let Some(class) = attribute.of(&shot.scene) {
                        seen[class] = true;
                    }
                }
                if *attribute == Attribute::PlaceColour {
                    seen.pop(); // No place is white.
                }
                assert!(seen.iter().all(|&seen| seen), "{attribute:?} {seen:?}");
            }
        }
    }
}
