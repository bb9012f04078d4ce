//! Normalisations. Statistics and products are f32.

use multiversion::multiversion;
use tch::{Kind, Tensor};

use super::adapt::add_difference;
use super::rotary::RotaryTable;
use super::token_vectors::TokenVectors;
use super::{fused, rows, split_heads};
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::gradients;
use crate::shard::Part;

/// Layer norm without learned values, times `scale`, plus `shift`; `[batch, tokens, width]`.
///
/// Computed in f32 and rounded once to `kind`.
pub fn modulated_layer_norm(
    input: &Tensor,
    eps: f64,
    scale: &TokenVectors,
    shift: &TokenVectors,
    kind: Kind,
) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    if let Some(kernels) = fused::kernels(input)
        && fused::takes_row(width)
    {
        return fused::modulate(kernels, input, eps, scale, shift, kind);
    }
    if !(rows::on_host(input) && input.is_contiguous()) {
        return Ok(layer_norm(input, eps)?
            .f_mul_(&scale.broadcast(batch)?)?
            .f_add_(&shift.broadcast(batch)?)?
            .f_to_kind(kind)?);
    }
    let (tokens, width) = (tokens as usize, width as usize);
    let mut output = rows::empty_like(input)?;
    let source = rows::values(input);
    let (scale, shift) = (scale.of_tokens(tokens), shift.of_tokens(tokens));
    rows::for_each_row(rows::values_mut(&mut output), width, |token, row| {
        let input = &source[token * width..][..width];
        modulate(input, eps as f32, scale(token), shift(token), row);
    });
    Ok(output.f_to_kind(kind)?)
}

/// `hidden + value * gate`, in place; `[batch, tokens, width]`. Nothing else may use `hidden`.
pub fn add_gated(mut hidden: Tensor, value: &Tensor, gate: &TokenVectors) -> Result<Tensor> {
    if let Some(kernels) = fused::kernels(&hidden)
        && fused::kernels(value).is_some()
        && hidden.is_contiguous()
    {
        fused::add_gated(kernels, &mut hidden, value, gate)?;
        return Ok(hidden);
    }
    let gate = gate.broadcast(hidden.size()[0])?;
    let value = value.f_to_kind(hidden.kind())?;
    Ok(match gradients::are_wanted() {
        true => hidden.f_addcmul(&value, &gate)?,
        false => hidden.f_addcmul_(&value, &gate)?,
    })
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn modulate(input: &[f32], eps: f32, scale: &[f32], shift: &[f32], output: &mut [f32]) {
    let width = input.len() as f32;
    let mean = rows::sum(input, |x| x) / width;
    let variance = rows::sum(input, |x| (x - mean) * (x - mean)) / width;
    let factor = 1.0 / (variance + eps).sqrt();
    for (((out, &x), &scale), &shift) in output.iter_mut().zip(input).zip(scale).zip(shift) {
        *out = (x - mean) * factor * scale + shift;
    }
}

/// Layer norm over the last axis without learned values.
pub fn layer_norm(input: &Tensor, eps: f64) -> Result<Tensor> {
    let width = input.size().last().copied().unwrap_or(1);
    Ok(input
        .f_to_kind(Kind::Float)?
        .f_layer_norm::<Tensor>([width], None, None, eps, false)?)
}

/// Layer norm over the last axis with weight and bias.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight` and `bias` of `[width]`, kept in f32.
    pub fn load(weights: &Weights, width: i64, eps: f64) -> Result<Self> {
        let weights = weights.with_kind(Kind::Float);
        let weight = weights.take("weight", &[width])?;
        let bias = weights.take("bias", &[width])?;
        Ok(Self { weight, bias, eps })
    }

    /// Size of the weight, and of the bias.
    pub fn size(&self) -> Vec<i64> {
        self.weight.size()
    }

    /// Adds a difference to the weight.
    pub fn add_to_weight(&mut self, difference: &Tensor) -> Result<()> {
        add_difference(&mut self.weight, difference)
    }

    /// Adds a difference to the bias.
    pub fn add_to_bias(&mut self, difference: &Tensor) -> Result<()> {
        add_difference(&mut self.bias, difference)
    }

    /// `[batch, tokens, width]` of any kind to the same shape, computed in f32 and rounded once to `kind`.
    /// Whole on every rank; no collective.
    pub fn forward_to(&self, input: &Tensor, kind: Kind) -> Result<Tensor> {
        let (batch, tokens, width) = input.size3()?;
        let Some(kernels) = fused::kernels(input).filter(|_| fused::takes_row(width)) else {
            return Ok(self.forward(input)?.f_to_kind(kind)?);
        };
        // The learned values are a modulation that all tokens of all samples share.
        let learned = |values: &Tensor| -> Result<TokenVectors> {
            Ok(TokenVectors {
                rows: values.f_unsqueeze(0)?,
                index: None,
            })
        };
        let (scale, shift) = (learned(&self.weight)?, learned(&self.bias)?);
        let input = input.f_reshape([1, batch * tokens, width])?;
        let output = fused::modulate(kernels, &input, self.eps, &scale, &shift, kind)?;
        Ok(output.f_view([batch, tokens, width])?)
    }

    /// `[..., width]` of any kind to the same shape in f32. Whole on every rank; no collective.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let input = input.f_to_kind(Kind::Float)?;
        let width = self.weight.size();
        Ok(input.f_layer_norm(
            &width,
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            false,
        )?)
    }
}

