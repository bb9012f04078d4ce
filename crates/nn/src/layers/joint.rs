//! Heads for an attention of several streams of tokens to each other (FLUX, Stable Diffusion 3): each
//! head is normalised by itself, then rotated, and the streams stand one behind the other.

use tch::{Kind, Tensor};

use super::norm::{root_mean_square, scale_and_rotate};
use super::rotary::RotaryTable;
use super::{RmsNorm, fused, rows, split_heads};
use crate::error::{ModelError, Result};

/// A stream's queries or keys `[batch, tokens, heads * dim]`, and the norm of a head, `[dim]`.
pub type Stream<'a> = (&'a Tensor, &'a RmsNorm);

/// Queries or keys of all streams, each head normalised by itself and rotated:
/// `[batch, heads, tokens of all streams, dim]`, computed in f32 and rounded once to the kind of the streams. The
/// table `[tokens of all streams, dim / 2]` is that of all samples.
///
/// Heads may be those of one of several ranks; no collective.
///
/// # Errors
/// Streams, norms and table do not fit each other.
pub fn joint_heads(streams: &[Stream], heads: i64, rotary: &RotaryTable) -> Result<Tensor> {
    check(streams, heads, rotary)?;
    let is_on_host = |(input, _): &Stream| rows::on_host(input) && input.is_contiguous();
    if streams.iter().all(is_on_host) {
        return in_one_pass(streams, heads, rotary);
    }
    let kind = streams[0].0.kind();
    let is_equal = streams.iter().all(|(input, _)| input.kind() == kind);
    if let Some(kernels) = fused::kernels(streams[0].0).filter(|_| is_equal) {
        return fused::norm_each_head(kernels, streams, heads, rotary, kind);
    }
    let mut first = 0;
    let mut joined = Vec::with_capacity(streams.len());
    for &(input, norm) in streams {
        joined.push(one_stream(input, norm, heads, rotary, first)?);
        first += input.size()[1];
    }
    match joined.len() {
        1 => Ok(joined.remove(0)),
        _ => Ok(Tensor::f_cat(&joined, 2)?),
    }
}

/// Values of all streams, each `[batch, tokens, heads * dim]`: `[batch, heads, tokens of all streams, dim]`.
pub fn joint_values(streams: &[&Tensor], heads: i64) -> Result<Tensor> {
    match streams {
        [only] => split_heads(only, heads),
        _ => split_heads(&Tensor::f_cat(streams, 1)?, heads),
    }
}

fn check(streams: &[Stream], heads: i64, rotary: &RotaryTable) -> Result<()> {
    let wrong = |reason: String| Err(ModelError::input("joint attention", reason));
    let Some((first, _)) = streams.first() else {
        return wrong("there is no stream".to_owned());
    };
    if rotary.batch().is_some() {
        return wrong("the rotary table must be the same for all samples".to_owned());
    }
    let (batch, _, width) = first.size3()?;
    let mut tokens = 0;
    for (input, norm) in streams {
        let (samples, own, channels) = input.size3()?;
        if (samples, channels, heads * norm.width()) != (batch, width, width) {
            let reason = format!(
                "{:?} is not for {batch} samples of {heads} heads of {}",
                input.size(),
                norm.width()
            );
            return wrong(reason);
        }
        tokens += own;
    }
    rotary.check(batch, tokens, width / heads.max(1))
}

/// The tokens of one stream, which stand in the table from `first` on: `[batch, heads, tokens, dim]`.
fn one_stream(
    input: &Tensor,
    norm: &RmsNorm,
    heads: i64,
    rotary: &RotaryTable,
    first: i64,
) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    let (dim, kind) = (width / heads, input.kind());
    let each = input.f_reshape([batch, tokens, heads, dim])?;
    let normed = norm.forward(&each)?.f_transpose(1, 2)?;
    let rotated = rotary.run(first, tokens)?.rotate(&normed)?;
    Ok(rotated.f_to_kind(kind)?)
}

/// Streams in host memory: every head is read and written once.
fn in_one_pass(streams: &[Stream], heads: i64, table: &RotaryTable) -> Result<Tensor> {
    let (batch, _, width) = streams[0].0.size3()?;
    let lengths: Vec<i64> = streams.iter().map(|(input, _)| input.size()[1]).collect();
    let (all, dim) = (lengths.iter().sum::<i64>(), width / heads);
    let options = (Kind::Float, streams[0].0.device());
    let mut output = Tensor::f_empty([batch, heads, all, dim], options)?;
    let (cos, sin) = (rows::values(&table.cos), rows::values(&table.sin));
    let sources: Vec<Source> = streams
        .iter()
        .zip(&lengths)
        .map(|((input, norm), &tokens)| Source {
            values: rows::values(input),
            weight: rows::values(norm.weight()),
            eps: norm.eps() as f32,
            tokens: tokens as usize,
        })
        .collect();
    let (heads, all, dim) = (heads as usize, all as usize, dim as usize);
    rows::for_each_row(rows::values_mut(&mut output), dim, |row, out| {
        // Rows of the output are ordered by sample, head and token.
        let (token, head, sample) = (row % all, row / all % heads, row / (all * heads));
        let mut own = token;
        for source in &sources {
            if own < source.tokens {
                let place = (sample * source.tokens + own) * heads + head;
                let input = &source.values[place * dim..][..dim];
                let angles = [cos, sin].map(|table| &table[token * dim / 2..][..dim / 2]);
                norm_head(input, source, angles, out);
                return;
            }
            own -= source.tokens;
        }
    });
    Ok(output)
}

