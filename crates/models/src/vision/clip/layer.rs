//! One layer of a tower (transformers `CLIPEncoderLayer`), for pictures and for text.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{
    Activation, LayerNorm, Linear, attend, attend_causally, merge_heads, split_heads,
};
use tch::Tensor;

/// What the layers of a tower have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerShape {
    /// Width of the residual stream.
    pub(crate) width: i64,
    /// Hidden width of the feed-forward part.
    pub(crate) inner: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Activation of the feed-forward part.
    pub(crate) activation: Activation,
    /// Epsilon of the norms.
    pub(crate) eps: f64,
}

/// Attention and feed-forward, each after a norm and added to the stream.
#[derive(Debug)]
pub(crate) struct ClipLayer {
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
    pub(crate) fn load(weights: &Weights, shape: LayerShape) -> Result<Self> {
        let LayerShape { width, inner, .. } = shape;
        let attention = weights.sub("self_attn");
        let square = |name| Linear::load(&attention.sub(name), width, width);
        let norm = |name| LayerNorm::load(&weights.sub(name), width, shape.eps);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            query: square("q_proj")?,
            key: square("k_proj")?,
            value: square("v_proj")?,
            output: square("out_proj")?,
            norm2: norm("layer_norm2")?,
            up: Linear::load(&weights.sub("mlp.fc1"), width, inner)?,
            down: Linear::load(&weights.sub("mlp.fc2"), inner, width)?,
            activation: shape.activation,
            heads: shape.heads,
        })
    }

    /// `[batch, tokens, width]` f32 to the same; every token sees all. Whole on one rank; no collective.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        self.forward_with(hidden, |query, key, value| {
            attend(query, key, value, None, None)
        })
    }

    /// As [`forward`](Self::forward); every token sees itself and those before it.
    pub(crate) fn forward_causally(&self, hidden: &Tensor) -> Result<Tensor> {
        self.forward_with(hidden, attend_causally)
    }

    fn forward_with(
        &self,
        hidden: &Tensor,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let normed = self.norm1.forward(hidden)?;
        let heads = |layer: &Linear| split_heads(&layer.forward(&normed)?, self.heads);
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let attended = attend(&query, &key, &value)?;
        let hidden = hidden.f_add(&self.output.forward(&merge_heads(&attended)?)?)?;
        let inner = self.up.forward(&self.norm2.forward(&hidden)?)?;
        let inner = self.activation.apply(inner)?;
        Ok(hidden.f_add(&self.down.forward(&inner)?)?)
    }
}
