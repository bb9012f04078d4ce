//! The network: embedding, blocks, final norm and output layer.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{Linear, RmsNorm};
use storyloom_nn::shard::Peers;
use tch::{Device, Kind, Tensor};

use super::attention::{Attention, Pass, Sight, key_part};
use super::cache::{CacheSlots, KvCache};
use super::config::{Family, LanguageConfig};
use super::feed_forward::FeedForward;
use super::rotary::Rotary;

/// What a forward starts from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Token ids, i64 `[batch, tokens]`.
    Tokens(&'a Tensor),
    /// Rows in place of embedded tokens, `[batch, tokens, width]`.
    Embeddings(&'a Tensor),
}

/// Everything a forward takes.
#[derive(Debug)]
pub struct ForwardArgs<'a> {
    /// The tokens, or what stands for them.
    pub input: Input<'a>,
    /// Positions, i64 `[axes, batch, tokens]`; one axis serves for three equal ones. `None`: they
    /// go on from the number of tokens in the cache.
    pub positions: Option<&'a Tensor>,
    /// Who sees whom, `[batch or 1, heads or 1, tokens, tokens in the cache + tokens]`: true or
    /// false, or f32 added to the scores. The cache is as long as that of the longest sequence.
    /// `None`: every token sees itself and those before it.
    pub mask: Option<&'a Tensor>,
    /// Where keys and values of the tokens are kept; `None`: nowhere.
    pub cache: Option<CacheSlots<'a>>,
}

impl<'a> ForwardArgs<'a> {
    /// Tokens from position 0 on, without a cache.
    pub fn of_tokens(tokens: &'a Tensor) -> Self {
        Self {
            input: Input::Tokens(tokens),
            positions: None,
            mask: None,
            cache: None,
        }
    }
}

/// A decoder-only transformer, or this rank's part of it.
#[derive(Debug)]
pub struct Decoder {
    config: LanguageConfig,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    /// The ranks that hold the other parts of the vocabulary, where it is shared.
    vocabulary: Peers,
    rotary: Rotary,
    key_heads: i64,
}

/// One block: attention and a feed-forward layer, each behind a norm.
#[derive(Debug)]
pub(super) struct Block {
    attention_norm: RmsNorm,
    attention: Attention,
    feed_norm: RmsNorm,
    feed_forward: FeedForward,
}

impl Block {
    /// Takes the tensors of block `index` from `weights`, its place, or the part that `peers` leave to this rank.
    pub(super) fn load(
        weights: &Weights,
        config: &LanguageConfig,
        peers: &Peers,
        index: i64,
    ) -> Result<Self> {
        let norm =
            |name: &str| RmsNorm::load(&weights.sub(name), config.hidden_size, config.norm_eps);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::load(&weights.sub("self_attn"), config, peers)?,
            feed_norm: norm("post_attention_layernorm")?,
            feed_forward: FeedForward::load(&weights.sub("mlp"), config, peers, index)?,
        })
    }

    /// `hidden` `[batch, tokens, width]` f32 to the same; `index` is the number of the block in the cache.
    /// Two sums over the ranks that share the model.
    pub(super) fn forward(
        &self,
        mut hidden: Tensor,
        pass: &mut Pass,
        index: usize,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward_rows(&hidden)?;
        let attended = self.attention.forward(&normed, pass, index)?;
        hidden = gradients::add(hidden, &attended)?;
        let normed = self.feed_norm.forward_rows(&hidden)?;
        gradients::add(hidden, &self.feed_forward.forward(&normed)?)
    }
}

/// The places of the text model and of its output layer in the files of a family.
fn places<'a>(weights: &Weights<'a>, family: Family) -> (Weights<'a>, Weights<'a>) {
    let newer = weights.sub("model.language_model");
    let text = match family == Family::Qwen25Vl && newer.has("embed_tokens.weight") {
        true => newer,
        false => weights.sub("model"),
    };
    (text, weights.sub("lm_head"))
}

