//! One layer of the tower (transformers `Dinov2Layer`).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{Activation, LayerNorm, Linear, attend, merge_heads, split_heads};
use tch::{Kind, Tensor};

use super::config::DinoConfig;

/// Attention and feed-forward, each after a norm, scaled by a learned factor for each channel, and added to the
/// stream.
#[derive(Debug)]
pub(super) struct DinoLayer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// `[width]` f32.
    scale1: Tensor,
    norm2: LayerNorm,
    feed_forward: FeedForward,
    /// `[width]` f32.
    scale2: Tensor,
    heads: i64,
}

/// The two kinds of feed-forward layers.
#[derive(Debug)]
enum FeedForward {
    /// `Dinov2MLP`.
    Plain {
        up: Linear,
        down: Linear,
        activation: Activation,
    },
    /// `Dinov2SwiGLUFFN`: the first half of what comes in gates the second.
    Gated { up: Linear, down: Linear },
}

impl FeedForward {
    fn load(weights: &Weights, config: &DinoConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.inner());
        Ok(match config.use_swiglu_ffn {
            false => Self::Plain {
                up: Linear::load(&weights.sub("fc1"), width, inner)?,
                down: Linear::load(&weights.sub("fc2"), inner, width)?,
                activation: config.hidden_act,
            },
            true => Self::Gated {
                up: Linear::load(&weights.sub("weights_in"), width, 2 * inner)?,
                down: Linear::load(&weights.sub("weights_out"), inner, width)?,
            },
        })
    }

    /// `[batch, tokens, width]` f32 to the same. Whole on one rank; no collective.
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain {
                up,
                down,
                activation,
            } => down.forward(&activation.apply(up.forward(input)?)?),
            Self::Gated { up, down } => {
                let both = up.forward(input)?;
                let halves = both.f_chunk(2, -1)?;
                down.forward(&halves[0].f_silu()?.f_mul(&halves[1])?)
            }
        }
    }
}

impl DinoLayer {
    pub(super) fn load(weights: &Weights, config: &DinoConfig) -> Result<Self> {
        let width = config.hidden_size;
        let attention = weights.sub("attention");
        let part = |name: &str| {
            let part = attention.sub("attention").sub(name);
            match config.qkv_bias {
                true => Linear::load(&part, width, width),
                false => Linear::load_without_bias(&part, width, width),
            }
        };
        let norm = |name| LayerNorm::load(&weights.sub(name), width, config.layer_norm_eps);
        let scale = |name| {
            let weights = weights.sub(name).with_kind(Kind::Float);
            weights.take("lambda1", &[width])
        };
        Ok(Self {
            norm1: norm("norm1")?,
            query: part("query")?,
            key: part("key")?,
            value: part("value")?,
            output: Linear::load(&attention.sub("output.dense"), width, width)?,
            scale1: scale("layer_scale1")?,
            norm2: norm("norm2")?,
            feed_forward: FeedForward::load(&weights.sub("mlp"), config)?,
            scale2: scale("layer_scale2")?,
            heads: config.num_attention_heads,
        })
    }

    /// `[batch, tokens, width]` f32 to the same. Whole on one rank; no collective.
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(hidden)?;
        let heads = |layer: &Linear| split_heads(&layer.forward(&normed)?, self.heads);
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let attended = attend(&query, &key, &value, None, None)?;
        let attended = self.output.forward(&merge_heads(&attended)?)?;
        let hidden = hidden.f_add(&attended.f_mul(&self.scale1)?)?;
        let inner = self.feed_forward.forward(&self.norm2.forward(&hidden)?)?;
        Ok(hidden.f_add(&inner.f_mul(&self.scale2)?)?)
    }
}
