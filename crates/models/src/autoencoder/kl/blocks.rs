//! Residual block and the middle of both halves (diffusers `ResnetBlock2D`, `UNetMidBlock2D`).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{Conv2d, GroupNorm};
use tch::Tensor;

use super::attention::PositionAttention;
use super::config::AutoencoderKlConfig;

/// Epsilon of all norms.
pub(super) const EPS: f64 = 1e-6;

/// Norm, SiLU, convolution, twice, plus the input.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub(super) fn load(weights: &Weights, inputs: i64, outputs: i64, groups: i64) -> Result<Self> {
        let shortcut = (inputs != outputs)
            .then(|| Conv2d::load(&weights.sub("conv_shortcut"), inputs, outputs, 1));
        Ok(Self {
            norm1: GroupNorm::load(&weights.sub("norm1"), inputs, groups, EPS)?,
            conv1: Conv2d::load(&weights.sub("conv1"), inputs, outputs, 3)?,
            norm2: GroupNorm::load(&weights.sub("norm2"), outputs, groups, EPS)?,
            conv2: Conv2d::load(&weights.sub("conv2"), outputs, outputs, 3)?,
            shortcut: shortcut.transpose()?,
        })
    }

    /// `[batch, inputs, h, w]` f32 to `[batch, outputs, h, w]` f32. Whole pictures on one rank; no collective.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let hidden = self.norm1.forward(input)?.f_silu_()?;
        let hidden = self.conv1.forward(&hidden)?;
        let hidden = self.norm2.forward(&hidden)?.f_silu_()?;
        let mut hidden = self.conv2.forward(&hidden)?;
        Ok(match &self.shortcut {
            Some(shortcut) => hidden.f_add_(&shortcut.forward(input)?)?,
            None => hidden.f_add_(input)?,
        })
    }
}

/// Residual blocks of one width in a row, the first of which comes from another.
pub(super) fn load_row(
    weights: &Weights,
    count: i64,
    inputs: i64,
    outputs: i64,
    groups: i64,
) -> Result<Vec<ResidualBlock>> {
    let block = |index| {
        let inputs = if index == 0 { inputs } else { outputs };
        ResidualBlock::load(&weights.sub("resnets").sub(index), inputs, outputs, groups)
    };
    (0..count).map(block).collect()
}

/// Residual block, attention if the config wants one, residual block.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: ResidualBlock,
    attention: Option<PositionAttention>,
    second: ResidualBlock,
}

impl MidBlock {
    pub(super) fn load(
        weights: &Weights,
        channels: i64,
        config: &AutoencoderKlConfig,
    ) -> Result<Self> {
        let groups = config.norm_num_groups;
        let block = |index: i64| {
            let place = weights.sub("resnets").sub(index);
            ResidualBlock::load(&place, channels, channels, groups)
        };
        let attention = config.mid_block_add_attention.then(|| {
            let place = weights.sub("attentions.0");
            PositionAttention::load(&place, channels, groups)
        });
        Ok(Self {
            first: block(0)?,
            attention: attention.transpose()?,
            second: block(1)?,
        })
    }

    /// `[batch, channels, h, w]` f32 to the same. Whole pictures on one rank; no collective.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut hidden = self.first.forward(input)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(&hidden)?;
        }
        self.second.forward(&hidden)
    }
}
