//! One transformer block (specification `wan22`, section 1.3).

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::Result;
use storyloom_nn::gradients;
use storyloom_nn::layers::{
    Activation, LayerMut, LayerNorm, Linear, Part, RealTokens, RmsNorm, RotaryTable, TokenIndex,
    TokenVectors, add_gated, attend, attend_among, merge_heads, modulated_layer_norm, split_heads,
    timed,
};
use storyloom_nn::shard::{Peers, PendingSum, Shard};
use tch::{Kind, Tensor};

use super::WanConfig;

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
    /// Row of each token; `None`: row `b` for every token of sample `b`.
    pub(super) index: Option<&'a TokenIndex>,
}

/// Where the tokens of this rank stand.
pub(super) struct Positions {
    pub(super) rotary: RotaryTable,
    /// Tokens of a sample on all ranks together.
    pub(super) tokens: i64,
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
    pub(super) fn load(weights: &Weights, config: &WanConfig, shard: &Shard) -> Result<Self> {
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
            self_attention: SelfAttention::load(&weights.sub("attn1"), config, shard)?,
            cross_norm,
            cross_attention: CrossAttention::load(&weights.sub("attn2"), config, &shard.tensor)?,
            feed_forward: FeedForward::load(&weights.sub("ffn.net"), config, &shard.tensor)?,
            eps: config.eps,
        })
    }

    /// `hidden` `[batch, tokens, model]` f32, this rank's tokens, to the same. Its parts run the
    /// collectives of the ranks that share the tokens or the layer.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor,
        modulation: &Modulation,
        positions: &Positions,
        context: &BlockContext,
    ) -> Result<Tensor> {
        let vectors = |which, plus| modulation.vectors(&self.table, which, plus);
        let modulated = |hidden: &Tensor, shift, scale, next: &Linear| {
            timed(Part::Elementwise, || {
                let (scale, shift) = (vectors(scale, 1.0)?, vectors(shift, 0.0)?);
                modulated_layer_norm(hidden, self.eps, &scale, &shift, next.kind())
            })
        };
        let gated = |hidden: Tensor, value: &Tensor, gate| {
            timed(Part::Elementwise, || {
                add_gated(hidden, value, &vectors(gate, 0.0)?)
            })
        };

        let normed = modulated(&hidden, 0, 1, &self.self_attention.projections.query)?;
        let (rotary, tokens) = (&positions.rotary, positions.tokens);
        let attended = self.self_attention.forward(&normed, rotary, tokens)?;
        hidden = gated(hidden, &attended, 2)?;

        let kind = self.cross_attention.projections.query.kind();
        let normed = timed(Part::Elementwise, || match &self.cross_norm {
            Some(norm) => norm.forward_to(&hidden, kind),
            None => Ok(hidden.shallow_clone()),
        })?;
        let attended = self.cross_attention.forward(&normed, context)?;
        hidden = timed(Part::Elementwise, || gradients::add(hidden, &attended))?;

        let normed = modulated(&hidden, 3, 4, &self.feed_forward.first)?;
        let fed = self.feed_forward.forward(&normed)?;
        gated(hidden, &fed, 5)
    }

    /// Keys and values of the text (and image) for this block; the same at every timestep.
    pub(super) fn context(&self, text: &Tensor, image: Option<&Tensor>) -> Result<BlockContext> {
        self.cross_attention.context(text, image)
    }

    /// As [`context`](Self::context) of text alone, with `bias` `[1, 1, 1, rows]` added to the
    /// scores.
    pub(super) fn biased_context(&self, text: &Tensor, bias: &Tensor) -> Result<BlockContext> {
        let mut context = self.cross_attention.context(text, None)?;
        context.text_bias = Some(bias.shallow_clone());
        Ok(context)
    }

    /// The layers that adapters may change, by their diffusers names inside the block.
    pub(super) fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        let (part, rest) = name.split_once('.').unwrap_or((name, ""));
        match (part, rest) {
            ("attn1", _) => self.self_attention.projections.layer_mut(rest),
            ("attn2", _) => self.cross_attention.layer_mut(rest),
            ("ffn", "net.0.proj") => Some(LayerMut::Linear(&mut self.feed_forward.first)),
            ("ffn", "net.2") => Some(LayerMut::Linear(&mut self.feed_forward.second)),
            ("norm2", "") => self.cross_norm.as_mut().map(LayerMut::LayerNorm),
            ("scale_shift_table", "") => Some(LayerMut::Table(&mut self.table)),
            _ => None,
        }
    }
}

