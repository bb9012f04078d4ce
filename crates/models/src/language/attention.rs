//! Attention of a block: grouped heads, rotary positions, cache.

use storyloom_nn::checkpoint::Weights;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::host::is_host;
use storyloom_nn::layers::{
    Linear, RmsNorm, attend, attend_causally, merge_heads, repeat_heads, split_heads,
};
use storyloom_nn::shard::{Part, Peers};
use tch::{Kind, Tensor};

use super::cache::CacheSlots;
use super::config::LanguageConfig;
use super::heads::{arrange_heads, step_attention};
use super::rotary::HalfRotary;

/// What all blocks of a forward share.
pub(super) struct Pass<'a> {
    /// Where the tokens stand.
    pub(super) rotary: HalfRotary,
    /// Where keys and values are kept.
    pub(super) cache: Option<CacheSlots<'a>>,
    /// Who sees whom.
    pub(super) sight: Sight,
}

/// Which tokens a token attends to.
pub(super) enum Sight {
    /// The earlier ones of the same forward; nothing is in the cache yet.
    Fresh,
    /// All that are in the cache, and itself: one token a sequence, in host memory.
    Step,
    /// Those that a mask allows, `[batch or 1, heads or 1, tokens, tokens seen]`: true or false, or
    /// added to the scores.
    Masked(Tensor),
}

impl Sight {
    /// Of `tokens` new tokens a sequence, in the order of the cache unless there is a mask.
    pub(super) fn new(
        mask: Option<&Tensor>,
        cache: Option<&CacheSlots>,
        [batch, tokens]: [i64; 2],
        like: &Tensor,
    ) -> Result<Self> {
        let device = like.device();
        let pasts: Vec<i64> = match cache {
            Some(CacheSlots { cache, slots }) => {
                slots.iter().map(|&slot| cache.length(slot)).collect()
            }
            None => vec![0; batch as usize],
        };
        let seen = pasts.iter().copied().max().unwrap_or(0) + tokens;
        if let Some(mask) = mask {
            let size = mask.size();
            let fits = size.len() == 4
                && (size[0] == 1 || size[0] == batch)
                && size[2..] == [tokens, seen];
            if !fits {
                let reason = format!(
                    "[{batch} or 1, heads or 1, {tokens}, {seen}] is needed, found {size:?}"
                );
                return Err(ModelError::input("mask", reason));
            }
            return Ok(Self::Masked(mask.f_to_device(device)?));
        }
        if pasts.iter().all(|&past| past == 0) {
            return Ok(Self::Fresh);
        }
        if tokens == 1 && is_host(device) {
            return Ok(Self::Step);
        }
        let last = Tensor::f_from_slice(&pasts)?.f_view([-1, 1, 1, 1])?;
        let query = Tensor::f_arange(tokens, (Kind::Int64, device))?.f_view([1, 1, -1, 1])?;
        let key = Tensor::f_arange(seen, (Kind::Int64, device))?.f_view([1, 1, 1, -1])?;
        let last = last.f_to_device(device)?.f_add(&query)?;
        Ok(Self::Masked(key.f_le_tensor(&last)?))
    }
}

/// Self-attention of a block, for the heads of this rank.
#[derive(Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Option<RmsNorm>,
    key_norm: Option<RmsNorm>,
    heads: i64,
    key_heads: i64,
}

/// The key heads that the query heads of `part` need: their own part of them, or one that several
/// ranks hold.
pub(super) fn key_part(config: &LanguageConfig, part: Part) -> Result<Part> {
    let (heads, key_heads) = (config.heads, config.key_heads);
    let divides = heads % part.of == 0;
    if divides && key_heads % part.of == 0 {
        return Ok(part);
    }
    if divides && part.of % key_heads == 0 {
        let ranks = part.of / key_heads;
        return Ok(Part {
            index: part.index / ranks,
            of: key_heads,
        });
    }
    let reason = format!(
        "{} ranks cannot share {heads} heads with {key_heads} key heads; the ranks must divide \
         the heads, and divide the key heads or be a multiple of them",
        part.of
    );
    Err(ModelError::input("tensor parallel", reason))
}

impl Attention {
    pub(super) fn load(weights: &Weights, config: &LanguageConfig, peers: &Peers) -> Result<Self> {
        let (part, width) = (peers.part(), config.hidden_size);
        let key_part = key_part(config, part)?;
        let (inner, key_inner) = (
            config.heads * config.head_dim,
            config.key_heads * config.head_dim,
        );
        let input = |name: &str, outputs, part| {
            let place = weights.sub(name);
            Linear::load_outputs_with(&place, width, outputs, part, config.input_bias)
        };
        let norm = |name: &str| {
            let norm = || RmsNorm::load(&weights.sub(name), config.head_dim, config.norm_eps);
            config.head_norms.then(norm).transpose()
        };
        let output = weights.sub("o_proj");
        Ok(Self {
            query: input("q_proj", inner, part)?,
            key: input("k_proj", key_inner, key_part)?,
            value: input("v_proj", key_inner, key_part)?,
            output: Linear::load_inputs_with(&output, inner, width, peers, config.output_bias)?,
            query_norm: norm("q_norm")?,
            key_norm: norm("k_norm")?,
            heads: part.range(config.heads).1,
            key_heads: key_part.range(config.key_heads).1,
        })
    }

    /// `hidden` `[batch, tokens, width]`, normalised, to the same; `block` is the number of the
    /// block in the cache. Keys and values are written to the cache; one sum over the ranks.
    pub(super) fn forward(&self, hidden: &Tensor, pass: &mut Pass, block: usize) -> Result<Tensor> {
        let [query, key, value] =
            Linear::forward_together([&self.query, &self.key, &self.value], hidden)?;
        let arrange = |input: &Tensor, heads, norm: &Option<RmsNorm>| {
            arrange_heads(input, heads, norm.as_ref(), &pass.rotary)
        };
        let query = arrange(&query, self.heads, &self.query_norm)?;
        let key = arrange(&key, self.key_heads, &self.key_norm)?;
        let value = split_heads(&value, self.key_heads)?;
        let attended = self.attend(&query, &key, &value, pass, block)?;
        self.output.forward_few(&merge_heads(&attended)?)
    }

    fn attend(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        pass: &mut Pass,
        block: usize,
    ) -> Result<Tensor> {
        let repeats = self.heads / self.key_heads;
        if let (Sight::Step, Some(CacheSlots { cache, slots })) = (&pass.sight, &mut pass.cache) {
            return step_attention(query, key, value, cache, (block, slots));
        }
        if let Some(CacheSlots { cache, slots }) = &pass.cache {
            cache.write(block, slots, key, value)?;
        }
        let mask = match &pass.sight {
            Sight::Masked(mask) => mask,
            Sight::Fresh | Sight::Step => {
                let [key, value] = [key, value].map(|heads| repeat_heads(heads, repeats));
                return attend_causally(query, &key?, &value?);
            }
        };
        let [key, value] = match &pass.cache {
            Some(CacheSlots { cache, slots }) => {
                let seen = mask.size().last().copied().unwrap_or(0);
                cache.read(block, slots, seen)?
            }
            None => [key.shallow_clone(), value.shallow_clone()],
        };
        let [key, value] = [key, value].map(|heads| repeat_heads(&heads, repeats));
        let mask = match mask.kind() {
            Kind::Bool => mask.shallow_clone(),
            _ => mask.f_to_kind(query.kind())?,
        };
        attend(query, &key?, &value?, Some(&mask), None)
    }
}
