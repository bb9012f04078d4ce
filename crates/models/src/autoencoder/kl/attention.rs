//! The attention in the middle (diffusers `Attention` as `UNetMidBlock2D` makes it).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{GroupNorm, Linear, attend, merge_heads, split_heads};
use tch::Tensor;

use super::blocks::EPS;

/// Attention of one head over the positions of a picture, plus the input.
#[derive(Debug)]
pub(super) struct PositionAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

/// Names of the four maps today, and in files of diffusers before 0.18.
const NAMES: [[&str; 2]; 4] = [
    ["to_q", "query"],
    ["to_k", "key"],
    ["to_v", "value"],
    ["to_out.0", "proj_attn"],
];

impl PositionAttention {
    /// Takes the tensors under their names of today or of earlier, as matrices or as 1x1 convolutions.
    pub(super) fn load(weights: &Weights, channels: i64, groups: i64) -> Result<Self> {
        let map = |[today, earlier]: [&str; 2]| {
            let former = weights.sub(earlier);
            match former.has("weight") {
                true => square(&former, channels),
                false => square(&weights.sub(today), channels),
            }
        };
        let [query, key, value, output] = NAMES.map(map);
        Ok(Self {
            norm: GroupNorm::load(&weights.sub("group_norm"), channels, groups, EPS)?,
            query: query?,
            key: key?,
            value: value?,
            output: output?,
        })
    }

    /// `[batch, channels, h, w]` f32 to the same. Whole pictures on one rank; no collective.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = input.size4()?;
        let tokens = self.norm.forward(input)?;
        let tokens = tokens.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let head = |map: &Linear| split_heads(&map.forward(&tokens)?, 1);
        let (query, key, value) = (head(&self.query)?, head(&self.key)?, head(&self.value)?);
        let attended = merge_heads(&attend(&query, &key, &value, None, None)?)?;
        let mixed = self.output.forward(&attended)?.f_transpose(1, 2)?;
        Ok(mixed
            .f_reshape([batch, channels, height, width])?
            .f_add_(input)?)
    }
}

/// A map of all channels to all channels.
fn square(weights: &Weights, channels: i64) -> Result<Linear> {
    let as_convolution = [channels, channels, 1, 1];
    if weights.shape_of("weight") != Some(as_convolution.as_slice()) {
        return Linear::load(weights, channels, channels);
    }
    let weight = weights.take("weight", &as_convolution)?;
    let bias = weights.take("bias", &[channels])?;
    let weight = weight.f_view([channels, channels])?;
    Ok(Linear::from_tensors(weight, Some(bias)))
}
