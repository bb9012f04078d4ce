//! Elementwise activations, named as in Hugging Face configs.

use multiversion::multiversion;
use serde::Deserialize;
use tch::Tensor;

use super::rows;
use crate::error::Result;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Activation {
    /// `x Φ(x)` with the error function.
    #[serde(rename = "gelu")]
    Gelu,
    /// The tanh approximation of GELU.
    #[serde(
        rename = "gelu_new",
        alias = "gelu_pytorch_tanh",
        alias = "gelu-approximate"
    )]
    GeluTanh,
    /// `x sigmoid(1.702 x)`, of the original CLIP.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// `x sigmoid(x)`.
    #[serde(rename = "silu", alias = "swish")]
    Silu,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
}

impl Activation {
    /// Applies the function to every element of a tensor that nothing else uses.
    pub fn apply(self, mut input: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Gelu => input.f_gelu("none")?,
            Self::GeluTanh if rows::on_host(&input) && input.is_contiguous() => {
                let width = input.size().last().map_or(1, |&width| width as usize);
                rows::for_each_row(rows::values_mut(&mut input), width, |_, row| gelu_tanh(row));
                input
            }
            Self::GeluTanh => input.f_gelu_("tanh")?,
            Self::QuickGelu => input.f_mul_scalar(1.702)?.f_sigmoid()?.f_mul(&input)?,
            Self::Silu => input.f_silu()?,
            Self::Relu => input.f_relu()?,
        })
    }
}

/// `x / 2 (1 + tanh(u))` is `x / (1 + exp(-2 u))`.
#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn gelu_tanh(row: &mut [f32]) {
    const MINUS_TWO_ROOT: f32 = -1.595_769;
    for value in row {
        let x = *value;
        let inner = x + 0.044_715 * (x * x * x);
        *value = x / (1.0 + rows::exp(MINUS_TWO_ROOT * inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn gelu_tanh_equals_libtorch() {
        let input = Tensor::arange(40_003, (Kind::Float, Device::Cpu)) * 1e-3 - 20.0;
        // In f64: libtorch's own f32 form loses the small values of negative inputs.
        let expected = input.to_kind(Kind::Double).gelu("tanh");
        let found = Activation::GeluTanh.apply(input).unwrap();
        let error = (found - &expected).abs() / (expected.abs() + 1e-3);
        assert!(error.max().double_value(&[]) < 2e-6, "{error}");
        let special = Tensor::from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]);
        let found = Vec::<f32>::try_from(Activation::GeluTanh.apply(special).unwrap()).unwrap();
        assert!(found[0].is_nan() && found[1] == f32::INFINITY, "{found:?}");
        assert_eq!(found[3], 0.0);
    }
}
