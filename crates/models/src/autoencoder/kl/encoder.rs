//! Pixels to moments (diffusers `Encoder`).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{Conv2d, GroupNorm};
use tch::Tensor;

use super::blocks::{EPS, MidBlock, ResidualBlock, load_row};
use super::config::AutoencoderKlConfig;

/// The encoder and the first quantisation layer, if there is one.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    stages: Vec<DownStage>,
    middle: MidBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant: Option<Conv2d>,
}

/// Residual blocks, and a halving in all stages but the last.
#[derive(Debug)]
struct DownStage {
    blocks: Vec<ResidualBlock>,
    halve: Option<Conv2d>,
}

impl Encoder {
    /// `root` is the root of the checkpoint; the quantisation layer lies beside `encoder`.
    pub(super) fn load(root: &Weights, config: &AutoencoderKlConfig) -> Result<Self> {
        let weights = root.sub("encoder");
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let mut inputs = first;
        let mut stages = Vec::with_capacity(widths.len());
        for (stage, &width) in widths.iter().enumerate() {
            let place = weights.sub("down_blocks").sub(stage);
            let halve = (stage + 1 < widths.len()).then(|| {
                // Padded on the right and below only, by the forward.
                let place = place.sub("downsamplers.0.conv");
                Conv2d::load_with(&place, [width, width], 3, 2, 0)
            });
            stages.push(DownStage {
                blocks: load_row(&place, config.layers_per_block, inputs, width, groups)?,
                halve: halve.transpose()?,
            });
            inputs = width;
        }
        let moments = 2 * config.latent_channels;
        let quant = config
            .use_quant_conv
            .then(|| Conv2d::load(&root.sub("quant_conv"), moments, moments, 1));
        Ok(Self {
            conv_in: Conv2d::load(&weights.sub("conv_in"), config.in_channels, first, 3)?,
            stages,
            middle: MidBlock::load(&weights.sub("mid_block"), last, config)?,
            norm_out: GroupNorm::load(&weights.sub("conv_norm_out"), last, groups, EPS)?,
            conv_out: Conv2d::load(&weights.sub("conv_out"), last, moments, 3)?,
            quant: quant.transpose()?,
        })
    }

    /// Pixels `[batch, in, height, width]` to moments `[batch, 2 latent, h, w]` f32. Whole pictures on one rank;
    /// no collective.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(input)?;
        for stage in &self.stages {
            hidden = stage.forward(&hidden)?;
        }
        hidden = self.middle.forward(&hidden)?;
        hidden = self.norm_out.forward(&hidden)?.f_silu_()?;
        hidden = self.conv_out.forward(&hidden)?;
        match &self.quant {
            Some(quant) => quant.forward(&hidden),
            None => Ok(hidden),
        }
    }
}

impl DownStage {
    /// `[batch, inputs, h, w]` f32 to the stage's width and, but for the last stage, half the rows and columns,
    /// rounded down. Whole pictures on one rank; no collective.
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut hidden = input.shallow_clone();
        for block in &self.blocks {
            hidden = block.forward(&hidden)?;
        }
        match &self.halve {
            Some(halve) => halve.forward(&hidden.f_constant_pad_nd([0, 1, 0, 1])?),
            None => Ok(hidden),
        }
    }
}
