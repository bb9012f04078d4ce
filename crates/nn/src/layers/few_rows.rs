//! Products of a few rows with large weights, bound by the memory that the weights come from.
//!
//! A matrix product of libtorch for one row leaves bandwidth unused, and its results for a row
//! change with the number of rows beside it. Here every weight is read once for all rows, and every
//! output is summed in one order whatever the number of rows or threads.

use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::rows;
use crate::error::Result;
use crate::host::is_host;

/// Rows above which libtorch's product is faster.
pub const MOST_ROWS: usize = 16;

/// Weights below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 16;

/// Partial sums of one output.
const LANES: usize = 8;

/// `input Wᵀ + b` for several layers, `input` `[..., inputs]`; weights f32 or bf16, results f32.
///
/// `None` where this is not the way to compute it: many rows, not in host memory, other kinds.
pub(super) fn products<const N: usize>(
    input: &Tensor,
    layers: [(&Tensor, Option<&Tensor>); N],
) -> Result<Option<[Tensor; N]>> {
    let Some(&width) = input.size().last() else {
        return Ok(None);
    };
    let count = input.numel() / (width.max(1) as usize);
    if count == 0 || count > MOST_ROWS || !is_host(input.device()) {
        return Ok(None);
    }
    let mut weights = [Weights::F32(&[]); N];
    for (place, (weight, _)) in weights.iter_mut().zip(&layers) {
        match Weights::of(weight, width) {
            Some(found) => *place = found,
            None => return Ok(None),
        }
    }
    let input = input.f_to_kind(Kind::Float)?.f_contiguous()?;
    let outputs = weights.map(|weights| weights.len() / width as usize);
    let mut columns = vec![0.0_f32; outputs.iter().sum::<usize>() * count];
    multiply(rows::values(&input), count, &weights, &mut columns);
    let mut size = input.size();
    let mut results = layers.map(|_| Tensor::new());
    let mut first = 0;
    for ((result, &outputs), (_, bias)) in results.iter_mut().zip(&outputs).zip(layers) {
        let columns = &columns[first * count..][..outputs * count];
        first += outputs;
        if let Some(last) = size.last_mut() {
            *last = outputs as i64;
        }
        let bias = bias.map(|bias| bias.f_to_kind(Kind::Float)).transpose()?;
        *result = transposed(columns, count, bias.as_ref(), &size)?;
    }
    Ok(Some(results))
}

/// `[outputs, count]` to a tensor of `size`, `[count, outputs]`, plus the bias.
fn transposed(
    columns: &[f32],
    count: usize,
    bias: Option<&Tensor>,
    size: &[i64],
) -> Result<Tensor> {
    let mut result = Tensor::f_empty(size, (Kind::Float, Device::Cpu))?;
    let outputs = columns.len() / count;
    for (row, target) in rows::values_mut(&mut result)
        .chunks_exact_mut(outputs)
        .enumerate()
    {
        for (target, column) in target.iter_mut().zip(columns.chunks_exact(count)) {
            *target = column[row];
        }
        if let Some(bias) = bias {
            for (target, bias) in target.iter_mut().zip(rows::values(bias)) {
                *target += bias;
            }
        }
    }
    Ok(result)
}

