//! Work on the rows of f32 tensors in host memory, each row read once.
//!
//! libtorch composes a norm, a modulation or a rotation of several passes over memory, which on
//! the CPU costs as much as the products between them. The sums keep one order on every machine:
//! lanes are fixed, and nothing depends on the number of threads.

use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::error::Result;
pub use crate::host::{on_host, values, values_mut};

/// Elements below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 15;

/// Partial sums of one row, so that the compiler may add them side by side.
const LANES: usize = 16;

/// A tensor of the same shape without values.
pub fn empty_like(tensor: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_empty(
        tensor.size(),
        (Kind::Float, tensor.device()),
    )?)
}

/// Calls `work` with the number of each row of `width` elements and the row, on as many threads
/// as libtorch uses.
pub fn for_each_row(output: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1);
    let rows = output.len() / width.max(1);
    if threads == 1 || output.len() < WORTH_A_THREAD {
        for (row, values) in output.chunks_exact_mut(width).enumerate() {
            work(row, values);
        }
        return;
    }
    let share = rows.div_ceil(threads);
    output
        .par_chunks_mut(share * width)
        .enumerate()
        .for_each(|(part, rows)| {
            for (row, values) in rows.chunks_exact_mut(width).enumerate() {
                work(part * share + row, values);
            }
        });
}

/// Sum of `term` over the row, in a fixed order.
#[inline(always)]
pub fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value);
    }
    fold(lanes)
}

/// Sum of the lanes, by halves.
#[inline(always)]
pub fn fold<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Scalar product of two rows of equal length, in a fixed order.
#[inline(always)]
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = left.as_chunks::<LANES>();
    let (others, last) = right.as_chunks::<LANES>();
    for (left, right) in chunks.iter().zip(others) {
        for ((lane, &left), &right) in lanes.iter_mut().zip(left).zip(right) {
            *lane += left * right;
        }
    }
    for ((lane, &left), &right) in lanes.iter_mut().zip(rest).zip(last) {
        *lane += left * right;
    }
    fold(lanes)
}

/// `e^x` to two units in the last place, for `x` in the range of f32; written to be vectorised.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding the constant rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let p = p * (r * r) + r + 1.0;
    let power = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    p * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units() {
        for step in -8_700..=8_800_i32 {
            let x = step as f32 * 0.01;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 2.4e-7, "{x}: {found} {exact}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) < 1e-37);
    }

    #[test]
    fn sums_take_every_element_once() {
        for length in [0, 1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..length).map(|n| n as f32).collect();
            let expected = (0..length).sum::<i32>() as f32;
            assert_eq!(sum(&row, |x| x), expected);
            assert_eq!(dot(&row, &vec![2.0; length as usize]), 2.0 * expected);
        }
    }

    #[test]
    fn rows_are_numbered_alike_for_every_number_of_threads() {
        for (rows, width) in [(3, 5), (1025, 64), (7, 16_384)] {
            let mut output = vec![0.0; rows * width];
            for_each_row(&mut output, width, |row, values| values.fill(row as f32));
            for (place, value) in output.iter().enumerate() {
                assert_eq!(*value, (place / width) as f32);
            }
        }
    }
}