/// A stream as the loops see it.
struct Source<'a> {
    values: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    tokens: usize,
}

fn norm_head(input: &[f32], source: &Source, angles: [&[f32]; 2], output: &mut [f32]) {
    let factor = root_mean_square(input, source.eps);
    scale_and_rotate(input, factor, source.weight, angles, output);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{RotaryAxes, without_kernels};
    use crate::stand_in::as_gpu;
    use crate::testing::vectors::{assert_begins, flux_vector, wave};
    use crate::testing::{relative_error, weights_of};
    use tch::Device;

    const HEADS: i64 = 3;

    fn norm(weight: &Tensor) -> RmsNorm {
        let width = weight.size()[0];
        weights_of(&[("weight", weight)], |weights| {
            RmsNorm::load(weights, width, 1e-6)
        })
    }

    fn rotary(tokens: i64) -> RotaryTable {
        let axes = RotaryAxes::of_channels([4, 6, 6]).unwrap();
        let places = wave(0.7, 0.2, &[1, tokens, 3]) * 5.0;
        axes.table_at(&places, Device::Cpu).unwrap()
    }

    /// Specification `flux`, 1.5: a head has its own mean square, and the epsilon stands beside that.
    #[test]
    fn heads_are_normalised_by_themselves() {
        let vector = flux_vector("qk_norm");
        let weight = Tensor::from_slice(&[1.0_f32, 2.0, 0.5, 1.0]);
        // The second head is large: with the mean over both the first would nearly vanish.
        let first = wave(0.7, 0.3, &[1, 1, 4]) * 0.002;
        let second = wave(0.3, 0.9, &[1, 1, 4]) * 100.0;
        let table = RotaryTable {
            cos: Tensor::ones([1, 2], (Kind::Float, Device::Cpu)),
            sin: Tensor::zeros([1, 2], (Kind::Float, Device::Cpu)),
        };
        let both = Tensor::cat(&[first, second], 2);
        let found = joint_heads(&[(&both, &norm(&weight))], 2, &table).unwrap();
        assert_eq!(found.size(), [1, 2, 1, 4]);
        assert_begins("first head", &found, &vector["eps_1e-6"], 1e-6);
    }

    /// The loops of the host, the kernel of a GPU and libtorch's operations, on two streams of two samples.
    #[test]
    fn one_pass_equals_the_composition() {
        let [text, image] = [5, 7].map(|tokens| wave(0.37, 0.1, &[2, tokens, HEADS * 16]));
        let [text_norm, image_norm] =
            [0.3, 0.8].map(|phase| norm(&(wave(0.9, phase, &[16]) * 0.2 + 1.0)));
        let streams = [(&text, &text_norm), (&image, &image_norm)];
        let expected = {
            let mut first = 0;
            let parts = streams.map(|(input, norm)| {
                let (_, tokens, _) = input.size3().unwrap();
                let heads = norm.forward(&input.view([2, tokens, HEADS, 16])).unwrap();
                let table = rotary(12).run(first, tokens).unwrap();
                first += tokens;
                table.rotate(&heads.transpose(1, 2)).unwrap()
            });
            Tensor::cat(&parts, 2)
        };
        let found = joint_heads(&streams, HEADS, &rotary(12)).unwrap();
        assert!(relative_error(&found, &expected) < 1e-6);
        let on_gpu = as_gpu(|| {
            let run = || joint_heads(&streams, HEADS, &rotary(12)).unwrap();
            [run(), without_kernels(run)]
        });
        for found in on_gpu.into_iter().flatten() {
            assert!(relative_error(&found, &expected) < 1e-6);
        }
        let small = [&text, &image].map(|input| input.to_kind(Kind::BFloat16));
        let streams = [(&small[0], &text_norm), (&small[1], &image_norm)];
        let found = as_gpu(|| joint_heads(&streams, HEADS, &rotary(12)).unwrap());
        if let Some(found) = found {
            assert_eq!(found.kind(), Kind::BFloat16);
            assert!(relative_error(&found, &expected) < 4e-3);
        }
        let values = joint_values(&[&text, &image], HEADS).unwrap();
        assert_eq!(values.size(), [2, HEADS, 12, 16]);
        let last = image.select(1, 6).select(1, 2 * 16 + 3);
        assert_eq!(values.select(3, 3).select(2, 11).select(1, 2), last);
    }

    #[test]
    fn streams_that_do_not_fit_are_refused() {
        let (wide, narrow) = (wave(0.1, 0.0, &[1, 4, 48]), wave(0.1, 0.0, &[1, 4, 32]));
        let norm = norm(&wave(0.9, 0.0, &[16]));
        let error = |streams: &[Stream], tokens| {
            joint_heads(streams, HEADS, &rotary(tokens))
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[(&wide, &norm), (&narrow, &norm)], 8).contains("[1, 4, 32]"));
        assert!(error(&[(&wide, &norm)], 5).contains("rotary table"));
        assert!(error(&[], 0).contains("no stream"));
    }
}
