//! The LAION aesthetic predictor: a linear head on CLIP ViT-L/14.

use std::path::Path;

use image::RgbImage;

use super::QualityScorer;
use crate::checkpoint::Target;
use crate::clip::{ClipVision, PixelRule, pixel_values};
use crate::error::{ModelError, Result};
use crate::layers::Linear;
use crate::tensor_file::read_tensors;

/// LAION's aesthetic score, about 1 to 10, as VBench computes it (StoryMem specification,
/// section 7; VBench then divides by ten).
///
/// The picture's CLIP embedding is brought to length 1 and goes through one linear layer.
#[derive(Debug)]
pub struct AestheticScorer {
    clip: ClipVision,
    head: Linear,
}

/// Pictures that go through the tower at once.
const BATCH: usize = 16;

impl AestheticScorer {
    /// Opens the tower in the folder `clip` and the head in the file `head`: `weight`
    /// `[1, width]` and `bias` `[1]`.
    pub fn open(clip: &Path, head: &Path, target: Target) -> Result<Self> {
        let clip = ClipVision::open(clip, target)?;
        let mut tensors = read_tensors(head)?;
        let width = clip.config().projection_dim;
        let mut take = |name: &str, wanted: &[i64]| {
            let tensor = tensors.remove(name).ok_or_else(|| {
                let reason = format!("there is no {name}; convert the linear head's state dict");
                ModelError::bad_file(head, reason)
            })?;
            if tensor.size() == wanted {
                return Ok(tensor.f_to_device_(target.device, target.kind, false, false)?);
            }
            Err(ModelError::WeightShape {
                path: head.to_owned(),
                name: name.to_owned(),
                found: tensor.size(),
                wanted: wanted.to_vec(),
            })
        };
        let weight = take("weight", &[1, width])?;
        let bias = take("bias", &[1])?;
        Ok(Self {
            clip,
            head: Linear::from_tensors(weight, Some(bias)),
        })
    }
}

impl QualityScorer for AestheticScorer {
    fn name(&self) -> &'static str {
        "aesthetic"
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>> {
        let side = self.clip.config().image_size as u32;
        let mut scores = Vec::with_capacity(pictures.len());
        for batch in pictures.chunks(BATCH) {
            let pixels = pixel_values(batch, side, PixelRule::VBench)?;
            let embeds = self.clip.embed_normalised(&pixels)?;
            let output = tch::no_grad(|| self.head.forward(&embeds))?;
            scores.extend(Vec::<f32>::try_from(output.f_flatten(0, -1)?)?);
        }
        Ok(scores)
    }

    fn default_threshold(&self) -> f32 {
        // Below this LAION calls pictures plain; StoryMem has no value for this scorer.
        4.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::write_tensors;
    use crate::testing::golden;
    use tch::Tensor;

    fn head(folder: &Path, width: i64) -> std::path::PathBuf {
        let path = folder.join("head.safetensors");
        let weight = crate::testing::cosines(&[1, width], 0.0);
        let bias = Tensor::from_slice(&[5.0_f32]);
        write_tensors(&path, &[("weight", &weight), ("bias", &bias)]).unwrap();
        path
    }

    #[test]
    fn scores_are_the_head_of_the_normalised_embedding() {
        let folder = tempfile::tempdir().unwrap();
        let clip = golden("clip-b32").join("image_encoder");
        let head = head(folder.path(), 20);
        let scorer = AestheticScorer::open(&clip, &head, Target::CPU_F32).unwrap();
        let pictures: Vec<RgbImage> = (0..18)
            .map(|shade| RgbImage::from_pixel(60, 50, image::Rgb([shade * 14, 90, 200])))
            .collect();
        let pictures: Vec<&RgbImage> = pictures.iter().collect();
        let scores = scorer.score(&pictures).unwrap();
        assert_eq!(scores.len(), 18);
        let pixels = pixel_values(&pictures[17..], 40, PixelRule::VBench).unwrap();
        let embed = scorer.clip.embed_normalised(&pixels).unwrap();
        let weight = crate::testing::cosines(&[20], 0.0);
        let expected = (embed.view([20]) * weight).sum(tch::Kind::Float) + 5.0;
        assert!((f64::from(scores[17]) - expected.double_value(&[])).abs() < 1e-5);
        assert!((scores[0] - scores[17]).abs() > 1e-4);
        assert_eq!(scorer.score(&[]).unwrap(), Vec::<f32>::new());
    }

    #[test]
    fn a_head_of_another_width_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let clip = golden("clip-b32").join("image_encoder");
        let head = head(folder.path(), 768);
        let error = AestheticScorer::open(&clip, &head, Target::CPU_F32).unwrap_err();
        assert!(error.to_string().contains("[1, 20]"), "{error}");
    }
}
