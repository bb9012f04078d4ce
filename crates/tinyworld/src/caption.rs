//! The words of the world: one sentence per shot, from a closed grammar.

use std::collections::BTreeSet;

use super::scene::{Scene, Subject};
use super::things::{
    Action, Camera, Character, Colour, Framing, Hair, Light, Marking, Place, Product, ProductKind,
    Role, Setting, Skin,
};

/// Which things a caption introduces, with everything that makes them this one. Others are only
/// named: "the mug".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// The product of the shot.
    pub product: bool,
    /// The character of the shot.
    pub character: bool,
    /// The place of the shot.
    pub place: bool,
}

impl News {
    /// Everything is new.
    pub const ALL: Self = Self {
        product: true,
        character: true,
        place: true,
    };
}

/// The caption of `scene`.
pub fn caption(scene: &Scene, news: News) -> String {
    let subject = match &scene.subject {
        Subject::Product(product) => product_words(product, news.product),
        Subject::Character(character) | Subject::Both(character, _) => {
            character_words(character, news.character)
        }
    };
    let object = match &scene.subject {
        Subject::Both(_, product) => format!(" {}", product_words(product, news.product)),
        _ => String::new(),
    };
    let still = if scene.begin > 0.0 { "still " } else { "" };
    format!(
        "{}: {subject} {still}{}{object} {} {}, {}, {}.",
        scene.framing.word(),
        scene.action.word(),
        scene.place.setting.preposition(),
        place_words(&scene.place, news.place),
        scene.light.word(),
        scene.camera.word(),
    )
}

/// "a red and white mug with a star", or "the mug".
pub fn product_words(product: &Product, new: bool) -> String {
    let kind = product.kind.word();
    if !new {
        return format!("the {kind}");
    }
    let colours = format!("{} and {}", product.body.word(), product.second.word());
    match product.marking {
        Marking::Plain => format!("a plain {colours} {kind}"),
        Marking::Stripes => with_article(&format!("{colours} {kind} with stripes")),
        marking => with_article(&format!("{colours} {kind} with a {}", marking.word())),
    }
}

/// "a girl with dark skin and black hair in a red dress and a blue bow", or "the girl".
pub fn character_words(character: &Character, new: bool) -> String {
    let role = character.role;
    if !new {
        return format!("the {}", role.word());
    }
    let skin = character.skin.map(|skin| format!("{} skin", skin.word()));
    let hair = character.hair.map(|hair| format!("{} hair", hair.word()));
    let looks: Vec<String> = [skin, hair].into_iter().flatten().collect();
    let clothes = format!(
        "{} and {}",
        with_article(&format!("{} {}", character.top.word(), role.clothes())),
        with_article(&format!("{} {}", character.accent.word(), role.accent())),
    );
    let role_words = with_article(role.word());
    if looks.is_empty() {
        format!("{role_words} with {clothes}")
    } else {
        format!("{role_words} with {} in {clothes}", looks.join(" and "))
    }
}

/// "a kitchen with blue walls", or "the kitchen".
pub fn place_words(place: &Place, new: bool) -> String {
    let setting = place.setting;
    if !new {
        return format!("the {}", setting.word());
    }
    let named = match setting {
        Setting::Mountains => setting.word().to_owned(),
        _ => with_article(setting.word()),
    };
    format!(
        "{named} with {} {}",
        place.colour.word(),
        setting.coloured_part()
    )
}

fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {words}")
}

/// Every word and mark that a caption can have, sorted.
pub fn vocabulary() -> Vec<String> {
    let lists = [
        words_of(Colour::ALL, |value| value.word()),
        words_of(ProductKind::ALL, |value| value.word()),
        words_of(Marking::ALL, |value| value.word()),
        words_of(Role::ALL, |value| value.word()),
        words_of(Role::ALL, |value| value.clothes()),
        words_of(Role::ALL, |value| value.accent()),
        words_of(Skin::ALL, |value| value.word()),
        words_of(Hair::ALL, |value| value.word()),
        words_of(Setting::ALL, |value| value.word()),
        words_of(Setting::ALL, |value| value.preposition()),
        words_of(Setting::ALL, |value| value.coloured_part()),
        words_of(Light::ALL, |value| value.word()),
        words_of(Framing::ALL, |value| value.word()),
        words_of(Camera::ALL, |value| value.word()),
        words_of(Action::ALL, |value| value.word()),
        vec!["a an the and with in skin hair still"],
    ];
    let marks = [":", ",", "."].into_iter().map(str::to_owned);
    let words = lists.iter().flatten().flat_map(|text| text.split(' '));
    let all: BTreeSet<String> = words.map(str::to_owned).chain(marks).collect();
    all.into_iter().collect()
}

fn words_of<T: Copy>(values: &[T], word: impl Fn(T) -> &'static str) -> Vec<&'static str> {
    values.iter().map(|&value| word(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sample, Split, Story};

    /// The words and marks of a caption.
    fn pieces(caption: &str) -> Vec<String> {
        let spaced = caption
            .replace(':', " :")
            .replace(',', " ,")
            .replace('.', " .");
        spaced.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn captions_are_short_and_of_known_words() {
        let known: BTreeSet<String> = vocabulary().into_iter().collect();
        assert!(known.len() < 200, "{}", known.len());
        for seed in 0..300 {
            let split = if seed % 2 == 0 {
                Split::Train
            } else {
                Split::HeldOut
            };
            let shots = Story::draw(seed, split).shots.into_iter();
            let captions = shots.map(|shot| shot.caption);
            for caption in captions.chain([Sample::draw(3, seed, split).caption]) {
                let words = caption.split(' ').count();
                assert!(words <= 40, "{words} words: {caption}");
                for piece in pieces(&caption) {
                    assert!(known.contains(&piece), "{piece:?} in {caption:?}");
                }
            }
        }
    }

    #[test]
    fn every_word_is_used() {
        let mut unused: BTreeSet<String> = vocabulary().into_iter().collect();
        for index in 0..3000 {
            for piece in pieces(&Sample::draw(0, index, Split::Train).caption) {
                unused.remove(&piece);
            }
        }
        for shot in (0..40).flat_map(|seed| Story::draw(seed, Split::Train).shots) {
            for piece in pieces(&shot.caption) {
                unused.remove(&piece);
            }
        }
        assert!(unused.is_empty(), "{unused:?}");
    }

    #[test]
    fn what_is_known_is_only_named() {
        let product = Product {
            kind: ProductKind::Umbrella,
            body: Colour::Orange,
            second: Colour::White,
            marking: Marking::Stripes,
        };
        assert_eq!(
            product_words(&product, true),
            "an orange and white umbrella with stripes"
        );
        assert_eq!(product_words(&product, false), "the umbrella");
        let robot = Character {
            role: Role::Robot,
            top: Colour::Blue,
            accent: Colour::Red,
            skin: None,
            hair: None,
        };
        assert_eq!(
            character_words(&robot, true),
            "a robot with a blue body and a red antenna"
        );
    }
}
