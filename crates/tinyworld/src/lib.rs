//! A procedural world of product ads and little stories.
//!
//! Everything follows from a seed, so that no data set is stored: [`Story::draw`] makes a story of
//! eight shots with captions, [`Outline::draw`] one that goes back to what it showed, [`Sample::draw`] a
//! single shot, and [`Scene::render`] their pictures.
//! Things are made of a few attributes; [`Split`] keeps one fifth of the combinations from training.

mod attribute;
mod canvas;
mod caption;
mod character_art;
mod draw;
pub mod draws;
mod manifest;
mod pattern;
mod place_art;
mod product_art;
mod recall;
mod sample;
mod scene;
mod sheet;
mod split;
mod story;
mod things;
mod words;

pub use attribute::{Attribute, Owner};
pub use caption::{News, caption, vocabulary};
pub use draw::Draw;
pub use manifest::manifest;
pub use pattern::{Outline, Pattern};
pub use recall::FAR;
pub use sample::Sample;
pub use scene::{Scene, Subject};
pub use sheet::{grid, sheet};
pub use split::Split;
pub use story::{Cast, Shot, Story};
pub use things::{
    Action, Camera, Character, Colour, Framing, Hair, Light, Marking, PLACE_COLOURS, Place,
    Product, ProductKind, Role, Setting, Skin,
};