/// `x / sqrt(mean(x²) + eps) * weight` over the last axis.
///
/// Ranks that share the axis each have a part of it; the sum of squares is that of all parts.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    /// Length of the whole axis.
    width: i64,
    /// The part of it that is here.
    part: Part,
}

impl RmsNorm {
    /// Loads `weight` of `[width]`, kept in f32.
    pub fn load(weights: &Weights, width: i64, eps: f64) -> Result<Self> {
        Self::load_part(weights, width, eps, Part::WHOLE)
    }

    /// Loads one part of `weight`.
    pub fn load_part(weights: &Weights, width: i64, eps: f64, part: Part) -> Result<Self> {
        let weights = weights.with_kind(Kind::Float);
        let weight = weights.take_part("weight", &[width], 0, part)?;
        Ok(Self {
            weight,
            eps,
            width,
            part,
        })
    }

    /// Of `weight` `[width]`, f32.
    pub fn from_weight(weight: Tensor, eps: f64) -> Self {
        Self {
            eps,
            width: weight.numel() as i64,
            part: Part::WHOLE,
            weight,
        }
    }

    /// Length of the whole axis.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Adds a difference of the whole weight.
    pub fn add_to_weight(&mut self, difference: &Tensor) -> Result<()> {
        let (first, share) = self.part.range(self.width);
        add_difference(&mut self.weight, &difference.f_narrow(0, first, share)?)
    }

