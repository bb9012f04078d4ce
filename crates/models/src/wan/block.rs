//! One transformer block (specification `wan22`, section 1.3).

use tch::{Kind, Tensor};

use super::WanConfig;
use crate::checkpoint::Weights;
use crate::error::Result;
use crate::layers::{
    Activation, LayerNorm, Linear, RmsNorm, RotaryTable, TokenVectors, attend, merge_heads,
    modulated_layer_norm, split_heads,
};

/// Self-attention, cross-attention and feed-forward, modulated by the timestep.
#[derive(Debug)]
pub(super) struct WanBlock {
    table: Tensor,
    self_attention: SelfAttention,
    cross_norm: Option<LayerNorm>,
    cross_attention: CrossAttention,
    feed_forward: FeedForward,
    eps: f64,
}

/// The six modulation vectors of the block for the tokens of a sample.
///
/// All tokens of a sample share one row, or `index` names the row of each token.
pub(super) struct Modulation<'a> {
    /// `[rows, 6, model]` in f32.
    pub(super) rows: &'a Tensor,
    /// Row of each token `[batch * tokens]`; `None`: row `b` for every token of sample `b`.
    pub(super) index: Option<&'a [i64]>,
}

impl Modulation<'_> {
    /// `table[which] + rows[.., which]`, and `plus`.
    fn vectors(&self, table: &Tensor, which: i64, plus: f64) -> Result<TokenVectors<'_>> {
        let rows = self.rows.f_select(1, which)?;
        Ok(TokenVectors {
            rows: rows.f_add(&table.f_select(1, which)?)?.f_add_scalar(plus)?,
            index: self.index,
        })
    }
}

