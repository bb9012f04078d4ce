//! Normalisations. Statistics and products are f32.

use tch::{Kind, Tensor};

use crate::checkpoint::Weights;
use crate::error::Result;

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

    /// `[..., width]` to the same shape in f32.
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
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads `weight` of `[width]`, kept in f32.
    pub fn load(weights: &Weights, width: i64, eps: f64) -> Result<Self> {
        let weight = weights.with_kind(Kind::Float).take("weight", &[width])?;
        Ok(Self { weight, eps })
    }

    /// `[..., width]` to the same shape in f32.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let input = input.f_to_kind(Kind::Float)?;
        let squares = input
            .f_square()?
            .f_mean_dim([-1_i64].as_slice(), true, Kind::Float)?;
        let scale = squares.f_add_scalar(self.eps)?.f_rsqrt()?;
        Ok(input.f_mul(&scale)?.f_mul(&self.weight)?)
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
