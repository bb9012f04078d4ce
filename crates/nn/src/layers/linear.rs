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
    /// Updates that are added to the product, each with its own factor.
    low_rank: Vec<LowRank>,
    split: Split,
}

/// What of a layer this rank has.
#[derive(Debug)]
enum Split {
    Whole,
    Outputs(Part),
    /// These runs of the inputs, first and length, laid together.
    Inputs(Peers, Vec<(i64, i64)>),
}

/// One part of each of `widths` columns that stand side by side: first and length of each run.
fn groups(widths: &[i64], part: Part) -> Vec<(i64, i64)> {
    let mut begin = 0;
    let own = widths.iter().map(|&width| {
        let (first, count) = part.range(width);
        begin += width;
        (begin - width + first, count)
    });
    own.collect()
}

/// The runs of `tensor` along `axis`, laid together.
fn runs(tensor: &Tensor, axis: i64, runs: &[(i64, i64)]) -> Result<Tensor> {
    let pieces = runs
        .iter()
        .map(|&(first, count)| tensor.f_narrow(axis, first, count));
    match pieces.collect::<Result<Vec<_>, _>>()?.as_slice() {
        [only] => Ok(only.shallow_clone()),
        several => Ok(Tensor::f_cat(several, axis)?),
    }
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
            low_rank: Vec::new(),
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
            low_rank: Vec::new(),
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
            low_rank: Vec::new(),
            split: match part.of {
                1 => Split::Whole,
                _ => Split::Inputs(peers.clone(), vec![part.range(inputs)]),
            },
        })
    }

    /// As [`load_inputs`](Self::load_inputs) of a layer whose input is several tensors side by side, `widths` of
    /// them: this rank's part of each, side by side as well.
    pub fn load_input_groups(
        weights: &Weights,
        widths: &[i64],
        outputs: i64,
        peers: &Peers,
    ) -> Result<Self> {
        let (part, inputs) = (peers.part(), widths.iter().sum());
        if part.of == 1 {
            return Self::load(weights, inputs, outputs);
        }
        let own = groups(widths, part);
        Ok(Self {
            weight: weights.take_columns("weight", &[outputs, inputs], &own)?,
            bias: Some(weights.take("bias", &[outputs])?),
            low_rank: Vec::new(),
            split: Split::Inputs(peers.clone(), own),
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
            low_rank: Vec::new(),
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
        let Split::Inputs(peers, _) = &self.split else {
            return self.own(input, self.bias.as_ref());
        };
        self.with_bias(peers.sum(self.own(input, None)?)?)
    }

    /// The sum over all ranks, plus the bias.
    fn with_bias(&self, output: Tensor) -> Result<Tensor> {
        let Some(bias) = &self.bias else {
            return Ok(output);
        };
        let mut output = output.f_to_kind(Kind::Float)?;
        Ok(output.f_add_(&bias.f_to_kind(Kind::Float)?)?)
    }

    /// [`forward_rounded`](Self::forward_rounded) of two layers with as many outputs, each on its own input
    /// `[batch, tokens, inputs]`. Where ranks share their inputs, the partial results of both travel in one sum.
    pub fn forward_pair(layers: [&Self; 2], inputs: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let ([first, second], [left, right]) = (layers, inputs);
        let (Split::Inputs(peers, _), Split::Inputs(..)) = (&first.split, &second.split) else {
            return Ok([first.forward_rounded(left)?, second.forward_rounded(right)?]);
        };
        let partial = [first.own(left, None)?, second.own(right, None)?];
        let [before, behind] = [&partial[0], &partial[1]].map(|tensor| tensor.size()[1]);
        let sum = peers.sum(Tensor::f_cat(&partial, 1)?)?;
        let run = |first: i64, count: i64| -> Result<Tensor> {
            Ok(sum.f_narrow(1, first, count)?.f_contiguous()?)
        };
        Ok([
            first.with_bias(run(0, before)?)?,
            second.with_bias(run(before, behind)?)?,
        ])
    }

    /// As [`forward`](Self::forward), where the product is f32 whatever kind the weights have: for few rows whose
    /// result many others depend on. No layer that ranks share by its inputs.
    pub fn forward_wide(&self, input: &Tensor) -> Result<Tensor> {
        self.own_in(|_| Kind::Float, input, self.bias.as_ref())
    }

    /// [`forward_rounded`](Self::forward_rounded) of layers that share their input, for decoding:
    /// few rows in host memory are computed by loops that read every weight once for all of them,
    /// and in which the result of a row does not depend on the others.
    pub fn forward_together<const N: usize>(
        layers: [&Self; N],
        input: &Tensor,
    ) -> Result<[Tensor; N]> {
        let plain =
            |layer: &&Self| layer.low_rank.is_empty() && !matches!(layer.split, Split::Inputs(..));
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
        let Split::Inputs(peers, _) = &self.split else {
            let [output] = Self::forward_together([self], input)?;
            return Ok(output);
        };
        if self.bias.is_none()
            && self.low_rank.is_empty()
            && let Some([output]) = few_rows::products(input, [(&self.weight, None)])?
        {
            return peers.sum(output);
        }
        self.forward_rounded(input)
    }

    /// What this rank's weights make of its inputs.
    fn own(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.own_in(product_kind, input, bias)
    }

    /// The same by products in the kind that `kind_of` says of their weights.
    fn own_in(
        &self,
        kind_of: impl Fn(&Tensor) -> Kind,
        input: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let product = |input: &Tensor, weight: &Tensor, bias: Option<&Tensor>| {
            product(kind_of(weight), input, weight, bias)
        };
        let output = product(input, &self.weight, bias)?;
        if self.low_rank.is_empty() {
            return Ok(output);
        }
        let mut output = output.f_to_kind(Kind::Float)?;
        for LowRank { down, up, scale } in &self.low_rank {
            let update = product(&product(input, down, None)?, up, None)?;
            let mut update = update.f_to_kind(Kind::Float)?;
            output = output.f_add_(&update.f_mul_scalar_(*scale)?)?;
        }
        Ok(output)
    }

    /// Size of the whole layer's weight, `[outputs, inputs]`.
    pub fn size(&self) -> (i64, i64) {
        let size = self.weight.size();
        let (outputs, inputs) = match &self.split {
            Split::Whole => (1, 1),
            Split::Outputs(part) => (part.of, 1),
            Split::Inputs(peers, _) => (1, peers.part().of),
        };
        (size[0] * outputs, size[1] * inputs)
    }

    /// Keeps `update`, made for the whole layer, beside the weight and those that are kept already.
    pub fn add_low_rank(&mut self, update: LowRank) -> Result<()> {
        let own = self.own_part(update)?;
        self.low_rank.push(own);
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
            Split::Inputs(_, own) => {
                update.down = runs(&update.down, 1, own)?.f_contiguous()?;
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
            Split::Inputs(_, own) => runs(difference, 1, own)?,
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
            Split::Whole | Split::Inputs(..) => add_difference(bias, difference),
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

fn product(kind: Kind, input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let weight = weight.f_to_kind(kind)?;
    let bias = bias.map(|bias| bias.f_to_kind(kind)).transpose()?;
    Ok(input.f_to_kind(kind)?.f_linear(&weight, bias)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::as_gpu;
    use crate::testing::vectors::{flux_vector, integers, wave};
    use crate::testing::{on_ranks, weights_of};
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

    /// Widths of two tensors that are the input of one layer.
    const GROUPS: [i64; 2] = [4, 16];

    /// A layer of three outputs with an adapter, or this rank's part of it.
    fn grouped(peers: &Peers) -> Linear {
        let (weight, bias) = (wave(0.7, 0.1, &[3, 20]), wave(0.7, 0.2, &[3]));
        let update = LowRank {
            down: wave(0.4, 0.1, &[2, 20]),
            up: wave(0.4, 0.2, &[3, 2]),
            scale: 0.5,
        };
        weights_of(&[("weight", &weight), ("bias", &bias)], |weights| {
            let mut layer = Linear::load_input_groups(weights, &GROUPS, 3, peers)?;
            layer.add_low_rank(update)?;
            Ok(layer)
        })
    }

    /// Five tokens for that layer, or this rank's part of their channels.
    fn grouped_input(part: Part) -> Tensor {
        let own = GROUPS.map(|width| {
            let (first, count) = part.range(width);
            wave(0.3, 1.0, &[1, 5, width]).narrow(2, first, count)
        });
        Tensor::cat(&own, 2)
    }

    /// Specification `flux`, 7.1: a rank has its part of each group of inputs, also of adapters, and two layers
    /// need one sum.
    #[test]
    fn groups_of_inputs_are_divided_one_by_one() {
        let expected = grouped(&Peers::default())
            .forward(&grouped_input(Part::WHOLE))
            .unwrap();
        for found in on_ranks(2, |group| {
            let peers = Peers::new(Some(group));
            let (layer, own) = (grouped(&peers), grouped_input(peers.part()));
            assert_eq!(layer.size(), (3, 20));
            let short = own.narrow(1, 0, 2);
            let [all, some] = Linear::forward_pair([&layer, &layer], [&own, &short]).unwrap();
            assert!(all.narrow(1, 0, 2).allclose(&some, 1e-6, 1e-6, false));
            all
        }) {
            assert!(found.allclose(&expected, 1e-5, 1e-5, false));
        }
    }

    /// Specification `flux`, 7.1: the columns that ranks have of the last layer of a single block.
    #[test]
    fn columns_of_a_rank_are_those_of_the_vectors() {
        for ranks in [2, 3] {
            let expected = integers(&flux_vector("tensor_parallel")[format!("ranks{ranks}")]);
            let found = on_ranks(ranks, |group| {
                let peers = Peers::new(Some(group));
                groups(&[3072, 12_288], peers.part())
            });
            let found = found.into_iter().flatten();
            let found: Vec<i64> = found.flat_map(|(first, count)| [first, count]).collect();
            assert_eq!(found, expected);
        }
    }

    /// On a GPU a product has the kind of the weights; here one is told otherwise.
    #[test]
    fn wide_products_do_not_round_their_results() {
        let (stored_small, input) = layer(Kind::BFloat16);
        let input = input + 0.001;
        let found = as_gpu(|| {
            [
                stored_small.forward_wide(&input),
                stored_small.forward(&input),
            ]
        });
        let Some([wide, rounded]) = found else { return };
        let expected = layer(Kind::Float).0.forward(&input).unwrap();
        assert_eq!(wide.unwrap(), expected);
        assert_ne!(rounded.unwrap(), expected);
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

    #[test]
    fn updates_beside_the_weight_add_up() {
        let update = |scale: f64| LowRank {
            down: Tensor::from_slice(&[1.0_f32, -1.0, 0.5, 2.0]).view([1, 4]) * scale,
            up: Tensor::from_slice(&[2.0_f32, 0.0, -1.0]).view([3, 1]),
            scale,
        };
        let (mut apart, input) = layer(Kind::Float);
        let (mut merged, _) = layer(Kind::Float);
        let (mut second, _) = layer(Kind::Float);
        for scale in [0.5, -3.0] {
            apart.add_low_rank(update(scale)).unwrap();
            merged.merge_low_rank(update(scale)).unwrap();
        }
        second.add_low_rank(update(-3.0)).unwrap();
        let [apart, merged, second] =
            [apart, merged, second].map(|layer| layer.forward(&input).unwrap());
        assert!(apart.allclose(&merged, 1e-6, 1e-6, false));
        assert!(!apart.allclose(&second, 1e-3, 1e-3, false));
    }
}
