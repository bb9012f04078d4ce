//! What a model is trained on, and what is kept from it.

use serde::{Deserialize, Serialize};

use super::draw::Draw;
use super::things::{
    Character, Colour, Hair, Marking, PLACE_COLOURS, Place, Product, ProductKind, Role, Setting,
    Skin,
};
use crate::draws::spread;

/// One part of all products, characters and places.
///
/// Every word occurs in both parts; every combination that makes an identity or a place in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Four fifths: for training.
    Train,
    /// One fifth: never trained on.
    HeldOut,
}

impl Split {
    /// How it is written in the ids of stories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::HeldOut => "held-out",
        }
    }

    /// The split of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Train, Self::HeldOut]
            .into_iter()
            .find(|split| split.name() == name)
    }

    fn has(self, parts: &[usize]) -> bool {
        let code = parts
            .iter()
            .fold(0_u64, |code, &part| code * 16 + part as u64);
        let held_out = spread(code).is_multiple_of(5);
        held_out == (self == Self::HeldOut)
    }

    /// Whether the product belongs to this part.
    pub fn has_product(self, product: &Product) -> bool {
        self.has(&[
            1,
            product.kind.index(),
            product.body.index(),
            product.second.index(),
            product.marking.index(),
        ])
    }

    /// Whether the character belongs to this part.
    pub fn has_character(self, character: &Character) -> bool {
        self.has(&[
            2,
            character.role.index(),
            character.top.index(),
            character.accent.index(),
            character.skin.map_or(15, Skin::index),
            character.hair.map_or(15, Hair::index),
        ])
    }

    /// Whether the place belongs to this part.
    pub fn has_place(self, place: &Place) -> bool {
        // There are few: each kind of place and each colour is to have some in both parts.
        let held_out = (place.setting.index() + place.colour.index()).is_multiple_of(5);
        held_out == (self == Self::HeldOut)
    }

    /// A product of this part.
    pub fn product(self, draw: &mut Draw) -> Product {
        loop {
            let (body, second) = two_colours(draw);
            let product = Product {
                kind: draw.pick(ProductKind::ALL),
                body,
                second,
                marking: draw.pick(Marking::ALL),
            };
            if self.has_product(&product) {
                return product;
            }
        }
    }

    /// A character of this part.
    pub fn character(self, draw: &mut Draw) -> Character {
        loop {
            let (top, accent) = two_colours(draw);
            let role = draw.pick(Role::ALL);
            let skin = draw.pick(Skin::ALL);
            let hair = draw.pick(Hair::ALL);
            let character = Character {
                role,
                top,
                accent,
                skin: role.has_skin().then_some(skin),
                hair: role.has_hair().then_some(hair),
            };
            if self.has_character(&character) {
                return character;
            }
        }
    }

    /// A place of this part.
    pub fn place(self, draw: &mut Draw) -> Place {
        loop {
            let place = Place {
                setting: draw.pick(Setting::ALL),
                colour: draw.pick(PLACE_COLOURS),
            };
            if self.has_place(&place) {
                return place;
            }
        }
    }
}

/// Two colours that nobody takes for each other.
fn two_colours(draw: &mut Draw) -> (Colour, Colour) {
    loop {
        let pair = (draw.pick(Colour::ALL), draw.pick(Colour::ALL));
        if distance(pair.0, pair.1) > 110 {
            return pair;
        }
    }
}

fn distance(a: Colour, b: Colour) -> u32 {
    let (a, b) = (a.rgb(), b.rgb());
    let squares: u32 = (0..3)
        .map(|channel| u32::from(a[channel].abs_diff(b[channel])).pow(2))
        .sum();
    squares.isqrt()
}
