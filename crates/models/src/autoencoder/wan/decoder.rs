//! Latents to pixels.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{CausalConv3d, StreamCache};
use tch::Tensor;

use super::blocks::{ChannelNorm, MidBlock, ResidualBlock};
use super::config::VaeConfig;
use super::resample::{DuplicateUp, Upsample};

#[derive(Debug)]
pub(super) struct Decoder {
    quant: CausalConv3d,
    conv_in: CausalConv3d,
    middle: MidBlock,
    stages: Vec<UpStage>,
    norm_out: ChannelNorm,
    conv_out: CausalConv3d,
}

/// Residual blocks, a doubling in all stages but the last, and in Wan 2.2 a shortcut around both.
#[derive(Debug)]
struct UpStage {
    blocks: Vec<ResidualBlock>,
    upsample: Option<Upsample>,
    shortcut: Option<DuplicateUp>,
}

impl Decoder {
    /// `root` is the root of the checkpoint; the last quantisation layer lies beside `decoder`.
    pub(super) fn load(root: &Weights, config: &VaeConfig) -> Result<Self> {
        let weights = root.sub("decoder");
        let base = config.decoder_base_dim.unwrap_or(config.base_dim);
        let deepest = config.dim_mult.last().copied().unwrap_or(1);
        let widths: Vec<i64> = std::iter::once(deepest)
            .chain(config.dim_mult.iter().rev().copied())
            .map(|multiple| multiple * base)
            .collect();
        let (z_dim, first, last) = (config.z_dim, widths[0], widths[widths.len() - 1]);
        let conv = |name: &str, inputs, outputs| {
            CausalConv3d::load(&weights.sub(name), inputs, outputs, [3, 3])
        };
        Ok(Self {
            quant: CausalConv3d::load(&root.sub("post_quant_conv"), z_dim, z_dim, [1, 1])?,
            conv_in: conv("conv_in", z_dim, first)?,
            middle: MidBlock::load(&weights.sub("mid_block"), first)?,
            stages: load_stages(&weights.sub("up_blocks"), config, &widths)?,
            norm_out: ChannelNorm::load(&weights.sub("norm_out"), last, 3)?,
            conv_out: conv("conv_out", last, config.out_channels)?,
        })
    }

    /// One chunk of latents `[1, z, t, h, w]` f32 to pixels `[1, out, frames, height, width]` f32. Where
    /// the rows lie on several ranks, all of them call it, each with its strip: convolutions fetch the rows
    /// at their edges, and the attention gathers keys and values.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let mut hidden = self
            .conv_in
            .forward(&self.quant.forward(input, cache)?, cache)?;
        hidden = self.middle.forward(&hidden, cache)?;
        for stage in &self.stages {
            hidden = stage.forward(&hidden, cache)?;
        }
        hidden = self.norm_out.forward(&hidden)?.f_silu_()?;
        self.conv_out.forward(&hidden, cache)
    }
}

fn load_stages(weights: &Weights, config: &VaeConfig, widths: &[i64]) -> Result<Vec<UpStage>> {
    let mut stages = Vec::with_capacity(widths.len() - 1);
    for (stage, pair) in widths.windows(2).enumerate() {
        // In Wan 2.1 the doubling before a stage has halved its channels.
        let halved = stage > 0 && !config.is_residual;
        let (inputs, outputs) = (if halved { pair[0] / 2 } else { pair[0] }, pair[1]);
        let place = weights.sub(stage);
        let mut blocks = Vec::new();
        for index in 0..=config.num_res_blocks {
            let inputs = if index == 0 { inputs } else { outputs };
            let block = place.sub("resnets").sub(index);
            blocks.push(ResidualBlock::load(&block, inputs, outputs)?);
        }
        let doubles_time = config.temperal_downsample.iter().rev().nth(stage).copied();
        let upsample = doubles_time.map(|doubles| {
            if config.is_residual {
                Upsample::load(&place.sub("upsampler"), outputs, outputs, doubles)
            } else {
                Upsample::load(&place.sub("upsamplers.0"), outputs, outputs / 2, doubles)
            }
        });
        let shortcut = doubles_time
            .filter(|_| config.is_residual)
            .map(|doubles| DuplicateUp::new(inputs, outputs, if doubles { 2 } else { 1 }, 2));
        stages.push(UpStage {
            blocks,
            upsample: upsample.transpose()?,
            shortcut: shortcut.transpose()?,
        });
    }
    Ok(stages)
}

impl UpStage {
    /// `[1, inputs, t, h, w]` f32 to `outputs` channels and, but for the last stage, twice the rows and
    /// columns, and twice the time where the stage doubles it. A chunk, or a strip of its rows: rows of
    /// neighbours on other ranks are fetched.
    fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let mut hidden = input.shallow_clone();
        for block in &self.blocks {
            hidden = block.forward(&hidden, cache)?;
        }
        if let Some(upsample) = &self.upsample {
            hidden = upsample.forward(&hidden, cache)?;
        }
        if let Some(shortcut) = &self.shortcut {
            hidden = hidden.f_add(&shortcut.forward(input, cache.is_first_chunk())?)?;
        }
        Ok(hidden)
    }
}