/// Elements of a weight, row after row.
#[derive(Clone, Copy)]
enum Weights<'a> {
    F32(&'a [f32]),
    /// The upper halves of f32.
    Bf16(&'a [u16]),
}

impl<'a> Weights<'a> {
    fn of(weight: &'a Tensor, inputs: i64) -> Option<Self> {
        let size = weight.size();
        let dense = weight.is_contiguous() && is_host(weight.device());
        if !dense || size.len() != 2 || size[1] != inputs {
            return None;
        }
        match weight.kind() {
            Kind::Float => Some(Self::F32(rows::values(weight))),
            Kind::BFloat16 => {
                let data = weight.data_ptr().cast::<u16>();
                // SAFETY: the tensor is dense, of 16-bit elements, in host memory, and lives as
                // long as the slice; nobody writes to the weights of a layer in use.
                Some(Self::Bf16(unsafe {
                    std::slice::from_raw_parts(data, weight.numel())
                }))
            }
            _ => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// Fills `columns` `[outputs of all weights, count]`, shared among the threads.
fn multiply(input: &[f32], count: usize, weights: &[Weights], columns: &mut [f32]) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    let width = input.len() / count;
    let outputs = columns.len() / count;
    if threads == 1 || outputs * width < WORTH_A_THREAD {
        return multiply_part(input, count, weights, 0, columns);
    }
    let share = outputs.div_ceil(threads);
    columns
        .par_chunks_mut(share * count)
        .enumerate()
        .for_each(|(part, columns)| multiply_part(input, count, weights, part * share, columns));
}

/// The outputs from number `first` on, counted over all weights.
fn multiply_part(
    input: &[f32],
    count: usize,
    weights: &[Weights],
    mut first: usize,
    mut columns: &mut [f32],
) {
    let width = input.len() / count;
    for weights in weights {
        let outputs = weights.len() / width;
        if first >= outputs {
            first -= outputs;
            continue;
        }
        let here = (outputs - first).min(columns.len() / count);
        let (part, rest) = columns.split_at_mut(here * count);
        let range = first * width..(first + here) * width;
        match weights {
            Weights::F32(values) => multiply_f32(input, count, &values[range], part),
            Weights::Bf16(values) => multiply_bf16(input, count, &values[range], part),
        }
        (first, columns) = (0, rest);
    }
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn multiply_f32(input: &[f32], count: usize, weights: &[f32], columns: &mut [f32]) {
    multiply_rows(input, count, weights, |value| value, columns);
}

#[multiversion(targets("x86_64+avx2", "x86_64+avx512f"))]
fn multiply_bf16(input: &[f32], count: usize, weights: &[u16], columns: &mut [f32]) {
    let widen = |value: u16| f32::from_bits(u32::from(value) << 16);
    multiply_rows(input, count, weights, widen, columns);
}

/// Blocks of outputs times blocks of rows: as many sums at once as the processor has registers.
#[inline(always)]
fn multiply_rows<W: Copy>(
    input: &[f32],
    count: usize,
    weights: &[W],
    widen: impl Fn(W) -> f32 + Copy,
    columns: &mut [f32],
) {
    let width = input.len() / count;
    let outputs = columns.len() / count;
    let mut output = 0;
    while output < outputs {
        let block = if outputs - output >= 4 { 4 } else { 1 };
        let weights = &weights[output * width..][..block * width];
        let mut row = 0;
        while row < count {
            let rows = if count - row >= 2 { 2 } else { 1 };
            let input = &input[row * width..][..rows * width];
            let place = output * count + row;
            let columns = &mut columns[place..];
            match (block, rows) {
                (4, 2) => tile::<W, 4, 2>(input, weights, widen, columns, count),
                (4, _) => tile::<W, 4, 1>(input, weights, widen, columns, count),
                (_, 2) => tile::<W, 1, 2>(input, weights, widen, columns, count),
                _ => tile::<W, 1, 1>(input, weights, widen, columns, count),
            }
            row += rows;
        }
        output += block;
    }
}

/// `OUT` outputs of `ROWS` rows; output `o` of row `r` goes to `columns[o * stride + r]`.
#[inline(always)]
fn tile<W: Copy, const OUT: usize, const ROWS: usize>(
    input: &[f32],
    weights: &[W],
    widen: impl Fn(W) -> f32 + Copy,
    columns: &mut [f32],
    stride: usize,
) {
    let width = weights.len() / OUT;
    let whole = width / LANES * LANES;
    let mut sums = [[[0.0_f32; LANES]; ROWS]; OUT];
    let mut at = 0;
    while at < whole {
        for out in 0..OUT {
            let weights = &weights[out * width + at..][..LANES];
            for row in 0..ROWS {
                let input = &input[row * width + at..][..LANES];
                for lane in 0..LANES {
                    sums[out][row][lane] += widen(weights[lane]) * input[lane];
                }
            }
        }
        at += LANES;
    }
    for out in 0..OUT {
        for row in 0..ROWS {
            for lane in 0..width - whole {
                let weight = widen(weights[out * width + whole + lane]);
                sums[out][row][lane] += weight * input[row * width + whole + lane];
            }
            columns[out * stride + row] = rows::fold(sums[out][row]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cosines, relative_error};

    fn layers(width: i64, kind: Kind) -> [(Tensor, Option<Tensor>); 3] {
        let weight = |outputs: i64, phase| cosines(&[outputs, width], phase).to_kind(kind);
        [
            (weight(7, 0.1), Some(cosines(&[7], 0.7).to_kind(kind))),
            (weight(300, 0.3), None),
            (weight(1, 0.5), None),
        ]
    }

    #[test]
    fn products_are_those_of_libtorch() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (count, width) in [(1, 5), (2, 64), (3, 67), (8, 256), (16, 300)] {
                let layers = layers(width, kind);
                let input = cosines(&[1, count, width], 0.9);
                let pairs = layers
                    .each_ref()
                    .map(|(weight, bias)| (weight, bias.as_ref()));
                let found = products(&input, pairs).unwrap().unwrap();
                for ((weight, bias), found) in layers.iter().zip(found) {
                    let bias = bias.as_ref().map(|bias| bias.to_kind(Kind::Float));
                    let expected = input.linear(&weight.to_kind(Kind::Float), bias.as_ref());
                    assert!(
                        relative_error(&found, &expected) < 1e-5,
                        "{count} x {width}"
                    );
                }
            }
        }
    }

    /// What continuous batching relies on.
    #[test]
    fn a_row_has_the_same_bits_whatever_is_beside_it() {
        let layers = layers(500, Kind::Float);
        let pairs = layers
            .each_ref()
            .map(|(weight, bias)| (weight, bias.as_ref()));
        let input = cosines(&[9, 500], 0.2);
        let all = products(&input, pairs).unwrap().unwrap();
        for (first, count) in [(0, 1), (3, 2), (2, 5), (8, 1)] {
            let some = products(&input.narrow(0, first, count), pairs)
                .unwrap()
                .unwrap();
            for (all, some) in all.iter().zip(some) {
                assert_eq!(all.narrow(0, first, count), some);
            }
        }
    }

    #[test]
    fn other_work_is_left_to_libtorch() {
        let [(weight, _), ..] = layers(8, Kind::Float);
        let none =
            |input: &Tensor, weight: &Tensor| products(input, [(weight, None)]).unwrap().is_none();
        assert!(none(&cosines(&[17, 8], 0.1), &weight));
        assert!(none(&cosines(&[2, 9], 0.1), &weight));
        assert!(none(&cosines(&[2, 8], 0.1), &weight.to_kind(Kind::Half)));
        assert!(none(&cosines(&[2, 7], 0.1), &weight.transpose(0, 1)));
        assert!(!none(&cosines(&[2, 8], 0.1), &weight));
    }
}
