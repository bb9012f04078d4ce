//! Elementwise activations, named as in Hugging Face configs.

use serde::Deserialize;
use tch::Tensor;

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
    /// Applies the function to every element.
    pub fn apply(self, input: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Gelu => input.f_gelu("none")?,
            Self::GeluTanh => input.f_gelu("tanh")?,
            Self::QuickGelu => input.f_mul_scalar(1.702)?.f_sigmoid()?.f_mul(input)?,
            Self::Silu => input.f_silu()?,
            Self::Relu => input.f_relu()?,
        })
    }
}
