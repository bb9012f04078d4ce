//! The affine map.

use tch::{Kind, Tensor};

use super::adapt::add_difference;
use super::few_rows;
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::shard::{Part, Peers};

/// `y = x Wᵀ + b`, optionally plus a low-rank update that is kept apart.
///
/// bf16 weights stay bf16 in memory. On the CPU they are widened to f32 for each product, since
/// libtorch's bf16 product is an order of magnitude slower there without special instructions;
/// on a GPU the product runs in the kind of the weights.
///
/// Ranks may share a layer: by outputs, when each makes a part of them, or by inputs, when each has
/// a part of these and the partial results are summed.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    low_rank: Option<LowRank>,
    split: Split,
}

/// What of a layer this rank has.
#[derive(Debug)]
enum Split {
    Whole,
    Outputs(Part),
    Inputs(Peers),
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
            split: Split::Whole,
        })
    }

    /// Loads one part of the outputs: rows of the weight and the same part of the bias.
    pub fn load_outputs(weights: &Weights, inputs: i64, outputs: i64, part: Part) -> Result<Self> {
        Self::load_outputs_with(weights, inputs, outputs, part, true)
    }

    /// As [`load_outputs`](Self::load_outputs), with or without a bias.
    pub fn load_outputs_with(
        weights: &Weights,
        inputs: i64,
        outputs: i64,
        part: Part,
        with_bias: bool,
    ) -> Result<Self> {
        let bias = || weights.take_part("bias", &[outputs], 0, part);
        Ok(Self {
            weight: weights.take_part("weight", &[outputs, inputs], 0, part)?,
            bias: with_bias.then(bias).transpose()?,
            low_rank: None,
            split: match part.of {
                1 => Split::Whole,
                _ => Split::Outputs(part),
            },
        })
    }

    /// Loads the part of the inputs that `peers` leave to this rank: columns of the weight. The
    /// bias is added once, after the sum.
    pub fn load_inputs(
        weights: &Weights,
        inputs: i64,
        outputs: i64,
        peers: &Peers,
    ) -> Result<Self> {
        Self::load_inputs_with(weights, inputs, outputs, peers, true)
    }

    /// As [`load_inputs`](Self::load_inputs), with or without a bias.
    pub fn load_inputs_with(
        weights: &Weights,
        inputs: i64,
        outputs: i64,
        peers: &Peers,
        with_bias: bool,
    ) -> Result<Self> {
        let part = peers.part();
        let bias = || weights.take("bias", &[outputs]);
        Ok(Self {
            weight: weights.take_part("weight", &[outputs, inputs], 1, part)?,
            bias: with_bias.then(bias).transpose()?,
            low_rank: None,
            split: match part.of {
                1 => Split::Whole,
                _ => Split::Inputs(peers.clone()),
            },
        })
    }

    /// Loads one part of the inputs of a layer without a bias, whose partial results the caller
    /// sums over the ranks.
    pub fn load_input_part(
        weights: &Weights,
        inputs: i64,
        outputs: i64,
        part: Part,
    ) -> Result<Self> {
        let weight = weights.take_part("weight", &[outputs, inputs], 1, part)?;
        Ok(Self::from_tensors(weight, None))
    }

    /// Makes a layer of tensors: `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight,
            bias,
            low_rank: None,
            split: Split::Whole,
        }
    }

    /// `[..., inputs]` to `[..., outputs]` in f32. Where ranks share the layer, this rank's part of the
    /// outputs without a collective, or its part of the inputs to the whole output by one sum over them.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        Ok(self.forward_rounded(input)?.f_to_kind(Kind::Float)?)
    }

    /// The kind that products are computed in, and that inputs are rounded to.
    pub fn kind(&self) -> Kind {
        product_kind(&self.weight)
    }

    /// As [`forward`](Self::forward), left in the kind that the last step computed in: that of the
    /// products, but for sums over ranks or with a low-rank update, which are f32.
    pub fn forward_rounded(&self, input: &Tensor) -> Result<Tensor> {
        let Split::Inputs(peers) = &self.split else {
            return self.own(input, self.bias.as_ref());
        };
        let output = peers.sum(self.own(input, None)?)?;
        match &self.bias {
            Some(bias) => {
                let mut output = output.f_to_kind(Kind::Float)?;
                Ok(output.f_add_(&bias.f_to_kind(Kind::Float)?)?)
            }
            None => Ok(output),
        }
    }

    /// [`forward_rounded`](Self::forward_rounded) of layers that share their input, for decoding:
    /// few rows in host memory are computed by loops that read every weight once for all of them,
    /// and in which the result of a row does not depend on the others.
    pub fn forward_together<const N: usize>(
        layers: [&Self; N],
        input: &Tensor,
    ) -> Result<[Tensor; N]> {
        let plain =
            |layer: &&Self| layer.low_rank.is_none() && !matches!(layer.split, Split::Inputs(_));
        if layers.iter().all(plain) {
            let weights = layers.map(|layer| (&layer.weight, layer.bias.as_ref()));
            if let Some(outputs) = few_rows::products(input, weights)? {
                return Ok(outputs);
            }
        }
        let mut outputs = layers.map(|_| Tensor::new());
        for (output, layer) in outputs.iter_mut().zip(layers) {
            *output = layer.forward_rounded(input)?;
        }
        Ok(outputs)
    }

    /// [`forward_together`](Self::forward_together) of one layer.
    pub fn forward_few(&self, input: &Tensor) -> Result<Tensor> {
        let Split::Inputs(peers) = &self.split else {
            let [output] = Self::forward_together([self], input)?;
            return Ok(output);
        };
        if self.bias.is_none()
            && self.low_rank.is_none()
            && let Some([output]) = few_rows::products(input, [(&self.weight, None)])?
        {
            return peers.sum(output);
        }
        self.forward_rounded(input)
    }

    /// What this rank's weights make of its inputs.
    fn own(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let output = product(input, &self.weight, bias)?;
        let Some(LowRank { down, up, scale }) = &self.low_rank else {
            return Ok(output);
        };
        let mut output = output.f_to_kind(Kind::Float)?;
        let update = product(&product(input, down, None)?, up, None)?;
        let mut update = update.f_to_kind(Kind::Float)?;
        Ok(output.f_add_(&update.f_mul_scalar_(*scale)?)?)
    }

    /// Size of the whole layer's weight, `[outputs, inputs]`.
    pub fn size(&self) -> (i64, i64) {
        let size = self.weight.size();
        let (outputs, inputs) = match &self.split {
            Split::Whole => (1, 1),
            Split::Outputs(part) => (part.of, 1),
            Split::Inputs(peers) => (1, peers.part().of),
        };
        (size[0] * outputs, size[1] * inputs)
    }

    /// Keeps `update`, made for the whole layer, beside the weight.
    pub fn add_low_rank(&mut self, update: LowRank) -> Result<()> {
        self.low_rank = Some(self.own_part(update)?);
        Ok(())
    }

    /// The part of an update that falls on this rank's weights.
    fn own_part(&self, mut update: LowRank) -> Result<LowRank> {
        match &self.split {
            Split::Whole => {}
            Split::Outputs(part) => {
                let (first, share) = part.range(update.up.size()[0]);
                update.up = update.up.f_narrow(0, first, share)?.f_contiguous()?;
            }
            Split::Inputs(peers) => {
                let (first, share) = peers.part().range(update.down.size()[1]);
                update.down = update.down.f_narrow(1, first, share)?.f_contiguous()?;
            }
        }
        Ok(update)
    }

    /// Whether there is a bias.
    pub fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// Adds a difference of the whole layer's weight.
    pub fn add_to_weight(&mut self, difference: &Tensor) -> Result<()> {
        let own = match &self.split {
            Split::Whole => difference.shallow_clone(),
            Split::Outputs(part) => {
                let (first, share) = part.range(difference.size()[0]);
                difference.f_narrow(0, first, share)?
            }
            Split::Inputs(peers) => {
                let (first, share) = peers.part().range(difference.size()[1]);
                difference.f_narrow(1, first, share)?
            }
        };
        add_difference(&mut self.weight, &own)
    }

    /// Adds a difference of the whole layer's bias, if it has one.
    pub fn add_to_bias(&mut self, difference: &Tensor) -> Result<()> {
        let Some(bias) = &mut self.bias else {
            return Ok(());
        };
        match &self.split {
            // Ranks that share the inputs add the same bias to their common sum.
            Split::Whole | Split::Inputs(_) => add_difference(bias, difference),
            Split::Outputs(part) => {
                let (first, share) = part.range(difference.size()[0]);
                add_difference(bias, &difference.f_narrow(0, first, share)?)
            }
        }
    }

    /// Adds `update`, made for the whole layer, to the weight in f32 and rounds once to the
    /// weight's kind.
    pub fn merge_low_rank(&mut self, update: LowRank) -> Result<()> {
        let update = self.own_part(update)?;
        let product = update
            .up
            .f_matmul(&update.down)?
            .f_mul_scalar_(update.scale)?;
        let merged = self.weight.f_to_kind(Kind::Float)?.f_add(&product)?;
        self.weight = merged.f_to_kind(self.weight.kind())?;
        Ok(())
    }
}

/// The kind that products with a weight are computed in.
pub(super) fn product_kind(weight: &Tensor) -> Kind {
    if crate::host::is_host(weight.device()) {
        Kind::Float
    } else {
        weight.kind()
    }
}

fn product(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let kind = product_kind(weight);
    let weight = weight.f_to_kind(kind)?;
    let bias = bias.map(|bias| bias.f_to_kind(kind)).transpose()?;
    Ok(input.f_to_kind(kind)?.f_linear(&weight, bias)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

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
        apart.add_low_rank(update(0.5)).unwrap();
        let (mut merged, _) = layer(Kind::Float);
        merged.merge_low_rank(update(0.5)).unwrap();
        let [apart, merged] = [apart, merged].map(|layer| layer.forward(&input).unwrap());
        assert!(apart.allclose(&merged, 1e-6, 1e-6, false));
        assert!(!apart.allclose(&plain, 1e-3, 1e-3, false));
    }
}
