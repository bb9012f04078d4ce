//! Latents to pixels (diffusers `Decoder`).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{Conv2d, GroupNorm, double_nearest};
use tch::Tensor;

use super::blocks::{EPS, MidBlock, ResidualBlock, load_row};
use super::config::AutoencoderKlConfig;

/// The last quantisation layer, if there is one, and the decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    quant: Option<Conv2d>,
    conv_in: Conv2d,
    middle: MidBlock,
    stages: Vec<UpStage>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Residual blocks, and a doubling in all stages but the last.
#[derive(Debug)]
struct UpStage {
    blocks: Vec<ResidualBlock>,
    double: Option<Conv2d>,
}

impl Decoder {
    /// `root` is the root of the checkpoint; the quantisation layer lies beside `decoder`.
    pub(super) fn load(root: &Weights, config: &AutoencoderKlConfig) -> Result<Self> {
        let weights = root.sub("decoder");
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (last, first) = (widths[0], widths[widths.len() - 1]);
        let mut inputs = first;
        let mut stages = Vec::with_capacity(widths.len());
        for (stage, &width) in widths.iter().rev().enumerate() {
            let place = weights.sub("up_blocks").sub(stage);
            let double = (stage + 1 < widths.len())
                .then(|| Conv2d::load(&place.sub("upsamplers.0.conv"), width, width, 3));
            stages.push(UpStage {
                blocks: load_row(&place, config.layers_per_block + 1, inputs, width, groups)?,
                double: double.transpose()?,
            });
            inputs = width;
        }
        let latents = config.latent_channels;
        let quant = config
            .use_post_quant_conv
            .then(|| Conv2d::load(&root.sub("post_quant_conv"), latents, latents, 1));
        Ok(Self {
            quant: quant.transpose()?,
            conv_in: Conv2d::load(&weights.sub("conv_in"), latents, first, 3)?,
            middle: MidBlock::load(&weights.sub("mid_block"), first, config)?,
            stages,
            norm_out: GroupNorm::load(&weights.sub("conv_norm_out"), last, groups, EPS)?,
            conv_out: Conv2d::load(&weights.sub("conv_out"), last, config.out_channels, 3)?,
        })
    }

    /// Latents `[batch, latent, h, w]` to pixels `[batch, out, height, width]` f32. Whole pictures on one rank; no
    /// collective.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut hidden = match &self.quant {
            Some(quant) => quant.forward(input)?,
            None => input.shallow_clone(),
        };
        hidden = self.middle.forward(&self.conv_in.forward(&hidden)?)?;
        for stage in &self.stages {
            hidden = stage.forward(&hidden)?;
        }
        hidden = self.norm_out.forward(&hidden)?.f_silu_()?;
        self.conv_out.forward(&hidden)
    }
}

impl UpStage {
    /// `[batch, inputs, h, w]` f32 to the stage's width and, but for the last stage, twice the rows and columns.
    /// Whole pictures on one rank; no collective.
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut hidden = input.shallow_clone();
        for block in &self.blocks {
            hidden = block.forward(&hidden)?;
        }
        match &self.double {
            Some(double) => double.forward(&double_nearest(&hidden)?),
            None => Ok(hidden),
        }
    }
}
