//! Pixels to moments.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{CausalConv3d, StreamCache};
use tch::Tensor;

use super::blocks::{ChannelNorm, MidBlock, ResidualBlock};
use super::config::VaeConfig;
use super::resample::{AverageDown, Downsample};

#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: CausalConv3d,
    stages: Vec<DownStage>,
    middle: MidBlock,
    norm_out: ChannelNorm,
    conv_out: CausalConv3d,
    quant: CausalConv3d,
}

/// Residual blocks, a halving in all stages but the last, and in Wan 2.2 a shortcut around both.
#[derive(Debug)]
struct DownStage {
    blocks: Vec<ResidualBlock>,
    downsample: Option<Downsample>,
    shortcut: Option<AverageDown>,
}

impl Encoder {
    /// `weights` is the root of the checkpoint; the first quantisation layer lies beside
    /// `encoder`.
    pub(super) fn load(root: &Weights, config: &VaeConfig) -> Result<Self> {
        let weights = root.sub("encoder");
        let widths: Vec<i64> = std::iter::once(1)
            .chain(config.dim_mult.iter().copied())
            .map(|multiple| multiple * config.base_dim)
            .collect();
        let stages = load_stages(&weights.sub("down_blocks"), config, &widths)?;
        let last = widths[widths.len() - 1];
        let moments = 2 * config.z_dim;
        Ok(Self {
            conv_in: CausalConv3d::load(
                &weights.sub("conv_in"),
                config.in_channels,
                widths[0],
                [3, 3],
            )?,
            stages,
            middle: MidBlock::load(&weights.sub("mid_block"), last)?,
            norm_out: ChannelNorm::load(&weights.sub("norm_out"), last, 3)?,
            conv_out: CausalConv3d::load(&weights.sub("conv_out"), last, moments, [3, 3])?,
            quant: CausalConv3d::load(&root.sub("quant_conv"), moments, moments, [1, 1])?,
        })
    }

    /// One chunk of pixels `[1, in, frames, height, width]` f32 to moments `[1, 2z, t, h, w]` f32. All rows
    /// are on this rank; no collective.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let mut hidden = self.conv_in.forward(input, cache)?;
        for stage in &self.stages {
            hidden = stage.forward(&hidden, cache)?;
        }
        hidden = self.middle.forward(&hidden, cache)?;
        hidden = self.norm_out.forward(&hidden)?.f_silu_()?;
        self.quant
            .forward(&self.conv_out.forward(&hidden, cache)?, cache)
    }
}

/// Wan 2.1 names blocks and halvings by one running index, Wan 2.2 by stage.
fn load_stages(weights: &Weights, config: &VaeConfig, widths: &[i64]) -> Result<Vec<DownStage>> {
    let mut running = 0;
    let mut flat = |_name: &str, _index: i64, _stage: usize| {
        running += 1;
        weights.sub(running - 1)
    };
    let staged = |name: &str, index: i64, stage: usize| match name {
        "resnets" => weights.sub(stage).sub(name).sub(index),
        _ => weights.sub(stage).sub(name),
    };
    let mut place = |name: &str, index: i64, stage: usize| {
        if config.is_residual {
            staged(name, index, stage)
        } else {
            flat(name, index, stage)
        }
    };
    let mut stages = Vec::with_capacity(widths.len() - 1);
    for (stage, pair) in widths.windows(2).enumerate() {
        let (inputs, outputs) = (pair[0], pair[1]);
        let mut blocks = Vec::new();
        for index in 0..config.num_res_blocks {
            let inputs = if index == 0 { inputs } else { outputs };
            blocks.push(ResidualBlock::load(
                &place("resnets", index, stage),
                inputs,
                outputs,
            )?);
        }
        let halves_time = config.temperal_downsample.get(stage).copied();
        let downsample = halves_time
            .map(|halves| Downsample::load(&place("downsampler", 0, stage), outputs, halves));
        let time = if halves_time == Some(true) { 2 } else { 1 };
        let space = if halves_time.is_some() { 2 } else { 1 };
        let shortcut = config
            .is_residual
            .then(|| AverageDown::new(inputs, outputs, time, space));
        stages.push(DownStage {
            blocks,
            downsample: downsample.transpose()?,
            shortcut: shortcut.transpose()?,
        });
    }
    Ok(stages)
}

impl DownStage {
    /// `[1, inputs, t, h, w]` f32 to `outputs` channels and, but for the last stage, half the rows and
    /// columns, and half the time where the stage halves it. A chunk: replaces what its parts keep.
    fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let mut hidden = input.shallow_clone();
        for block in &self.blocks {
            hidden = block.forward(&hidden, cache)?;
        }
        if let Some(downsample) = &self.downsample {
            hidden = downsample.forward(&hidden, cache)?;
        }
        if let Some(shortcut) = &self.shortcut {
            hidden = hidden.f_add(&shortcut.forward(input)?)?;
        }
        Ok(hidden)
    }
}
