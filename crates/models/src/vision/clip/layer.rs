//! One layer of the tower (transformers `CLIPEncoderLayer`).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{Activation, LayerNorm, Linear, attend, merge_heads, split_heads};
use tch::Tensor;

use super::config::ClipVisionConfig;

/// Attention and feed-forward, each after a norm and added to the stream.
#[derive(Debug)]
pub(super) struct ClipLayer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    activation: Activation,
    heads: i64,
}

impl ClipLayer {
    pub(super) fn load(weights: &Weights, config: &ClipVisionConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = weights.sub("self_attn");
        let square = |name| Linear::load(&attention.sub(name), width, width);
        let norm = |name| LayerNorm::load(&weights.sub(name), width, config.layer_norm_eps);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            query: square("q_proj")?,
            key: square("k_proj")?,
            value: square("v_proj")?,
            output: square("out_proj")?,
            norm2: norm("layer_norm2")?,
            up: Linear::load(&weights.sub("mlp.fc1"), width, inner)?,
            down: Linear::load(&weights.sub("mlp.fc2"), inner, width)?,
            activation: config.hidden_act,
            heads: config.num_attention_heads,
        })
    }

    /// `[batch, tokens, width]` f32 to the same. Whole on one rank; no collective.
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(hidden)?;
        let heads = |layer: &Linear| split_heads(&layer.forward(&normed)?, self.heads);
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let attended = attend(&query, &key, &value, None, None)?;
        let hidden = hidden.f_add(&self.output.forward(&merge_heads(&attended)?)?)?;
        let inner = self.up.forward(&self.norm2.forward(&hidden)?)?;
        let inner = self.activation.apply(inner)?;
        Ok(hidden.f_add(&self.down.forward(&inner)?)?)
    }
}
