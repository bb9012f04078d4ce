//! The LAION aesthetic predictor: a linear head on CLIP embeddings.

use std::path::Path;

use storyloom_story::RgbImage;

use super::QualityScorer;
use crate::checkpoint::{Checkpoint, Target};
use crate::clip::{ClipVision, PixelRule, pixel_values};
use crate::engine::plain_picture;
use crate::error::Result;
use crate::layers::Linear;
use crate::tensor_file::to_host;

/// CLIP embedding of unit length, then one linear layer (`sa_0_4_vit_l_14_linear` of LAION, stored
/// as safetensors with `weight` `[1, width]` and `bias` `[1]`); about 1 to 10.
#[derive(Debug)]
pub struct AestheticHead {
    clip: ClipVision,
    head: Linear,
}

impl AestheticHead {
    /// Opens a CLIP ViT-L/14 folder and the file of the head.
    pub fn open(clip: &Path, head: &Path, target: Target) -> Result<Self> {
        let clip = ClipVision::open(clip, target)?;
        let file = Checkpoint::from_files(head, serde_json::Value::Null, &[head.to_owned()])?;
        let weights = file.weights(target);
        let width = clip.config().projection_dim;
        let head = Linear::load(&weights, width, 1)?;
        weights.finish()?;
        Ok(Self { clip, head })
    }
}

impl QualityScorer for AestheticHead {
    fn name(&self) -> &'static str {
        "LAION aesthetic predictor"
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>> {
        let _guard = tch::no_grad_guard();
        let side = self.clip.config().image_size as u32;
        let plain = pictures.iter().map(|picture| plain_picture(picture));
        let plain = plain.collect::<Result<Vec<_>>>()?;
        let pixels = pixel_values(
            &plain.iter().collect::<Vec<_>>(),
            side,
            PixelRule::Processor,
        )?;
        let embeddings = self.clip.embed_normalised(&pixels)?;
        Ok(to_host(&self.head.forward(&embeddings)?)?.into_data())
    }
}
