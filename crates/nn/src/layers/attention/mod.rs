//! Scaled dot-product attention and the split into heads.

mod choice;
mod native;
mod shared;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

pub use choice::{Candidate, Clock, Trial, choose, difference};
pub use native::BackEnd;
pub use shared::{RealTokens, attend_among};

use crate::cuda::synchronize;
use crate::error::Result;

/// `[batch, tokens, heads * dim]` to `[batch, heads, tokens, dim]`, a view.
pub fn split_heads(input: &Tensor, heads: i64) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    Ok(input
        .f_view([batch, tokens, heads, width / heads])?
        .f_transpose(1, 2)?)
}

/// `[batch, heads, tokens, dim]` to `[batch, tokens, heads * dim]`.
pub fn merge_heads(input: &Tensor) -> Result<Tensor> {
    let (batch, heads, tokens, dim) = input.size4()?;
    Ok(input
        .f_transpose(1, 2)?
        .f_reshape([batch, tokens, heads * dim])?)
}

/// `softmax(q kᵀ * scale + mask) v` over `[batch, heads, tokens, dim]`, in the kind of the inputs.
///
/// `scale` defaults to `1 / sqrt(dim)`; `mask` is added to the scores and broadcast. On a GPU in
/// bf16 the first large attention of a shape tries all back ends, and the fastest that agrees with
/// libtorch's choice does all others of it.
pub fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    scale: Option<f64>,
) -> Result<Tensor> {
    if mask.is_none()
        && let Some(shape) = ShapeClass::worth_a_choice(query, key)
    {
        return back_end(shape, query, key, value, scale)?.attend(query, key, value, scale);
    }
    Ok(Tensor::f_scaled_dot_product_attention(
        query, key, value, mask, 0.0, false, scale, false,
    )?)
}

/// As [`attend`] where every token attends to itself and those before it; as many queries as keys.
pub fn attend_causally(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_scaled_dot_product_attention::<Tensor>(
        query, key, value, None, 0.0, true, None, false,
    )?)
}

/// Every head of `[batch, heads, tokens, dim]` `times` times in a row.
pub fn repeat_heads(input: &Tensor, times: i64) -> Result<Tensor> {
    if times == 1 {
        return Ok(input.shallow_clone());
    }
    let (batch, heads, tokens, dim) = input.size4()?;
    Ok(input
        .f_unsqueeze(2)?
        .f_expand([batch, heads, times, tokens, dim], false)?
        .f_reshape([batch, heads * times, tokens, dim])?)
}

/// Attentions that one choice is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ShapeClass {
    /// Number of the GPU.
    pub device: usize,
    /// Batch times heads.
    pub heads: i64,
    /// Channels of a head.
    pub dim: i64,
    /// Tokens that ask, rounded up to a power of two.
    pub queries: u64,
    /// Tokens that are asked, rounded up to a power of two.
    pub keys: u64,
}

impl ShapeClass {
    /// Scores of a head below which any back end will do.
    const SCORES: i64 = 1 << 20;

    /// The class of an attention in bf16 on a GPU that is large enough to be worth a choice.
    fn worth_a_choice(query: &Tensor, key: &Tensor) -> Option<Self> {
        let Device::Cuda(device) = query.device() else {
            return None;
        };
        if query.kind() != Kind::BFloat16 || key.kind() != Kind::BFloat16 {
            return None;
        }
        Self::of_sizes(device, &query.size(), &key.size())
    }

    fn of_sizes(device: usize, query: &[i64], key: &[i64]) -> Option<Self> {
        let (&[batch, heads, queries, dim], &[_, _, keys, _]) = (query, key) else {
            return None;
        };
        if queries.saturating_mul(keys) < Self::SCORES {
            return None;
        }
        let round = |tokens: i64| tokens.unsigned_abs().next_power_of_two();
        Some(Self {
            device,
            heads: batch * heads,
            dim,
            queries: round(queries),
            keys: round(keys),
        })
    }
}

/// A choice that was made, for reports.
#[derive(Debug, Clone, Serialize)]
pub struct AttentionChoice {
    /// For which attentions.
    pub shape: ShapeClass,
    /// Who computes them.
    pub back_end: BackEnd,
    /// How it came.
    pub trials: Vec<Trial>,
}

static CHOICES: Mutex<BTreeMap<ShapeClass, AttentionChoice>> = Mutex::new(BTreeMap::new());

/// All choices that this program has made so far.
pub fn attention_choices() -> Vec<AttentionChoice> {
    let choices = CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
    choices.values().cloned().collect()
}

/// The back end for `shape`, chosen with these tensors if there is no choice yet.
fn back_end(
    shape: ShapeClass,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: Option<f64>,
) -> Result<BackEnd> {
    // Held while trying: two threads that measure would disturb each other.
    let mut choices = CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(choice) = choices.get(&shape) {
        return Ok(choice.back_end);
    }
    let start = Instant::now();
    let clock = Clock {
        finish: &|| synchronize(query.device()),
        now: &|| start.elapsed().as_secs_f64(),
    };
    let runs = BackEnd::ALL.map(|back_end| move || back_end.attend(query, key, value, scale));
    let candidates: Vec<Candidate> = BackEnd::ALL
        .iter()
        .zip(&runs)
        .map(|(back_end, run)| Candidate {
            name: back_end.name(),
            run,
        })
        .collect();
    let (best, trials) = choose(&candidates, &clock)?;
    let back_end = BackEnd::ALL[best];
    let times: Vec<String> = trials
        .iter()
        .map(|trial| match (trial.seconds, &trial.refused) {
            (Some(seconds), None) => format!("{} {:.2} ms", trial.name, seconds * 1e3),
            _ => format!("{} -", trial.name),
        })
        .collect();
    tracing::info!(
        queries = shape.queries,
        keys = shape.keys,
        "attention by {} ({})",
        back_end.name(),
        times.join(", ")
    );
    let choice = AttentionChoice {
        shape,
        back_end,
        trials,
    };
    choices.insert(shape, choice);
    Ok(back_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cosines;

    #[test]
    fn only_large_attentions_are_worth_a_choice() {
        let class =
            |queries, keys| ShapeClass::of_sizes(1, &[2, 40, queries, 128], &[2, 40, keys, 128]);
        assert_eq!(class(512, 512), None);
        let own = class(32_760, 32_760).unwrap();
        assert_eq!((own.device, own.heads, own.dim), (1, 80, 128));
        assert_eq!((own.queries, own.keys), (32_768, 32_768));
        assert_eq!(class(32_000, 32_768), Some(own));
        assert_ne!(class(32_760, 512), Some(own));
        assert_eq!(ShapeClass::of_sizes(0, &[2, 3], &[2, 3]), None);
    }

    /// On the CPU the default attends; trying all back ends leaves only that one.
    #[test]
    fn where_no_other_back_end_is_there_the_default_is_chosen() {
        let [query, key, value] = [0.1, 0.5, 0.9].map(|phase| cosines(&[1, 2, 6, 8], phase));
        let shape = ShapeClass {
            device: 77,
            heads: 2,
            dim: 8,
            queries: 8,
            keys: 8,
        };
        for _ in 0..2 {
            let found = back_end(shape, &query, &key, &value, None).unwrap();
            assert_eq!(found, BackEnd::Default);
        }
        let made = attention_choices();
        let mut made = made.iter().filter(|choice| choice.shape == shape);
        let trials = &made.next().unwrap().trials;
        assert!(made.next().is_none());
        assert!(trials[0].seconds.is_some() && trials[0].refused.is_none());
        assert!(trials[1..].iter().all(|trial| trial.refused.is_some()));
    }
}