impl WanBlock {
    pub(super) fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let width = config.width();
        let table = weights
            .with_kind(Kind::Float)
            .take("scale_shift_table", &[1, 6, width])?;
        let cross_norm = config
            .cross_attn_norm
            .then(|| LayerNorm::load(&weights.sub("norm2"), width, config.eps))
            .transpose()?;
        Ok(Self {
            table,
            self_attention: SelfAttention::load(&weights.sub("attn1"), config)?,
            cross_norm,
            cross_attention: CrossAttention::load(&weights.sub("attn2"), config)?,
            feed_forward: FeedForward::load(&weights.sub("ffn.net"), config)?,
            eps: config.eps,
        })
    }

    /// `hidden` `[batch, tokens, model]` f32 to the same.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor,
        modulation: &Modulation,
        rotary: &RotaryTable,
        context: &BlockContext,
    ) -> Result<Tensor> {
        let batch = hidden.size()[0];
        let vectors = |which, plus| modulation.vectors(&self.table, which, plus);
        let modulated = |hidden: &Tensor, shift, scale| {
            modulated_layer_norm(
                hidden,
                self.eps,
                &vectors(scale, 1.0)?,
                &vectors(shift, 0.0)?,
            )
        };
        let gate = |which| vectors(which, 0.0)?.broadcast(batch);

        let attended = self
            .self_attention
            .forward(&modulated(&hidden, 0, 1)?, rotary)?;
        hidden = hidden.f_addcmul_(&attended, &gate(2)?)?;

        let normed = match &self.cross_norm {
            Some(norm) => norm.forward(&hidden)?,
            None => hidden.shallow_clone(),
        };
        hidden = hidden.f_add_(&self.cross_attention.forward(&normed, context)?)?;

        let fed = self.feed_forward.forward(&modulated(&hidden, 3, 4)?)?;
        Ok(hidden.f_addcmul_(&fed, &gate(5)?)?)
    }

    /// Keys and values of the text (and image) for this block; the same at every timestep.
    pub(super) fn context(&self, text: &Tensor, image: Option<&Tensor>) -> Result<BlockContext> {
        self.cross_attention.context(text, image)
    }

    /// The layers that a LoRA may change, by their diffusers names inside the block.
    pub(super) fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        let (part, rest) = name.split_once('.')?;
        match part {
            "attn1" => self.self_attention.projections.linear_mut(rest),
            "attn2" => self.cross_attention.projections.linear_mut(rest),
            "ffn" => match rest {
                "net.0.proj" => Some(&mut self.feed_forward.first),
                "net.2" => Some(&mut self.feed_forward.second),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What every attention of a block has.
#[derive(Debug)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: RmsNorm,
    key_norm: RmsNorm,
    heads: i64,
}

impl Projections {
    fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let width = config.width();
        let linear = |name: &str| Linear::load(&weights.sub(name), width, width);
        let norm = |name: &str| RmsNorm::load(&weights.sub(name), width, config.eps);
        Ok(Self {
            query: linear("to_q")?,
            key: linear("to_k")?,
            value: linear("to_v")?,
            output: linear("to_out.0")?,
            query_norm: norm("norm_q")?,
            key_norm: norm("norm_k")?,
            heads: config.num_attention_heads,
        })
    }

    fn linear_mut(&mut self, name: &str) -> Option<&mut Linear> {
        Some(match name {
            "to_q" => &mut self.query,
            "to_k" => &mut self.key,
            "to_v" => &mut self.value,
            "to_out.0" => &mut self.output,
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct SelfAttention {
    projections: Projections,
}

impl SelfAttention {
    fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        Ok(Self {
            projections: Projections::load(weights, config)?,
        })
    }

    fn forward(&self, hidden: &Tensor, rotary: &RotaryTable) -> Result<Tensor> {
        let p = &self.projections;
        let heads = |projection: &Linear, norm: &RmsNorm| {
            norm.forward_heads(&projection.forward(hidden)?, p.heads, Some(rotary))
        };
        let query = heads(&p.query, &p.query_norm)?;
        let key = heads(&p.key, &p.key_norm)?;
        let value = split_heads(&p.value.forward(hidden)?, p.heads)?;
        let attended = attend(&query, &key, &value, None, None)?;
        p.output.forward(&merge_heads(&attended)?)
    }
}

/// Keys and values of a block's cross-attention, `[batch, heads, rows, dim]`.
#[derive(Debug)]
pub(super) struct BlockContext {
    text: (Tensor, Tensor),
    image: Option<(Tensor, Tensor)>,
}

#[derive(Debug)]
struct CrossAttention {
    projections: Projections,
    image: Option<ImageProjections>,
}

/// The second pair of keys and values, for image tokens.
#[derive(Debug)]
struct ImageProjections {
    key: Linear,
    value: Linear,
    key_norm: RmsNorm,
}

impl CrossAttention {
    fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let width = config.width();
        // Old exports carry a query norm of the image branch that nothing uses.
        weights.ignore("norm_added_q.weight");
        let image = config
            .added_kv_proj_dim
            .map(|inputs| -> Result<ImageProjections> {
                Ok(ImageProjections {
                    key: Linear::load(&weights.sub("add_k_proj"), inputs, width)?,
                    value: Linear::load(&weights.sub("add_v_proj"), inputs, width)?,
                    key_norm: RmsNorm::load(&weights.sub("norm_added_k"), width, config.eps)?,
                })
            });
        let image = image.transpose()?;
        Ok(Self {
            projections: Projections::load(weights, config)?,
            image,
        })
    }

    fn context(&self, text: &Tensor, image: Option<&Tensor>) -> Result<BlockContext> {
        let p = &self.projections;
        let pair = |rows: &Tensor, key: &Linear, norm: &RmsNorm, value: &Linear| {
            Ok((
                norm.forward_heads(&key.forward(rows)?, p.heads, None)?,
                split_heads(&value.forward(rows)?, p.heads)?,
            ))
        };
        let image = match (image, &self.image) {
            (Some(rows), Some(added)) => {
                Some(pair(rows, &added.key, &added.key_norm, &added.value))
            }
            _ => None,
        };
        let image: Option<Result<(Tensor, Tensor)>> = image;
        Ok(BlockContext {
            text: pair(text, &p.key, &p.key_norm, &p.value)?,
            image: image.transpose()?,
        })
    }

    /// No rotary positions, no mask; text and image are two attentions whose results are added.
    fn forward(&self, hidden: &Tensor, context: &BlockContext) -> Result<Tensor> {
        let p = &self.projections;
        let query = p
            .query_norm
            .forward_heads(&p.query.forward(hidden)?, p.heads, None)?;
        let (key, value) = &context.text;
        let mut attended = attend(&query, key, value, None, None)?;
        if let Some((key, value)) = &context.image {
            attended = attended.f_add(&attend(&query, key, value, None, None)?)?;
        }
        p.output.forward(&merge_heads(&attended)?)
    }
}

#[derive(Debug)]
struct FeedForward {
    first: Linear,
    second: Linear,
}

impl FeedForward {
    fn load(weights: &Weights, config: &WanConfig) -> Result<Self> {
        let (width, hidden) = (config.width(), config.ffn_dim);
        Ok(Self {
            first: Linear::load(&weights.sub("0.proj"), width, hidden)?,
            second: Linear::load(&weights.sub("2"), hidden, width)?,
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.second
            .forward(&Activation::GeluTanh.apply(self.first.forward(input)?)?)
    }
}
