//! Norm, residual block and the attention in the middle (specification `wan22`, section 3.1).

use tch::{Kind, Tensor};

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::gradients;
use storyloom_nn::layers::{CausalConv3d, StreamCache, attend, from_frames, to_frames};

/// `x / max(‖x‖, 1e-12) * sqrt(channels) * gamma` over the channel axis.
#[derive(Debug)]
pub(super) struct ChannelNorm {
    /// `gamma * sqrt(channels)`, f32 `[1, channels, 1, …]` of the rank it is used at.
    scale: Tensor,
}

impl ChannelNorm {
    /// Loads `gamma` of `[channels, 1, …]` with `trailing` axes of length one.
    pub(super) fn load(weights: &Weights, channels: i64, trailing: usize) -> Result<Self> {
        let mut shape = vec![channels];
        shape.resize(1 + trailing, 1);
        let gamma = weights.with_kind(Kind::Float).take("gamma", &shape)?;
        Ok(Self {
            scale: gamma
                .f_mul_scalar((channels as f64).sqrt())?
                .f_unsqueeze(0)?,
        })
    }

    /// `[n, channels, …]` f32, of the rank that the norm was loaded for, to the same. Each position on
    /// its own: a whole clip, a chunk or a strip of rows; no collective.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let length = input.f_norm_scalaropt_dim(2.0, [1_i64].as_slice(), true)?;
        if gradients::are_wanted() {
            // A product costs less on the way back than a quotient.
            let factor = length.f_clamp_min(1e-12)?.f_reciprocal()?;
            return Ok(input.f_mul(&factor)?.f_mul(&self.scale)?);
        }
        Ok(input
            .f_div(&length.f_clamp_min(1e-12)?)?
            .f_mul_(&self.scale)?)
    }
}

/// Norm, SiLU, convolution, twice, plus the input.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: ChannelNorm,
    conv1: CausalConv3d,
    norm2: ChannelNorm,
    conv2: CausalConv3d,
    shortcut: Option<CausalConv3d>,
}

impl ResidualBlock {
    pub(super) fn load(weights: &Weights, inputs: i64, outputs: i64) -> Result<Self> {
        let shortcut = (inputs != outputs)
            .then(|| CausalConv3d::load(&weights.sub("conv_shortcut"), inputs, outputs, [1, 1]));
        Ok(Self {
            norm1: ChannelNorm::load(&weights.sub("norm1"), inputs, 3)?,
            conv1: CausalConv3d::load(&weights.sub("conv1"), inputs, outputs, [3, 3])?,
            norm2: ChannelNorm::load(&weights.sub("norm2"), outputs, 3)?,
            conv2: CausalConv3d::load(&weights.sub("conv2"), outputs, outputs, [3, 3])?,
            shortcut: shortcut.transpose()?,
        })
    }

    /// `[1, inputs, t, h, w]` f32 to the same with `outputs` channels. A whole clip or a chunk: reads
    /// and replaces two frames of `cache` for each of the two convolutions. Rows may lie on several
    /// ranks, whose convolutions exchange the rows at their edges.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let hidden = self.norm1.forward(input)?.f_silu_()?;
        let hidden = self.conv1.forward(&hidden, cache)?;
        let hidden = self.norm2.forward(&hidden)?.f_silu_()?;
        let mut hidden = self.conv2.forward(&hidden, cache)?;
        Ok(match &self.shortcut {
            Some(shortcut) => hidden.f_add_(&shortcut.forward(input, cache)?)?,
            None => hidden.f_add_(input)?,
        })
    }
}

/// Single-head attention over the positions of each frame, plus the input.
#[derive(Debug)]
struct FrameAttention {
    norm: ChannelNorm,
    qkv: CausalConv2d,
    projection: CausalConv2d,
    channels: i64,
}

/// A 1x1 convolution over frames.
#[derive(Debug)]
struct CausalConv2d {
    weight: Tensor,
    bias: Tensor,
}

impl CausalConv2d {
    fn load(weights: &Weights, inputs: i64, outputs: i64) -> Result<Self> {
        let weights = weights.with_kind(Kind::Float);
        let weight = weights.take("weight", &[outputs, inputs, 1, 1])?;
        Ok(Self {
            weight,
            bias: weights.take("bias", &[outputs])?,
        })
    }

    /// `[frames, inputs, h, w]` f32 to the same with `outputs` channels; no collective.
    fn forward(&self, frames: &Tensor) -> Result<Tensor> {
        Ok(frames.f_conv2d(&self.weight, Some(&self.bias), [1, 1], [0, 0], [1, 1], 1)?)
    }
}

impl FrameAttention {
    fn load(weights: &Weights, channels: i64) -> Result<Self> {
        Ok(Self {
            norm: ChannelNorm::load(&weights.sub("norm"), channels, 2)?,
            qkv: CausalConv2d::load(&weights.sub("to_qkv"), channels, 3 * channels)?,
            projection: CausalConv2d::load(&weights.sub("proj"), channels, channels)?,
            channels,
        })
    }

    /// `[1, channels, t, h, w]` f32 to the same; each frame on its own, so that nothing is kept.
    /// Where the rows lie on several ranks, each asks with its own positions about those of all: keys
    /// and values are gathered.
    fn forward(&self, input: &Tensor, cache: &StreamCache) -> Result<Tensor> {
        let frames = to_frames(input)?;
        let (count, channels, height, width) = frames.size4()?;
        let qkv = self.qkv.forward(&self.norm.forward(&frames)?)?;
        let part = |index| qkv.f_narrow(1, index * self.channels, self.channels);
        let query = positions(&part(0)?)?;
        let rows = cache.rows();
        let (key, value) = match rows.part().of {
            1 => (positions(&part(1)?)?, positions(&part(2)?)?),
            _ => {
                let both = rows.join(&qkv.f_narrow(1, self.channels, 2 * self.channels)?, -2)?;
                let half = |index| both.f_narrow(1, index * self.channels, self.channels);
                (positions(&half(0)?)?, positions(&half(1)?)?)
            }
        };
        let attended = attend(&query, &key, &value, None, None)?;
        let attended = attended.f_squeeze_dim(1)?.f_transpose(1, 2)?;
        let attended = attended.f_reshape([count, channels, height, width])?;
        from_frames(&self.projection.forward(&attended)?.f_add_(&frames)?)
    }
}

/// `[frames, channels, h, w]` to `[frames, 1, h * w, channels]`.
fn positions(frames: &Tensor) -> Result<Tensor> {
    let (count, channels, height, width) = frames.size4()?;
    Ok(frames
        .f_reshape([count, 1, channels, height * width])?
        .f_transpose(2, 3)?)
}

/// Residual block, attention, residual block.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: ResidualBlock,
    attention: FrameAttention,
    second: ResidualBlock,
}

impl MidBlock {
    pub(super) fn load(weights: &Weights, channels: i64) -> Result<Self> {
        Ok(Self {
            first: ResidualBlock::load(&weights.sub("resnets.0"), channels, channels)?,
            attention: FrameAttention::load(&weights.sub("attentions.0"), channels)?,
            second: ResidualBlock::load(&weights.sub("resnets.1"), channels, channels)?,
        })
    }

    /// `[1, channels, t, h, w]` f32 to the same. A whole clip or a chunk, as its parts.
    pub(super) fn forward(&self, input: &Tensor, cache: &mut StreamCache) -> Result<Tensor> {
        let hidden = self.first.forward(input, cache)?;
        self.second
            .forward(&self.attention.forward(&hidden, cache)?, cache)
    }
}