    /// `[..., width]` of any kind to the same shape in f32, by the squares of what is here: the axis must be
    /// whole on this rank. No collective.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let input = input.f_to_kind(Kind::Float)?;
        let factors = self.factors(&self.squares(&input)?)?;
        Ok(input
            .f_mul(&factors.f_unsqueeze(-1)?)?
            .f_mul(&self.weight)?)
    }

    /// [`forward`](Self::forward) of `[batch, tokens, width]` in one pass where there is one.
    pub fn forward_rows(&self, input: &Tensor) -> Result<Tensor> {
        if !rows::on_host(input) {
            return self.forward(input);
        }
        let size = input.size();
        Ok(self
            .forward_heads(&input.f_contiguous()?, None, 1, None)?
            .f_view(size.as_slice())?)
    }

    /// Sums of squares over the last axis, `[batch, tokens]` f32: this rank's part of them.
    pub fn squares(&self, input: &Tensor) -> Result<Tensor> {
        if let Some(kernels) = fused::kernels(input).filter(|_| input.dim() == 3) {
            return fused::square_sums(kernels, input);
        }
        if !(rows::on_host(input) && input.is_contiguous()) {
            let squares = input.f_to_kind(Kind::Float)?.f_square()?;
            return Ok(squares.f_sum_dim_intlist([-1_i64].as_slice(), false, Kind::Float)?);
        }
        let mut size = input.size();
        let width = size.pop().unwrap_or(1) as usize;
        let mut sums = Tensor::f_empty(&size, (Kind::Float, input.device()))?;
        let source = rows::values(input);
        rows::for_each_row(rows::values_mut(&mut sums), 1, |token, sum| {
            sum[0] = sum_of_squares(&source[token * width..][..width]);
        });
        Ok(sums)
    }

    /// `1 / sqrt(squares / width + eps)` from the sums of squares of the whole axis.
    pub fn factors(&self, squares: &Tensor) -> Result<Tensor> {
        let mean = squares.f_div_scalar(self.width)?;
        Ok(mean.f_add_scalar(self.eps)?.f_rsqrt()?)
    }

    /// Normalises `[batch, tokens, heads * dim]`, splits it into heads and rotates these:
    /// `[batch, heads, tokens, dim]`, computed in f32 and rounded once to the kind of the input.
    ///
    /// Where ranks share the axis, `input` is this rank's heads, and `factors` `[batch, tokens]` f32 come
    /// from the sum of all [`squares`](Self::squares), which the caller makes. No collective here.
    pub fn forward_heads(
        &self,
        input: &Tensor,
        factors: Option<&Tensor>,
        heads: i64,
        rotary: Option<&RotaryTable>,
    ) -> Result<Tensor> {
        let (batch, tokens, width) = input.size3()?;
        let dim = width / heads;
        if let Some(rotary) = rotary {
            rotary.check(batch, tokens, dim)?;
        }
        // The loops below and the kernels know tables that all samples share.
        let is_shared = rotary.is_none_or(|rotary| rotary.batch().is_none());
        if let Some(kernels) = fused::kernels(input).filter(|_| dim % 2 == 0 && is_shared) {
            let learned = (&self.weight, self.eps);
            let kind = input.kind();
            return fused::norm_heads(kernels, input, learned, factors, heads, rotary, kind);
        }
        if !(is_shared && rows::on_host(input) && input.is_contiguous()) {
            let normed = match factors {
                None => self.forward(input)?,
                Some(factors) => input
                    .f_to_kind(Kind::Float)?
                    .f_mul(&factors.f_unsqueeze(-1)?)?
                    .f_mul(&self.weight)?,
            };
            let normed = split_heads(&normed, heads)?;
            let rotated = match rotary {
                Some(rotary) => rotary.rotate(&normed)?,
                None => normed,
            };
            return Ok(rotated.f_to_kind(input.kind())?);
        }
        let options = (Kind::Float, input.device());
        let mut output = Tensor::f_empty([batch, heads, tokens, dim], options)?;
        let source = rows::values(input);
        let weight = rows::values(&self.weight);
        let angles = rotary.map(|table| (rows::values(&table.cos), rows::values(&table.sin)));
        let (width, dim, eps) = (width as usize, dim as usize, self.eps as f32);
        let (heads, tokens) = (heads as usize, tokens as usize);
        let factors = match factors {
            Some(factors) => factors.f_contiguous()?,
            None => {
                let mut factors = Tensor::f_empty([batch, tokens as i64], options)?;
                rows::for_each_row(rows::values_mut(&mut factors), 1, |token, factor| {
                    factor[0] = root_mean_square(&source[token * width..][..width], eps);
                });
                factors
            }
        };
        let factors = rows::values(&factors);
        rows::for_each_row(rows::values_mut(&mut output), dim, |row, out| {
            // Rows of the output are ordered by sample, head and token.
            let (token, head) = (row % tokens, row / tokens % heads);
            let place = row / (tokens * heads) * tokens + token;
            let input = &source[place * width + head * dim..][..dim];
            let weight = &weight[head * dim..][..dim];
            match angles {
                None => scale_row(input, factors[place], weight, out),
                Some((cos, sin)) => {
                    let angles = [cos, sin].map(|table| &table[token * dim / 2..][..dim / 2]);
                    scale_and_rotate(input, factors[place], weight, angles, out);
                }
            }
        });
        Ok(output)
    }

    /// The learned factors, f32 `[width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Added to the mean square.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn sum_of_squares(input: &[f32]) -> f32 {
    rows::sum(input, |x| x * x)
}

