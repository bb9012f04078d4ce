//! Rows of heads in host memory: norm and rotation in one pass, and attention of single tokens.

use multiversion::multiversion;
use rayon::prelude::*;
use storyloom_nn::error::Result;
use storyloom_nn::host::{on_host, values, values_mut};
use storyloom_nn::layers::{RmsNorm, dot, exp, for_each_row, sum};
use tch::{Kind, Tensor};

use super::cache::KvCache;
use super::rotary::HalfRotary;

/// `[batch, tokens, heads * dim]` to `[batch, heads, tokens, dim]`: each head normalised, where
/// there is a norm, and rotated; in f32, rounded to the kind of the input.
pub(super) fn arrange_heads(
    input: &Tensor,
    heads: i64,
    norm: Option<&RmsNorm>,
    rotary: &HalfRotary,
) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    let dim = width / heads;
    if !(on_host(input) && input.is_contiguous()) {
        let split = input.f_view([batch, tokens, heads, dim])?;
        let normed = match norm {
            Some(norm) => norm.forward(&split)?,
            None => split.f_to_kind(Kind::Float)?,
        };
        let rotated = rotary.rotate(&normed)?.f_to_kind(input.kind())?;
        return Ok(rotated.f_transpose(1, 2)?);
    }
    let options = (Kind::Float, input.device());
    let mut output = Tensor::f_empty([batch, heads, tokens, dim], options)?;
    let source = values(input);
    let learned = norm.map(|norm| (values(norm.weight()), norm.eps() as f32));
    let (cos, sin) = (values(&rotary.cos), values(&rotary.sin));
    let (heads, tokens, dim) = (heads as usize, tokens as usize, dim as usize);
    let half = dim / 2;
    for_each_row(values_mut(&mut output), dim, |row, out| {
        let (token, head) = (row % tokens, row / tokens % heads);
        let place = row / (tokens * heads) * tokens + token;
        let input = &source[(place * heads + head) * dim..][..dim];
        let angles = [cos, sin].map(|table| &table[place * half..][..half]);
        norm_and_rotate(input, learned, angles, out);
    });
    Ok(output)
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn norm_and_rotate(
    input: &[f32],
    learned: Option<(&[f32], f32)>,
    [cos, sin]: [&[f32]; 2],
    output: &mut [f32],
) {
    match learned {
        None => output.copy_from_slice(input),
        Some((weight, eps)) => {
            let mean = sum(input, |x| x * x) / input.len() as f32;
            let factor = 1.0 / (mean + eps).sqrt();
            for ((out, &x), &weight) in output.iter_mut().zip(input).zip(weight) {
                *out = x * factor * weight;
            }
        }
    }
    let (low, high) = output.split_at_mut(input.len() / 2);
    for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
    }
}