impl Decoder {
    /// Takes all tensors of the text model from `weights`, the root of its files, or the part that
    /// `peers` leave to this rank.
    ///
    /// # Errors
    /// The ranks cannot share the heads or the feed-forward layers.
    pub fn load(weights: &Weights, config: LanguageConfig, peers: &Peers) -> Result<Self> {
        let (text, head) = places(weights, config.family);
        let shape = [config.vocab_size, config.hidden_size];
        let embedding = text.take("embed_tokens.weight", &shape)?;
        let vocabulary = match config.vocab_size % peers.part().of {
            0 => peers.clone(),
            _ => Peers::default(),
        };
        let part = vocabulary.part();
        let head = if config.tied {
            head.ignore("weight");
            let (first, share) = part.range(config.vocab_size);
            Linear::from_tensors(embedding.f_narrow(0, first, share)?, None)
        } else {
            let [outputs, inputs] = shape;
            Linear::load_outputs_with(&head, inputs, outputs, part, false)?
        };
        let block = |index| Block::load(&text.sub("layers").sub(index), &config, peers, index);
        Ok(Self {
            blocks: (0..config.blocks).map(block).collect::<Result<_>>()?,
            norm: RmsNorm::load(&text.sub("norm"), config.hidden_size, config.norm_eps)?,
            rotary: Rotary::new(&config.rotary, weights.target().device)?,
            key_heads: key_part(&config, peers.part())?.range(config.key_heads).1,
            embedding,
            head,
            vocabulary,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// An empty cache for `slots` sequences.
    pub fn cache(&self, slots: usize) -> Result<KvCache> {
        let options = (self.head.kind(), self.device());
        KvCache::new(&self.config, self.key_heads, slots, options)
    }

    /// Rows of the embedding of `tokens`, i64 `[batch, tokens]`: f32 `[batch, tokens, width]`.
    ///
    /// # Errors
    /// An id that is not in the vocabulary.
    pub fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        let size = tokens.size();
        if size.len() != 2 || size.contains(&0) {
            let reason = format!("[batch, tokens] is needed, found {size:?}");
            return Err(ModelError::input("tokens", reason));
        }
        let tokens = tokens.f_to_kind(Kind::Int64)?;
        let (low, high) = (
            tokens.f_min()?.int64_value(&[]),
            tokens.f_max()?.int64_value(&[]),
        );
        if low < 0 || high >= self.config.vocab_size {
            let reason = format!(
                "ids {low} to {high}, vocabulary of {}",
                self.config.vocab_size
            );
            return Err(ModelError::input("tokens", reason));
        }
        let tokens = tokens.f_to_device(self.device())?;
        let rows = Tensor::f_embedding(&self.embedding, &tokens, -1, false, false)?;
        Ok(rows.f_to_kind(Kind::Float)?)
    }

    /// Token ids `[batch, tokens]` or embeddings `[batch, tokens, width]` to the hidden states after the
    /// final norm, f32 `[batch, tokens, width]`, whole on every rank.
    ///
    /// With a cache, its slots then hold the new tokens as well. All ranks that share the model
    /// call it with the same arguments: two sums over them for each block.
    pub fn forward(&self, args: ForwardArgs) -> Result<Tensor> {
        let _guard = gradients::guard();
        let mut hidden = match args.input {
            Input::Tokens(tokens) => self.embed(tokens)?,
            // A copy: the blocks add to it in place.
            Input::Embeddings(rows) => {
                let rows = rows.f_to_device(self.device())?.f_to_kind(Kind::Float)?;
                rows.f_contiguous()?.f_add_scalar(0.0)?
            }
        };
        let (batch, tokens, width) = hidden.size3()?;
        if width != self.config.hidden_size || batch * tokens == 0 {
            let reason = format!("{:?}, width is {}", hidden.size(), self.config.hidden_size);
            return Err(ModelError::input("embeddings", reason));
        }
        let mut pass = self.pass(args, [batch, tokens])?;
        for (index, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(hidden, &mut pass, index)?;
        }
        if let Some(CacheSlots { cache, slots }) = &mut pass.cache {
            cache.advance(slots, tokens);
        }
        self.norm.forward_rows(&hidden)
    }

    fn pass<'a>(&self, args: ForwardArgs<'a>, [batch, tokens]: [i64; 2]) -> Result<Pass<'a>> {
        let mut cache = args.cache;
        let mut pasts = vec![0; batch as usize];
        if let Some(CacheSlots { cache, slots }) = &mut cache {
            cache.check(slots, batch)?;
            pasts = slots.iter().map(|&slot| cache.length(slot)).collect();
            let longest = pasts.iter().copied().max().unwrap_or(0);
            cache.reserve(longest + tokens)?;
        }
        let rotary = match args.positions {
            Some(positions) => {
                let size = positions.size();
                if size.len() != 3 || size[1..] != [batch, tokens] {
                    let reason = format!("[axes, {batch}, {tokens}] is needed, found {size:?}");
                    return Err(ModelError::input("positions", reason));
                }
                self.rotary.table(positions)?
            }
            None => {
                let positions = pasts.iter().flat_map(|&past| past..past + tokens);
                let positions: Vec<i64> = positions.collect();
                let positions = Tensor::f_from_slice(&positions)?.f_view([1, batch, tokens])?;
                self.rotary.table(&positions)?
            }
        };
        let sight = Sight::new(args.mask, cache.as_ref(), [batch, tokens], &self.embedding)?;
        Ok(Pass {
            rotary,
            cache,
            sight,
        })
    }

    /// Scores of all entries of the vocabulary, f32 `[..., vocabulary]`, from hidden states
    /// `[..., width]`. All ranks that share the model call it and get the same.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let part = self.head.forward_few(hidden)?.f_to_kind(Kind::Float)?;
        self.vocabulary.gather(&part, -1)
    }
}
