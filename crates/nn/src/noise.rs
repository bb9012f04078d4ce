//! Gaussian noise that depends on nothing but a seed and a position.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3") turns a counter
//! into four 32-bit words; Box-Muller turns them into four normal values. Any rank can draw any
//! slice of the noise, and every machine draws the same.

use storyloom_story::Seed;
use tch::Tensor;

use crate::error::Result;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What the noise is for; different streams of one seed are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The latents of the shot itself.
    Shot,
    /// The slots of its memory pictures.
    Memory,
    /// The weights of a random tiny checkpoint; `Weights(n)` for its n-th tensor.
    Weights(u32),
    /// The tokens of a text.
    Tokens,
}

impl Stream {
    fn number(self) -> u64 {
        match self {
            Self::Shot => 0,
            Self::Memory => 1,
            Self::Tokens => 2,
            Self::Weights(tensor) => (1 << 32) | u64::from(tensor),
        }
    }
}

/// Standard normal noise of `shape` in f32 on the CPU.
pub fn gaussian(seed: Seed, stream: Stream, shape: &[i64]) -> Result<Tensor> {
    let count: i64 = shape.iter().product();
    let values = gaussian_values(seed, stream, 0..count.unsigned_abs());
    Ok(Tensor::f_from_slice(&values)?.f_reshape(shape)?)
}

/// The values of [`gaussian`] at the flat positions `range`.
pub fn gaussian_values(seed: Seed, stream: Stream, range: std::ops::Range<u64>) -> Vec<f32> {
    let mut values = Vec::with_capacity((range.end - range.start) as usize);
    let mut position = range.start;
    while position < range.end {
        let block = four_normals(seed, stream, position / 4);
        let from = (position % 4) as usize;
        let until = ((range.end - position) as usize + from).min(4);
        values.extend_from_slice(&block[from..until]);
        position += (until - from) as u64;
    }
    values
}

/// A number in `[0, 1)` that depends on nothing but its place.
pub fn uniform(seed: Seed, stream: Stream, position: u64) -> f64 {
    let [a, b, ..] = words(seed, stream, position);
    let bits = u64::from(a) << 21 | u64::from(b) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

fn four_normals(seed: Seed, stream: Stream, block: u64) -> [f32; 4] {
    let [a, b, c, d] = words(seed, stream, block);
    let [first, second] = box_muller(a, b);
    let [third, fourth] = box_muller(c, d);
    [first, second, third, fourth]
}

/// Four random words.
fn words(seed: Seed, stream: Stream, block: u64) -> [u32; 4] {
    let stream = stream.number();
    let counter = [
        block as u32,
        (block >> 32) as u32,
        stream as u32,
        (stream >> 32) as u32,
    ];
    let key = [seed.0 as u32, (seed.0 >> 32) as u32];
    philox4x32(counter, key)
}

/// Two independent normal values of two words. `libm` is used for the same bits everywhere.
fn box_muller(a: u32, b: u32) -> [f32; 2] {
    const UNIT: f64 = 1.0 / 4_294_967_296.0;
    let radius = libm::sqrt(-2.0 * libm::log((f64::from(a) + 0.5) * UNIT));
    let angle = std::f64::consts::TAU * f64::from(b) * UNIT;
    [
        (radius * libm::cos(angle)) as f32,
        (radius * libm::sin(angle)) as f32,
    ]
}

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let low = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let high = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors published with the Random123 library.
    #[test]
    fn philox_known_answers() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn a_slice_is_a_slice_of_the_whole() {
        let whole = gaussian_values(Seed(7), Stream::Shot, 0..103);
        for range in [0..1, 3..9, 4..8, 50..103, 102..103] {
            let slice = gaussian_values(Seed(7), Stream::Shot, range.clone());
            assert_eq!(slice, whole[range.start as usize..range.end as usize]);
        }
    }

    #[test]
    fn uniform_numbers_fill_their_range() {
        let values = (0..10_000).map(|position| uniform(Seed(3), Stream::Tokens, position));
        let values: Vec<f64> = values.collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        assert!((values.iter().sum::<f64>() / 1e4 - 0.5).abs() < 0.01);
        assert!(values.iter().any(|&value| value < 1e-3) && values.iter().any(|&v| v > 0.999));
        assert_ne!(uniform(Seed(4), Stream::Tokens, 0), values[0]);
    }

    #[test]
    fn moments_and_independence() {
        let n = 200_000;
        let shot = gaussian_values(Seed(1), Stream::Shot, 0..n);
        let memory = gaussian_values(Seed(1), Stream::Memory, 0..n);
        let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let square: Vec<f32> = shot.iter().map(|v| v * v).collect();
        let product: Vec<f32> = shot.iter().zip(&memory).map(|(a, b)| a * b).collect();
        assert!(mean(&shot).abs() < 0.01);
        assert!((mean(&square) - 1.0).abs() < 0.02);
        assert!(mean(&product).abs() < 0.01);
        assert!(shot.iter().all(|v| v.is_finite()));
    }
}
