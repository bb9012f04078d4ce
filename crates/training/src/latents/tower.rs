//! The vision tower of the set, which says how much pictures have in common.

use storyloom_models::vision::clip::{
    ClipVision, ClipVisionConfig, PixelRule, SelectionResize, pixel_values,
};
use storyloom_nn::image::plain_picture;
use storyloom_nn::tch::{Device, Kind, Tensor, no_grad_guard};
use storyloom_tinyworld::Story;

use crate::clips::{ClipSource, picture};
use crate::error::Result;
use crate::params::{Tensors, checkpoint_of, plain_on, shallow};

/// The vision tower, to be handed to any thread.
#[derive(Debug)]
pub struct Tower {
    /// Its shape.
    pub config: ClipVisionConfig,
    /// Its weights, as they are shipped.
    pub tensors: Tensors,
    /// Where pictures come from.
    pub source: ClipSource,
    /// Where it computes.
    pub device: Device,
}

impl Clone for Tower {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            tensors: shallow(&self.tensors),
            ..*self
        }
    }
}

impl Tower {
    /// Embeddings of length 1 of the picture at each of the latent `frames` of every shot, `[shots, frames,
    /// projection]`.
    ///
    /// # Errors
    /// A picture without pixels, or weights of another shape.
    pub fn embed(&self, story: &Story, frames: i64) -> Result<Tensor> {
        let _guard = no_grad_guard();
        let checkpoint = checkpoint_of(&self.tensors);
        let weights = checkpoint.weights(plain_on(self.device));
        let tower = ClipVision::load(&weights, self.config.clone())?;
        let mut pictures = Vec::new();
        for shot in &story.shots {
            for frame in 0..frames {
                let moment = frame as f32 / (frames - 1).max(1) as f32;
                let drawn = picture(&shot.scene, moment, self.source.size)?;
                pictures.push(plain_picture(&drawn)?);
            }
        }
        let pictures: Vec<_> = pictures.iter().collect();
        let rule = PixelRule::Selection(SelectionResize::Pillow);
        let pixels = pixel_values(&pictures, self.config.image_size as u32, rule)?;
        let embedded = tower.embed_normalised(&pixels.f_to_device(self.device)?)?;
        let shots = story.shots.len() as i64;
        let embedded = embedded.f_to_device(Device::Cpu)?;
        Ok(embedded.f_reshape([shots, frames, -1])?)
    }
}

/// How much each frame of `shot` has in common with the shot `target`: the cosine of its embedding and the mean
/// of those of the target, from -1 to 1.
///
/// # Errors
/// libtorch refuses.
pub fn similarity(embeddings: &Tensor, target: usize, shot: usize) -> Result<Vec<f32>> {
    let of = |shot: usize| embeddings.f_select(0, shot as i64);
    let mean = of(target)?.f_mean_dim([0_i64].as_slice(), false, Kind::Float)?;
    let mean = mean.f_div(&mean.f_norm()?.f_clamp_min(1e-12)?)?;
    Ok(Vec::try_from(&of(shot)?.f_matmul(&mean)?)?)
}