/// `1 / sqrt(mean(x²) + eps)`.
#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
pub(super) fn root_mean_square(input: &[f32], eps: f32) -> f32 {
    1.0 / (rows::sum(input, |x| x * x) / input.len() as f32 + eps).sqrt()
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn scale_row(input: &[f32], factor: f32, weight: &[f32], output: &mut [f32]) {
    for ((out, &x), &weight) in output.iter_mut().zip(input).zip(weight) {
        *out = x * factor * weight;
    }
}

/// `input * factor * weight`, then adjacent pairs rotated.
#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
pub(super) fn scale_and_rotate(
    input: &[f32],
    factor: f32,
    weight: &[f32],
    [cos, sin]: [&[f32]; 2],
    output: &mut [f32],
) {
    let pairs = output.as_chunks_mut::<2>().0.iter_mut();
    let inputs = input.as_chunks::<2>().0.iter();
    let weights = weight.as_chunks::<2>().0.iter();
    for ((((out, x), w), &cos), &sin) in pairs.zip(inputs).zip(weights).zip(cos).zip(sin) {
        let (even, odd) = (x[0] * factor * w[0], x[1] * factor * w[1]);
        *out = [even * cos - odd * sin, even * sin + odd * cos];
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RotaryAxes, TokenIndex};
    use super::*;
    use crate::testing::{cosines, relative_error};
    use tch::Device;

    #[test]
    fn one_pass_equals_the_composition_of_libtorch() {
        let (batch, tokens, heads, dim) = (2, 6, 3, 24);
        let width = heads * dim;
        let input = cosines(&[batch, tokens, width], 0.3) * 3.0 + 0.7;
        let norm = RmsNorm {
            weight: cosines(&[width], 0.1) + 1.5,
            eps: 1e-6,
            width,
            part: Part::WHOLE,
        };
        let table = RotaryAxes::of_head(dim).table(&[-3, 0], 1, 3, Device::Cpu);
        let table = table.unwrap();
        let plain = split_heads(&norm.forward(&input).unwrap(), heads).unwrap();
        let found = norm.forward_heads(&input, None, heads, None).unwrap();
        assert!(relative_error(&found, &plain) < 1e-6);
        let found = norm
            .forward_heads(&input, None, heads, Some(&table))
            .unwrap();
        assert!(relative_error(&found, &table.rotate(&plain).unwrap()) < 1e-6);

        let index = (0..batch * tokens).map(|token| token % 3).collect();
        let index = TokenIndex::new(index, 3, Device::Cpu).unwrap();
        for index in [None, Some(&index)] {
            let vectors = |phase| TokenVectors {
                rows: cosines(&[3, width], phase),
                index,
            };
            let (mut scale, mut shift) = (vectors(0.2), vectors(0.9));
            if index.is_none() {
                scale.rows = scale.rows.narrow(0, 0, batch);
                shift.rows = shift.rows.narrow(0, 0, batch);
            }
            let expected = layer_norm(&input, 1e-6).unwrap() * scale.broadcast(batch).unwrap()
                + shift.broadcast(batch).unwrap();
            let found = modulated_layer_norm(&input, 1e-6, &scale, &shift, Kind::Float);
            assert!(relative_error(&found.unwrap(), &expected) < 1e-6);
        }
    }
}
