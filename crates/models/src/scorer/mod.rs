//! How good a picture is, for the choice of keyframes.
//!
//! StoryMem asks HPSv3, a reward model of seven billion parameters. [`QualityScorer`] is what any
//! such model has to offer. What this version has is [`SharpnessExposure`], a rule without a
//! network, and [`AestheticHead`], a linear layer on CLIP; each is named as what it is wherever it
//! is shown.

mod aesthetic;
mod sharpness;

use std::path::Path;

use storyloom_story::RgbImage;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::Result;

pub use aesthetic::AestheticHead;
pub use sharpness::SharpnessExposure;

/// Scores pictures; larger is better.
pub trait QualityScorer: std::fmt::Debug + Send {
    /// The name under which scores are recorded and shown.
    fn name(&self) -> &'static str;

    /// One score per picture, in order.
    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>>;
}

/// What the score is called that [`open`] gives.
pub fn name(aesthetic: Option<&Path>) -> &'static str {
    match aesthetic {
        Some(_) => AestheticHead::NAME,
        None => SharpnessExposure::NAME,
    }
}

/// The predictor in the folder `aesthetic`, or the rule without one.
///
/// # Errors
/// The predictor cannot be loaded.
pub fn open(aesthetic: Option<&Path>, target: Target) -> Result<Box<dyn QualityScorer>> {
    Ok(match aesthetic {
        Some(folder) => Box::new(AestheticHead::open(folder, target)?),
        None => Box::new(SharpnessExposure),
    })
}
