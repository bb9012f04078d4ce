//! What can be read from a picture of the world, each as one of a few classes.

use serde::{Deserialize, Serialize};

use super::scene::{Scene, Subject};
use super::things::{Colour, Framing, Hair, Light, Marking, ProductKind, Role, Setting, Skin};

/// Whether a picture shows a product, a character or both.
const SUBJECTS: &[&str] = &["product", "character", "both"];

/// One property of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// Product, character or both.
    Subject,
    /// What the product is.
    ProductKind,
    /// The product's first colour.
    ProductBody,
    /// The product's second colour.
    ProductSecond,
    /// The product's marking.
    ProductMarking,
    /// What the character is.
    Role,
    /// The colour of the character's clothes.
    Clothes,
    /// The colour of what the character wears on the head.
    Headwear,
    /// The character's skin.
    Skin,
    /// The character's hair.
    Hair,
    /// What kind of place it is.
    Setting,
    /// The colour of the place.
    PlaceColour,
    /// The time of the day.
    Light,
    /// How near the camera is.
    Framing,
}

/// What an attribute belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The product.
    Product,
    /// The character.
    Character,
    /// The place.
    Place,
    /// The shot alone.
    Shot,
}

impl Attribute {
    /// All of them, in a fixed order.
    pub const ALL: &'static [Self] = &[
        Self::Subject,
        Self::ProductKind,
        Self::ProductBody,
        Self::ProductSecond,
        Self::ProductMarking,
        Self::Role,
        Self::Clothes,
        Self::Headwear,
        Self::Skin,
        Self::Hair,
        Self::Setting,
        Self::PlaceColour,
        Self::Light,
        Self::Framing,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::ProductKind => "product-kind",
            Self::ProductBody => "product-body",
            Self::ProductSecond => "product-second",
            Self::ProductMarking => "product-marking",
            Self::Role => "role",
            Self::Clothes => "clothes",
            Self::Headwear => "headwear",
            Self::Skin => "skin",
            Self::Hair => "hair",
            Self::Setting => "setting",
            Self::PlaceColour => "place-colour",
            Self::Light => "light",
            Self::Framing => "framing",
        }
    }

    /// Its position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What it belongs to.
    pub const fn owner(self) -> Owner {
        match self {
            Self::ProductKind | Self::ProductBody | Self::ProductSecond | Self::ProductMarking => {
                Owner::Product
            }
            Self::Role | Self::Clothes | Self::Headwear | Self::Skin | Self::Hair => {
                Owner::Character
            }
            Self::Setting | Self::PlaceColour => Owner::Place,
            Self::Subject | Self::Light | Self::Framing => Owner::Shot,
        }
    }

    /// Whether it makes something this one and not another of its kind: the caption tells it once,
    /// and later shots must remember it.
    pub const fn is_remembered(self) -> bool {
        matches!(
            self,
            Self::ProductBody
                | Self::ProductSecond
                | Self::ProductMarking
                | Self::Clothes
                | Self::Headwear
                | Self::Skin
                | Self::Hair
                | Self::PlaceColour
        )
    }

    /// The words of its classes.
    pub fn classes(self) -> Vec<&'static str> {
        fn words<T: Copy>(all: &[T], word: impl Fn(T) -> &'static str) -> Vec<&'static str> {
            all.iter().map(|&value| word(value)).collect()
        }
        match self {
            Self::Subject => SUBJECTS.to_vec(),
            Self::ProductKind => words(ProductKind::ALL, ProductKind::word),
            Self::ProductMarking => words(Marking::ALL, Marking::word),
            Self::Role => words(Role::ALL, Role::word),
            Self::Skin => words(Skin::ALL, Skin::word),
            Self::Hair => words(Hair::ALL, Hair::word),
            Self::Setting => words(Setting::ALL, Setting::word),
            Self::Light => words(Light::ALL, Light::word),
            Self::Framing => words(Framing::ALL, Framing::word),
            Self::ProductBody
            | Self::ProductSecond
            | Self::Clothes
            | Self::Headwear
            | Self::PlaceColour => words(Colour::ALL, Colour::word),
        }
    }

    /// Its class in the pictures of `scene`; `None` where there is nothing to see of it.
    pub fn of(self, scene: &Scene) -> Option<usize> {
        let product = scene.subject.product();
        let character = scene.subject.character();
        match self {
            Self::Subject => Some(match scene.subject {
                Subject::Product(_) => 0,
                Subject::Character(_) => 1,
                Subject::Both(..) => 2,
            }),
            Self::ProductKind => product.map(|product| product.kind.index()),
            Self::ProductBody => product.map(|product| product.body.index()),
            Self::ProductSecond => product.map(|product| product.second.index()),
            Self::ProductMarking => product.map(|product| product.marking.index()),
            Self::Role => character.map(|character| character.role.index()),
            Self::Clothes => character.map(|character| character.top.index()),
            Self::Headwear => character.map(|character| character.accent.index()),
            Self::Skin => character.and_then(|character| character.skin.map(Skin::index)),
            Self::Hair => character.and_then(|character| character.hair.map(Hair::index)),
            Self::Setting => Some(scene.place.setting.index()),
            Self::PlaceColour => Some(scene.place.colour.index()),
            Self::Light => Some(scene.light.index()),
            Self::Framing => Some(scene.framing.index()),
        }
    }
}