/// What every attention of a block has, for the heads of this rank.
#[derive(Debug)]
struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: RmsNorm,
    key_norm: RmsNorm,
    /// Of this rank.
    heads: i64,
    /// The ranks that hold the other heads.
    peers: Peers,
}

impl Projections {
    fn load(weights: &Weights, config: &WanConfig, peers: &Peers) -> Result<Self> {
        let (width, part) = (config.width(), peers.part());
        let linear = |name: &str| Linear::load_outputs(&weights.sub(name), width, width, part);
        let norm = |name: &str| RmsNorm::load_part(&weights.sub(name), width, config.eps, part);
        Ok(Self {
            query: linear("to_q")?,
            key: linear("to_k")?,
            value: linear("to_v")?,
            output: Linear::load_inputs(&weights.sub("to_out.0"), width, width, peers)?,
            query_norm: norm("norm_q")?,
            key_norm: norm("norm_k")?,
            heads: part.range(config.num_attention_heads).1,
            peers: peers.clone(),
        })
    }

    /// Starts to sum the squares of `projected`, whose channels lie on several ranks; `None` where
    /// one rank has them all.
    fn start_squares(&self, projected: &[(&Tensor, &RmsNorm)]) -> Result<Option<PendingSum>> {
        if self.peers.part().of == 1 {
            return Ok(None);
        }
        let squares: Vec<Tensor> = projected
            .iter()
            .map(|(input, norm)| norm.squares(input))
            .collect::<Result<_>>()?;
        Ok(Some(self.peers.start_sum(Tensor::f_stack(&squares, 0)?)?))
    }

    /// The heads laid side by side, and the last product.
    fn leave(&self, attended: &Tensor) -> Result<Tensor> {
        let merged = timed(Part::Elementwise, || merge_heads(attended))?;
        timed(Part::Outputs, || self.output.forward_rounded(&merged))
    }

    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        Some(LayerMut::Linear(match name {
            "to_q" => &mut self.query,
            "to_k" => &mut self.key,
            "to_v" => &mut self.value,
            "to_out.0" => &mut self.output,
            "norm_q" => return Some(LayerMut::RmsNorm(&mut self.query_norm)),
            "norm_k" => return Some(LayerMut::RmsNorm(&mut self.key_norm)),
            _ => return None,
        }))
    }
}

#[derive(Debug)]
struct SelfAttention {
    projections: Projections,
    /// The ranks that hold the other tokens.
    sequence: Peers,
}

impl SelfAttention {
    fn load(weights: &Weights, config: &WanConfig, shard: &Shard) -> Result<Self> {
        Ok(Self {
            projections: Projections::load(weights, config, &shard.tensor)?,
            sequence: shard.sequence.clone(),
        })
    }

    /// `hidden` `[batch, tokens, model]`, normalised, this rank's tokens, to the same in f32. Ranks that
    /// share the tokens exchange them for heads and back; those that share the layer sum the squares for
    /// the norms, and the result.
    /// `tokens` is how many there are on all ranks together.
    fn forward(&self, hidden: &Tensor, rotary: &RotaryTable, tokens: i64) -> Result<Tensor> {
        let p = &self.projections;
        let project = |linear: &Linear| timed(Part::Inputs, || linear.forward_rounded(hidden));
        let (query, key) = (project(&p.query)?, project(&p.key)?);
        // The sums travel while the values are computed.
        let squares = p.start_squares(&[(&query, &p.query_norm), (&key, &p.key_norm)])?;
        let value = project(&p.value)?;
        let squares = squares.map(PendingSum::wait).transpose()?;
        let heads = |projected: &Tensor, norm: &RmsNorm, which: i64| {
            let factors = squares
                .as_ref()
                .map(|squares| norm.factors(&squares.f_select(0, which)?))
                .transpose()?;
            timed(Part::Elementwise, || {
                norm.forward_heads(projected, factors.as_ref(), p.heads, Some(rotary))
            })
        };
        let query = heads(&query, &p.query_norm, 0)?;
        let key = heads(&key, &p.key_norm, 1)?;
        let value = split_heads(&value, p.heads)?;
        // The last tokens only fill the last rank up.
        let real = RealTokens::First(tokens);
        let attended = attend_among(&self.sequence, [query, key, value], real)?;
        p.leave(&attended)
    }
}

