//! Judging how good a frame is, for keyframe selection and for reports.
//!
//! StoryMem asks HPSv3, a 7B model, whether a frame is good enough to be remembered. Any model
//! that gives a number per picture fits [`QualityScorer`].

mod aesthetic;
mod sharpness;

use std::path::Path;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Target;
use crate::error::Result;

pub use aesthetic::AestheticScorer;
pub use sharpness::SharpnessScorer;

/// Gives a number per picture; higher is better.
pub trait QualityScorer: std::fmt::Debug + Send {
    /// The name in configs, records and metrics.
    fn name(&self) -> &'static str;

    /// One score per picture, in order. Scores of different scorers do not compare.
    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>>;

    /// The score from which a frame may be remembered, unless the config says otherwise.
    fn default_threshold(&self) -> f32;
}

/// Which scorer to use, and the files it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name", deny_unknown_fields)]
pub enum ScorerConfig {
    /// [`SharpnessScorer`]: no model, no files.
    Sharpness,
    /// [`AestheticScorer`].
    Aesthetic {
        /// Folder of CLIP ViT-L/14 (vision tower with projection).
        clip: std::path::PathBuf,
        /// The linear head, `sa_0_4_vit_l_14_linear` as safetensors with `weight` and `bias`.
        head: std::path::PathBuf,
    },
}

impl ScorerConfig {
    /// Opens the scorer. Relative paths are taken from `models`.
    pub fn open(&self, models: &Path, target: Target) -> Result<Box<dyn QualityScorer>> {
        Ok(match self {
            Self::Sharpness => Box::new(SharpnessScorer),
            Self::Aesthetic { clip, head } => Box::new(AestheticScorer::open(
                &models.join(clip),
                &models.join(head),
                target,
            )?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_names_the_scorer() {
        let parse = |text| serde_json::from_str::<ScorerConfig>(text);
        let config = parse(r#"{"name": "sharpness"}"#).unwrap();
        let scorer = config.open(Path::new("."), Target::CPU_F32).unwrap();
        assert_eq!(scorer.name(), "sharpness");
        let config = parse(r#"{"name": "aesthetic", "clip": "c", "head": "h.safetensors"}"#);
        let missing = config.unwrap().open(Path::new("nowhere"), Target::CPU_F32);
        assert!(missing.unwrap_err().to_string().contains("nowhere"));
        assert!(parse(r#"{"name": "hpsv4"}"#).is_err());
    }
}