/// Attention of one new token of each sequence to all of its tokens, which it joins: `query`
/// `[batch, heads, 1, dim]`, `key` and `value` `[batch, key heads, 1, dim]`, all f32 in host
/// memory, to `[batch, heads, 1, dim]`.
///
/// Every sequence is computed by itself: its result does not depend on the others.
pub(super) fn step_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    cache: &mut KvCache,
    (block, slots): (usize, &[usize]),
) -> Result<Tensor> {
    let (_, heads, _, dim) = query.size4()?;
    let key_heads = key.size4()?.1;
    let [query, key, value] = [query, key, value].map(Tensor::f_contiguous);
    let (query, key, value) = (query?, key?, value?);
    let lengths: Vec<usize> = slots
        .iter()
        .map(|&slot| cache.length(slot) as usize)
        .collect();
    let block = &mut cache.blocks[block];
    let capacity = block.keys.size4()?.2 as usize;
    let (key_heads, dim) = (key_heads as usize, dim as usize);
    let group = heads as usize / key_heads;
    let place = |index: usize, head: usize| (slots[index] * key_heads + head) * capacity * dim;
    for (stored, new) in [(&mut block.keys, &key), (&mut block.values, &value)] {
        let (stored, new) = (values_mut(stored), values(new));
        for (row, new) in new.chunks_exact(dim).enumerate() {
            let (index, head) = (row / key_heads, row % key_heads);
            let at = place(index, head) + lengths[index] * dim;
            stored[at..at + dim].copy_from_slice(new);
        }
    }
    let mut output = query.f_empty_like()?;
    let (query, keys, stored) = (values(&query), values(&block.keys), values(&block.values));
    // One piece of work for the query heads that share a key head.
    let attend = |(row, output): (usize, &mut [f32])| {
        let (index, head) = (row / key_heads, row % key_heads);
        let rows = (lengths[index] + 1) * dim;
        let at = place(index, head);
        let mut scores = vec![0.0; group * (lengths[index] + 1)];
        let query = &query[row * group * dim..][..group * dim];
        let stored = [&keys[at..at + rows], &stored[at..at + rows]];
        attend_group(dim, query, stored, &mut scores, output);
    };
    let pieces = values_mut(&mut output);
    let work: usize = lengths.iter().sum::<usize>() * heads as usize * dim;
    if work < WORTH_A_THREAD || tch::get_num_threads() == 1 {
        pieces
            .chunks_exact_mut(group * dim)
            .enumerate()
            .for_each(attend);
    } else {
        pieces
            .par_chunks_exact_mut(group * dim)
            .enumerate()
            .for_each(attend);
    }
    Ok(output)
}

/// Products of a query with keys below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 16;

/// Query heads of one key head: `query` and `output` `[group, dim]`, keys and values
/// `[tokens, dim]`, `scores` `[group, tokens]` to work in.
#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn attend_group(
    dim: usize,
    query: &[f32],
    [keys, stored]: [&[f32]; 2],
    scores: &mut [f32],
    output: &mut [f32],
) {
    let tokens = keys.len() / dim;
    let scale = 1.0 / (dim as f32).sqrt();
    for (token, key) in keys.chunks_exact(dim).enumerate() {
        for (head, query) in query.chunks_exact(dim).enumerate() {
            scores[head * tokens + token] = dot(query, key) * scale;
        }
    }
    for scores in scores.chunks_exact_mut(tokens) {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for score in scores.iter_mut() {
            *score = exp(*score - largest);
        }
        let total = sum(scores, |x| x);
        for score in scores.iter_mut() {
            *score /= total;
        }
    }
    output.fill(0.0);
    for (token, value) in stored.chunks_exact(dim).enumerate() {
        for (head, output) in output.chunks_exact_mut(dim).enumerate() {
            let weight = scores[head * tokens + token];
            for (out, &value) in output.iter_mut().zip(value) {
                *out += weight * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::rotary::{Rotary, RotaryConfig};
    use storyloom_nn::testing::{cosines, relative_error};

    #[test]
    fn one_pass_over_heads_is_the_composition() {
        let config = RotaryConfig::parse(None, None, 24).unwrap();
        let rotary = Rotary::new(&config, tch::Device::Cpu).unwrap();
        let positions = Tensor::from_slice(&[3_i64, 4, 9, 0, 7, 8]).view([1, 2, 3]);
        let table = rotary.table(&positions).unwrap();
        let input = cosines(&[2, 3, 5 * 24], 0.2) * 2.0;
        let weight = cosines(&[24], 0.4) + 1.2;
        let norm = storyloom_nn::testing::weights_of(&[("weight", &weight)], |weights| {
            RmsNorm::load(weights, 24, 1e-6)
        });
        for norm in [None, Some(&norm)] {
            let found = arrange_heads(&input, 5, norm, &table).unwrap();
            let split = input.view([2, 3, 5, 24]);
            let normed = norm.map_or(split.copy(), |norm| norm.forward(&split).unwrap());
            let expected = table.rotate(&normed).unwrap().transpose(1, 2);
            assert!(relative_error(&found, &expected) < 1e-6);
        }
    }
}