/// Keys and values of a block's cross-attention, `[batch, heads, rows, dim]`.
#[derive(Debug)]
pub(super) struct BlockContext {
    text: (Tensor, Tensor),
    /// Added to the scores of the text.
    text_bias: Option<Tensor>,
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
    fn load(weights: &Weights, config: &WanConfig, peers: &Peers) -> Result<Self> {
        let (width, part) = (config.width(), peers.part());
        let image = config
            .added_kv_proj_dim
            .map(|inputs| -> Result<ImageProjections> {
                let linear = |name| Linear::load_outputs(&weights.sub(name), inputs, width, part);
                let norm = weights.sub("norm_added_k");
                Ok(ImageProjections {
                    key: linear("add_k_proj")?,
                    value: linear("add_v_proj")?,
                    key_norm: RmsNorm::load_part(&norm, width, config.eps, part)?,
                })
            });
        let image = image.transpose()?;
        Ok(Self {
            projections: Projections::load(weights, config, peers)?,
            image,
        })
    }

    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>> {
        let Some(image) = &mut self.image else {
            return self.projections.layer_mut(name);
        };
        match name {
            "add_k_proj" => Some(LayerMut::Linear(&mut image.key)),
            "add_v_proj" => Some(LayerMut::Linear(&mut image.value)),
            "norm_added_k" => Some(LayerMut::RmsNorm(&mut image.key_norm)),
            _ => self.projections.layer_mut(name),
        }
    }

    fn context(&self, text: &Tensor, image: Option<&Tensor>) -> Result<BlockContext> {
        let p = &self.projections;
        let pair = |rows: &Tensor, key: &Linear, norm: &RmsNorm, value: &Linear| {
            Ok((
                self.normed(&key.forward_rounded(rows)?, norm)?,
                split_heads(&value.forward_rounded(rows)?, p.heads)?,
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
            text_bias: None,
            image: image.transpose()?,
        })
    }

    /// Normalised heads without positions.
    fn normed(&self, projected: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        let p = &self.projections;
        let squares = p.start_squares(&[(projected, norm)])?;
        let squares = squares.map(PendingSum::wait).transpose()?;
        let factors = squares
            .map(|squares| norm.factors(&squares.f_select(0, 0)?))
            .transpose()?;
        timed(Part::Elementwise, || {
            norm.forward_heads(projected, factors.as_ref(), p.heads, None)
        })
    }

    /// `hidden` `[batch, tokens, model]`, normalised, to the same in f32: this rank's tokens and heads;
    /// the ranks that share the layer sum the squares for the norms, and the result. No rotary
    /// positions, no mask; text and image are two attentions whose results are added.
    fn forward(&self, hidden: &Tensor, context: &BlockContext) -> Result<Tensor> {
        let p = &self.projections;
        let query = timed(Part::Inputs, || p.query.forward_rounded(hidden))?;
        let query = self.normed(&query, &p.query_norm)?;
        let attended = timed(Part::CrossAttention, || {
            let (key, value) = &context.text;
            let attended = attend(&query, key, value, context.text_bias.as_ref(), None)?;
            Ok(match &context.image {
                Some((key, value)) => attended.f_add(&attend(&query, key, value, None, None)?)?,
                None => attended,
            })
        })?;
        p.leave(&attended)
    }
}

#[derive(Debug)]
struct FeedForward {
    first: Linear,
    second: Linear,
}

impl FeedForward {
    fn load(weights: &Weights, config: &WanConfig, peers: &Peers) -> Result<Self> {
        let (width, hidden) = (config.width(), config.ffn_dim);
        let first = weights.sub("0.proj");
        Ok(Self {
            first: Linear::load_outputs(&first, width, hidden, peers.part())?,
            second: Linear::load_inputs(&weights.sub("2"), hidden, width, peers)?,
        })
    }

    /// `[batch, tokens, model]`, normalised, to the same in f32: this rank's tokens. The hidden
    /// channels are this rank's part; one sum over the ranks that share the layer.
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let product = |linear: &Linear, input: &Tensor| {
            timed(Part::FeedForward, || linear.forward_rounded(input))
        };
        let hidden = product(&self.first, input)?;
        let hidden = timed(Part::Elementwise, || Activation::GeluTanh.apply(hidden))?;
        product(&self.second, &hidden)
    }
}
