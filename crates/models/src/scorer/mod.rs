//! How good a picture is, for the choice of keyframes.
//!
//! StoryMem asks HPSv3, a reward model of seven billion parameters. [`QualityScorer`] is what any
//! such model has to offer. What this version has is [`SharpnessExposure`], a rule without a
//! network, and it is named as that wherever it is shown.

mod aesthetic;
mod sharpness;

use storyloom_story::RgbImage;

use crate::error::Result;

pub use aesthetic::AestheticHead;
pub use sharpness::SharpnessExposure;

/// Scores pictures; larger is better.
pub trait QualityScorer: std::fmt::Debug + Send {
    /// The name under which scores are recorded and shown.
    fn name(&self) -> &'static str;

    /// One score per picture, in order.
    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>>;
}
