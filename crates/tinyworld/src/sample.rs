//! Single shots for training.

use storyloom_story::Clip;

use super::caption::{News, caption};
use super::draw::Draw;
use super::scene::{Scene, Subject};
use super::split::Split;
use super::story::fresh;
use super::things::Light;

/// The stream of [`Draw`] that samples use.
const STREAM: u64 = 2;

/// A shot with a caption that tells everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The caption.
    pub caption: String,
    /// What is to be seen.
    pub scene: Scene,
}

impl Sample {
    /// Sample `index` of the stream of samples of `seed`; products, characters and places are
    /// those of `split`.
    pub fn draw(seed: u64, index: u64, split: Split) -> Self {
        let mut draw = Draw::new(seed.wrapping_add(index.wrapping_mul(0x9E37_79B9)), STREAM);
        let product = split.product(&mut draw);
        let character = split.character(&mut draw);
        let place = split.place(&mut draw);
        let light = draw.pick(Light::ALL);
        let subject = draw.weighted(&[
            (Subject::Product(product), 40),
            (Subject::Character(character), 35),
            (Subject::Both(character, product), 25),
        ]);
        let scene = fresh(&mut draw, place, light, subject, None);
        Self {
            caption: caption(&scene, News::ALL),
            scene,
        }
    }

    /// Its pictures, or `None` if a side or the length is 0.
    pub fn clip(&self, frames: usize, width: u32, height: u32) -> Option<Clip> {
        self.scene.clip(frames, width, height)
    }
}
