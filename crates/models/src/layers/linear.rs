//! The affine map.

use tch::{Device, Kind, Tensor};

use crate::checkpoint::Weights;
use crate::error::Result;

/// `y = x Wᵀ + b`, optionally plus a low-rank update that is kept apart.
///
/// bf16 weights stay bf16 in memory. On the CPU they are widened to f32 for each product, since
/// libtorch's bf16 product is an order of magnitude slower there without special instructions;
/// on a GPU the product runs in the kind of the weights.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    low_rank: Option<LowRank>,
}

/// A LoRA update `scale * B(A x)`.
#[derive(Debug)]
pub struct LowRank {
    /// `[rank, inputs]`.
    pub down: Tensor,
    /// `[outputs, rank]`.
    pub up: Tensor,
    /// Factor of the update.
    pub scale: f64,
}

impl Linear {
    /// Loads `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    pub fn load(weights: &Weights, inputs: i64, outputs: i64) -> Result<Self> {
        let bias = Some(weights.take("bias", &[outputs])?);
        Ok(Self {
            bias,
            ..Self::load_without_bias(weights, inputs, outputs)?
        })
    }

    /// Loads `weight` `[outputs, inputs]`.
    pub fn load_without_bias(weights: &Weights, inputs: i64, outputs: i64) -> Result<Self> {
        let weight = weights.take("weight", &[outputs, inputs])?;
        Ok(Self {
            weight,
            bias: None,
            low_rank: None,
        })
    }

    /// Makes a layer of tensors: `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight,
            bias,
            low_rank: None,
        }
    }

    /// `[..., inputs]` in f32 to `[..., outputs]` in f32.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut output = product(input, &self.weight, self.bias.as_ref())?;
        if let Some(LowRank { down, up, scale }) = &self.low_rank {
            let mut update = product(&product(input, down, None)?, up, None)?;
            output = output.f_add_(&update.f_mul_scalar_(*scale)?)?;
        }
        Ok(output)
    }

    /// Size of the weight, `[outputs, inputs]`.
    pub fn size(&self) -> (i64, i64) {
        let size = self.weight.size();
        (size[0], size[1])
    }

    /// Keeps `update` beside the weight.
    pub fn add_low_rank(&mut self, update: LowRank) {
        self.low_rank = Some(update);
    }

    /// Adds `update` to the weight in f32 and rounds once to the weight's kind.
    pub fn merge_low_rank(&mut self, update: &LowRank) -> Result<()> {
        let product = update
            .up
            .f_matmul(&update.down)?
            .f_mul_scalar_(update.scale)?;
        let merged = self.weight.f_to_kind(Kind::Float)?.f_add(&product)?;
        self.weight = merged.f_to_kind(self.weight.kind())?;
        Ok(())
    }
}

fn product(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let kind = if weight.device() == Device::Cpu {
        Kind::Float
    } else {
        weight.kind()
    };
    let weight = weight.f_to_kind(kind)?;
    let bias = bias.map(|bias| bias.f_to_kind(kind)).transpose()?;
    Ok(input
        .f_to_kind(kind)?
        .f_linear(&weight, bias)?
        .f_to_kind(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(kind: Kind) -> (Linear, Tensor) {
        let options = (Kind::Float, Device::Cpu);
        let weight = Tensor::arange(12, options).view([3, 4]) * 0.25;
        let bias = Tensor::from_slice(&[1.0_f32, 0.0, -1.0]);
        let input = Tensor::arange(8, options).view([2, 4]) - 3.0;
        let layer = Linear::from_tensors(weight.to_kind(kind), Some(bias.to_kind(kind)));
        (layer, input)
    }

    #[test]
    fn bf16_weights_compute_in_f32_on_the_cpu() {
        let (exact, input) = layer(Kind::Float);
        let (stored_small, _) = layer(Kind::BFloat16);
        let output = stored_small.forward(&input).unwrap();
        assert_eq!(output.kind(), Kind::Float);
        assert_eq!(output, exact.forward(&input).unwrap());
    }

    #[test]
    fn merged_and_kept_apart_agree() {
        let update = |scale| LowRank {
            down: Tensor::from_slice(&[1.0_f32, -1.0, 0.5, 2.0]).view([1, 4]),
            up: Tensor::from_slice(&[2.0_f32, 0.0, -1.0]).view([3, 1]),
            scale,
        };
        let (mut apart, input) = layer(Kind::Float);
        let plain = apart.forward(&input).unwrap();
        apart.add_low_rank(update(0.5));
        let (mut merged, _) = layer(Kind::Float);
        merged.merge_low_rank(&update(0.5)).unwrap();
        let [apart, merged] = [apart, merged].map(|layer| layer.forward(&input).unwrap());
        assert!(apart.allclose(&merged, 1e-6, 1e-6, false));
        assert!(!apart.allclose(&plain, 1e-3, 1e-3, false));
    }
}
