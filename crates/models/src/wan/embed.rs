//! What stands before the blocks: patches, timesteps, text and image.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{Activation, LayerMut, LayerNorm, Linear, timestep_sinusoid};
use tch::{Kind, Tensor};

use super::WanConfig;

/// Cuts latents into patches and projects each to a token.
///
/// A convolution whose kernel is its stride is a linear map on flattened patches.
#[derive(Debug)]
pub(super) struct PatchEmbed {
    projection: Linear,
    patch: [i64; 3],
}

impl PatchEmbed {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let [time, height, width] = config.patch_size;
        let (channels, model) = (config.in_channels, config.width());
        let weight = weights.take("weight", &[model, channels, time, height, width])?;
        let weight = weight.f_reshape([model, channels * time * height * width])?;
        let bias = weights.take("bias", &[model])?;
        Ok(Self {
            projection: Linear::from_tensors(weight, Some(bias)),
            patch: config.patch_size,
        })
    }

    /// The projection of a flattened patch.
    pub(super) fn projection_mut(&mut self) -> &mut Linear {
        &mut self.projection
    }

    /// `[batch, channels, frames, height, width]` f32 to `[batch, tokens, model]` f32, time slowest. All
    /// tokens, whole on every rank; no collective.
    pub(super) fn forward(&self, latents: &Tensor, grid: [i64; 3]) -> Result<Tensor> {
        let [pt, ph, pw] = self.patch;
        let [f, h, w] = grid;
        let size = latents.size();
        let (batch, channels) = (size[0], size[1]);
        let whole = latents
            .f_narrow(2, 0, f * pt)?
            .f_narrow(3, 0, h * ph)?
            .f_narrow(4, 0, w * pw)?;
        let patches = whole
            .f_reshape([batch, channels, f, pt, h, ph, w, pw])?
            .f_permute([0, 2, 4, 6, 1, 3, 5, 7])?
            .f_reshape([batch, f * h * w, channels * pt * ph * pw])?;
        self.projection.forward(&patches)
    }
}

/// Turns tokens back into latents; the inverse order of [`PatchEmbed`], channels fastest.
pub(super) fn unpatchify(tokens: &Tensor, grid: [i64; 3], config: &WanConfig) -> Result<Tensor> {
    let [pt, ph, pw] = config.patch_size;
    let [f, h, w] = grid;
    let batch = tokens.size()[0];
    let channels = config.out_channels;
    Ok(tokens
        .f_reshape([batch, f, h, w, pt, ph, pw, channels])?
        .f_permute([0, 7, 1, 4, 2, 5, 3, 6])?
        .f_reshape([batch, channels, f * pt, h * ph, w * pw])?)
}

/// The timestep path: sinusoid, two layers, and the six modulation vectors.
#[derive(Debug)]
pub(super) struct TimeEmbed {
    first: Linear,
    second: Linear,
    projection: Linear,
    sinusoid: i64,
}

impl TimeEmbed {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let width = config.width();
        let embedder = weights.sub("time_embedder").with_kind(Kind::Float);
        Ok(Self {
            first: Linear::load(&embedder.sub("linear_1"), config.freq_dim, width)?,
            second: Linear::load(&embedder.sub("linear_2"), width, width)?,
            projection: Linear::load(&weights.sub("time_proj"), width, 6 * width)?,
            sinusoid: config.freq_dim,
        })
    }

    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        Some(LayerMut::Linear(match name {
            "time_embedder.linear_1" => &mut self.first,
            "time_embedder.linear_2" => &mut self.second,
            "time_proj" => &mut self.projection,
            _ => return None,
        }))
    }

    /// For each of the `rows` timesteps `e` `[rows, model]` and `e0` `[rows, 6, model]`, f32, on the device
    /// of `like`. Whole on every rank; no collective.
    pub(super) fn forward(&self, timesteps: &[f64], like: &Tensor) -> Result<(Tensor, Tensor)> {
        let sinusoid = timestep_sinusoid(timesteps, self.sinusoid, like.device())?;
        let hidden = self.first.forward(&sinusoid)?.f_silu()?;
        let embedding = self.second.forward(&hidden)?;
        let modulation = self.projection.forward(&embedding.f_silu()?)?;
        let (rows, width) = embedding.size2()?;
        Ok((embedding, modulation.f_view([rows, 6, width])?))
    }
}

/// Text rows to the model's width.
#[derive(Debug)]
pub(super) struct TextEmbed {
    first: Linear,
    second: Linear,
}

impl TextEmbed {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let width = config.width();
        Ok(Self {
            first: Linear::load(&weights.sub("linear_1"), config.text_dim, width)?,
            second: Linear::load(&weights.sub("linear_2"), width, width)?,
        })
    }

    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        Some(LayerMut::Linear(match name {
            "linear_1" => &mut self.first,
            "linear_2" => &mut self.second,
            _ => return None,
        }))
    }

    /// `[batch, rows, text]` f32 to `[batch, rows, model]` f32. Whole on every rank; no collective.
    pub(super) fn forward(&self, text: &Tensor) -> Result<Tensor> {
        let hidden = Activation::GeluTanh.apply(self.first.forward(text)?)?;
        self.second.forward(&hidden)
    }
}

/// CLIP tokens to the model's width (Wan 2.1 image-to-video).
#[derive(Debug)]
pub(super) struct ImageEmbed {
    norm_in: LayerNorm,
    first: Linear,
    second: Linear,
    norm_out: LayerNorm,
    positions: Option<Tensor>,
}

impl ImageEmbed {
    /// Epsilon of the two norms, the default of the framework in the reference.
    const EPS: f64 = 1e-5;

    pub(super) fn load(weights: &Weights, config: &WanConfig, image_dim: i64) -> Result<Self> {
        let width = config.width();
        let positions = config.pos_embed_seq_len;
        let positions = positions.map(|rows| weights.take("pos_embed", &[1, rows, image_dim]));
        Ok(Self {
            norm_in: LayerNorm::load(&weights.sub("norm1"), image_dim, Self::EPS)?,
            first: Linear::load(&weights.sub("ff.net.0.proj"), image_dim, image_dim)?,
            second: Linear::load(&weights.sub("ff.net.2"), image_dim, width)?,
            norm_out: LayerNorm::load(&weights.sub("norm2"), width, Self::EPS)?,
            positions: positions.transpose()?,
        })
    }

    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        Some(match name {
            "norm1" => LayerMut::LayerNorm(&mut self.norm_in),
            "ff.net.0.proj" => LayerMut::Linear(&mut self.first),
            "ff.net.2" => LayerMut::Linear(&mut self.second),
            "norm2" => LayerMut::LayerNorm(&mut self.norm_out),
            _ => return None,
        })
    }

    /// `[batch, tokens, image]`, or `[2 batch, tokens, image]` with learned positions, to
    /// `[batch, tokens, model]`, f32. Whole on every rank; no collective.
    pub(super) fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let mut image = image.f_to_kind(Kind::Float)?;
        if let Some(positions) = &self.positions {
            let (_, tokens, width) = image.size3()?;
            image = image.f_reshape([-1, 2 * tokens, width])?.f_add(positions)?;
        }
        let hidden = self.first.forward(&self.norm_in.forward(&image)?)?;
        let hidden = self.second.forward(&Activation::Gelu.apply(hidden)?)?;
        self.norm_out.forward(&hidden)
    }
}
