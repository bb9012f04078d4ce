//! Attention of the selector's queries to text or to frames.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::layers::{LayerNorm, Linear, merge_heads, split_heads};
use tch::{Kind, Tensor};

use super::OneStoryConfig;

/// One layer of cross-attention: queries and keys normalised before, an output projection after, and the
/// result added to the queries.
#[derive(Debug)]
pub(super) struct CrossAttention {
    query_norm: LayerNorm,
    key_norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
    head_dim: i64,
}

/// What queries find in one part of what they attend to.
///
/// Parts can be looked at one after the other: together they give what all at once would give.
#[derive(Debug)]
pub(super) struct Part {
    /// The mean of the values of this part, weighted by its own scores, `[batch, heads, queries, dim]`.
    found: Tensor,
    /// The logarithm of the sum of the exponentials of its scores, `[batch, heads, queries, 1]`.
    weight: Tensor,
}

impl CrossAttention {
    pub(super) fn load(weights: &Weights, config: &OneStoryConfig) -> Result<Self> {
        let width = config.width;
        let linear = |name: &str| Linear::load(&weights.sub(name), width, width);
        let norm = |name: &str| LayerNorm::load(&weights.sub(name), width, config.eps);
        Ok(Self {
            query_norm: norm("query_norm")?,
            key_norm: norm("key_norm")?,
            query: linear("to_q")?,
            key: linear("to_k")?,
            value: linear("to_v")?,
            output: linear("to_out")?,
            heads: width / config.head_dim,
            head_dim: config.head_dim,
        })
    }

    /// The queries `[batch, queries, width]` f32 as heads `[batch, heads, queries, dim]`, scaled.
    pub(super) fn ask(&self, queries: &Tensor) -> Result<Tensor> {
        let projected = self.query.forward(&self.query_norm.forward(queries)?)?;
        let heads = split_heads(&projected, self.heads)?;
        Ok(heads.f_mul_scalar((self.head_dim as f64).powf(-0.5))?)
    }

    /// What `asked` finds in `rows` `[batch, rows, width]` f32. `padding` `[batch, rows]` bool marks rows that
    /// nobody attends to.
    pub(super) fn look(
        &self,
        asked: &Tensor,
        rows: &Tensor,
        padding: Option<&Tensor>,
    ) -> Result<Part> {
        let normed = self.key_norm.forward(rows)?;
        let key = split_heads(&self.key.forward(&normed)?, self.heads)?;
        let value = split_heads(&self.value.forward(&normed)?, self.heads)?;
        let mut scores = asked.f_matmul(&key.f_transpose(-2, -1)?)?;
        if let Some(padding) = padding {
            let padding = padding.f_unsqueeze(1)?.f_unsqueeze(1)?;
            scores = scores.f_masked_fill(&padding, f64::NEG_INFINITY)?;
        }
        let weight = scores.f_logsumexp([-1_i64].as_slice(), true)?;
        let shares = scores.f_softmax(-1, Kind::Float)?;
        Ok(Part {
            found: shares.f_matmul(&value)?,
            weight,
        })
    }

    /// The queries `[batch, queries, width]` with what they found in all `parts` together.
    pub(super) fn add(&self, queries: &Tensor, parts: &[&Part]) -> Result<Tensor> {
        let stacked = |of: fn(&Part) -> &Tensor| -> Result<Tensor> {
            let all: Vec<&Tensor> = parts.iter().map(|part| of(part)).collect();
            Ok(Tensor::f_stack(&all, 0)?)
        };
        let shares = stacked(|part| &part.weight)?.f_softmax(0, Kind::Float)?;
        let found = stacked(|part| &part.found)?.f_mul(&shares)?;
        let found = found.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Float)?;
        let output = self.output.forward(&merge_heads(&found)?)?;
        Ok(queries.f_add(&output)?)
    }
}
