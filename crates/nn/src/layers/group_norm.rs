//! Group norm, of the networks for pictures that diffusers calls 2D.

use tch::{Kind, Tensor};

use crate::checkpoint::Weights;
use crate::error::Result;

/// Norm over the channels of a group and all positions, with weight and bias per channel (torch
/// `nn.GroupNorm`).
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    /// Loads `weight` and `bias` of `[channels]`, kept in f32. `groups` divides `channels`.
    pub fn load(weights: &Weights, channels: i64, groups: i64, eps: f64) -> Result<Self> {
        let weights = weights.with_kind(Kind::Float);
        Ok(Self {
            weight: weights.take("weight", &[channels])?,
            bias: weights.take("bias", &[channels])?,
            groups,
            eps,
        })
    }

    /// `[batch, channels, ...]` of any kind to the same shape in f32. All positions of a sample are needed;
    /// no collective.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_to_kind(Kind::Float)?.f_group_norm(
            self.groups,
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            false,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::vectors::{assert_begins, wave};
    use crate::testing::weights_of;
    use serde_json::json;
    use tch::Device;

    /// Specification `moviedreamer`, `group_norm_small`: inputs so small that the epsilon shows.
    #[test]
    fn the_epsilon_is_inside_the_root() {
        let ones = Tensor::ones([64], (Kind::Float, Device::Cpu));
        let zeros = ones.zeros_like();
        let input = wave(0.3, 1.0, &[1, 64, 2, 2]) * 0.001;
        for (eps, expected) in [
            (
                1e-6,
                json!([
                    0.142_473_012,
                    0.258_692_712,
                    0.292_977_214,
                    0.242_264_047,
                    0.111_083_195
                ]),
            ),
            (
                1e-5,
                json!([
                    0.047_085_449_1,
                    0.085_494_533_2,
                    0.096_825_107_9,
                    0.080_065_071_6
                ]),
            ),
        ] {
            let norm = weights_of(&[("weight", &ones), ("bias", &zeros)], |weights| {
                GroupNorm::load(weights, 64, 32, eps)
            });
            assert_begins("small", &norm.forward(&input).unwrap(), &expected, 1e-6);
        }
    }
}
