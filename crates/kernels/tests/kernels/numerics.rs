//! Every kernel against plain sums in f64.

use half::bf16;
use storyloom_kernels::{
    Buffer, Dtype, Gate, Launch, MAX_NORM_WIDTH, Modulate, NormEachHead, NormHeads, Rotary,
    SpreadRows, SquareSums,
};

use crate::Machine;

/// So large that it shows.
const EPS: f32 = 1e-3;
/// Around every buffer, to see writes behind its ends: a whole number of vectors of four.
const MARGIN: usize = 64;
const UNTOUCHED: u8 = 0x7e;

/// A tensor with the values that it has after rounding to its type.
struct Values {
    dtype: Dtype,
    values: Vec<f64>,
}

/// Numbers without a pattern around `middle`, up to `reach` away from it.
fn noise(count: usize, seed: u32, middle: f64, reach: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0
    };
    (0..count).map(|_| middle + reach * next()).collect()
}

/// The nearest bf16, the even one of two; rounded once.
///
/// `bf16::from_f64` drops the lower half of the number before it rounds, and through f32 it would be
/// rounded twice: both take what is just above the middle of two for the middle.
fn to_bf16(value: f64) -> bf16 {
    let near = value as f32;
    let below = match f64::from(near).abs() > value.abs() {
        true => f32::from_bits(near.to_bits() - 1),
        false => near,
    };
    // The last bit tells the second step that something was cut off.
    let cut = f64::from(below) != value;
    bf16::from_f32(f32::from_bits(below.to_bits() | u32::from(cut)))
}

#[test]
fn numbers_are_rounded_once() {
    let (unit, half) = (2.0_f64.powi(-7), 2.0_f64.powi(-8));
    for (value, expected) in [
        (1.0 + half, 1.0),
        (1.0 + half + 2.0_f64.powi(-21), 1.0 + unit),
        (1.0 + half + 2.0_f64.powi(-40), 1.0 + unit),
        (1.0 + half - 2.0_f64.powi(-40), 1.0),
        (1.0 + unit + half, 1.0 + 2.0 * unit),
        (1.0 + unit + half - 2.0_f64.powi(-40), 1.0 + unit),
        (2.0_f64.powi(-135), 0.0),
        (2.0_f64.powi(-133) * 0.75, 2.0_f64.powi(-133)),
        (3.4e38, f64::INFINITY),
        (1e300, f64::INFINITY),
        (0.0, 0.0),
    ] {
        assert_eq!(f64::from(to_bf16(value)), expected, "{value:e}");
        assert_eq!(f64::from(to_bf16(-value)), -expected, "{value:e}");
    }
    assert!(to_bf16(f64::NAN).is_nan());
    for value in noise(10_000, 3, 0.5, 40.0) {
        // Every neighbour is at least as far away.
        let (found, bits) = (to_bf16(value), to_bf16(value).to_bits());
        for other in [bits.wrapping_sub(1), bits.wrapping_add(1)].map(bf16::from_bits) {
            let away = |number: bf16| (f64::from(number) - value).abs();
            assert!(away(found) <= away(other), "{value:e}");
        }
    }
}

impl Values {
    fn new(dtype: Dtype, values: Vec<f64>) -> Self {
        let round = |value| match dtype {
            Dtype::F32 => f64::from(value as f32),
            Dtype::Bf16 => f64::from(to_bf16(value)),
        };
        let values = values.into_iter().map(round).collect();
        Self { dtype, values }
    }

    fn f32(values: Vec<f64>) -> Self {
        Self::new(Dtype::F32, values)
    }

    fn bytes(&self) -> Vec<u8> {
        let values = self.values.iter();
        match self.dtype {
            Dtype::F32 => values.flat_map(|&x| (x as f32).to_ne_bytes()).collect(),
            Dtype::Bf16 => values.flat_map(|&x| to_bf16(x).to_ne_bytes()).collect(),
        }
    }
}

fn size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 => 2,
    }
}

/// One machine, and whether its buffers start where four elements may move at once.
struct Bench<'a> {
    machine: &'a dyn Machine,
    aligned: bool,
    /// The bytes of every result, to compare two machines.
    results: Vec<u8>,
}

/// A buffer between its margins.
#[derive(Clone, Copy)]
struct Room {
    base: u64,
    start: usize,
    len: usize,
    dtype: Dtype,
}

impl Room {
    fn pointer(self) -> u64 {
        self.base + self.start as u64
    }

    fn buffer(self) -> Buffer {
        let (pointer, dtype) = (self.pointer(), self.dtype);
        Buffer { pointer, dtype }
    }
}

impl Bench<'_> {
    fn upload(&self, values: &Values) -> Room {
        let content = values.bytes();
        let shift = if self.aligned { 0 } else { size(values.dtype) };
        let (start, len) = (MARGIN + shift, content.len());
        let mut bytes = vec![UNTOUCHED; start + len + MARGIN];
        bytes[start..start + len].copy_from_slice(&content);
        let (base, dtype) = (self.machine.upload(&bytes), values.dtype);
        Room {
            base,
            start,
            len,
            dtype,
        }
    }

    /// A buffer to be written, full of NaN.
    fn room(&self, dtype: Dtype, count: usize) -> Room {
        self.upload(&Values::new(dtype, vec![f64::NAN; count]))
    }

    fn index(&self, index: &[i64]) -> u64 {
        let bytes: Vec<u8> = index.iter().flat_map(|row| row.to_ne_bytes()).collect();
        self.machine.upload(&bytes)
    }

    /// Runs `launch` and compares what it wrote into `output`.
    fn expect(&mut self, launch: &Launch, output: Room, expected: &[f64]) {
        self.machine.run(launch);
        let bytes = self.machine.download(output.base);
        let (before, rest) = bytes.split_at(output.start);
        let (content, behind) = rest.split_at(output.len);
        let margins = before.iter().chain(behind);
        assert!(margins.into_iter().all(|&byte| byte == UNTOUCHED));
        let found: Vec<f64> = match output.dtype {
            Dtype::F32 => content
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f64::from(f32::from_ne_bytes(bytes)))
                .collect(),
            Dtype::Bf16 => content
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f64::from(bf16::from_ne_bytes(bytes)))
                .collect(),
        };
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        // A NaN must not be lost in the maximum.
        let error = error.fold(0.0, |most: f64, x| if x <= most { most } else { x }) / largest;
        let allowed = match output.dtype {
            Dtype::F32 => 1e-6,
            // Half a unit in the last place, and what the sum is off.
            Dtype::Bf16 => 1.0 / 256.0 + 1e-6,
        };
        assert!(error <= allowed, "{launch:?}: off by {error:e}");
        self.results.extend(content);
    }
}

/// Runs all kernels on all types, row widths and alignments; returns all that they wrote.
pub fn check(machine: &dyn Machine) -> Vec<u8> {
    let mut results = Vec::new();
    for aligned in [true, false] {
        let mut bench = Bench {
            machine,
            aligned,
            results: Vec::new(),
        };
        // Fewer channels than threads, more than one round of them, and no multiple of four.
        for width in [32, 1400, 75] {
            for index in [false, true] {
                check_modulate(&mut bench, width, index);
                check_gate(&mut bench, width, index);
                check_spread_rows(&mut bench, width, index);
            }
            check_square_sums(&mut bench, width);
        }
        // Heads of whole vectors and of pairs.
        for (heads, dim) in [(3, 24), (12, 128), (5, 6)] {
            for rotated in [false, true] {
                for given in [false, true] {
                    check_norm_heads(&mut bench, heads, dim, rotated, given);
                }
            }
            check_norm_each_head(&mut bench, heads, dim);
        }
        results.extend(bench.results);
    }
    let aligned = true;
    let mut bench = Bench {
        machine,
        aligned,
        results,
    };
    check_modulate(&mut bench, 5120, true);
    check_modulate(&mut bench, MAX_NORM_WIDTH, false);
    check_bf16_rounding(&mut bench);
    check_nothing_to_do(&mut bench);
    bench.results
}

const BOTH: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];
const PAIRS: [(Dtype, Dtype); 4] = [
    (Dtype::F32, Dtype::F32),
    (Dtype::F32, Dtype::Bf16),
    (Dtype::Bf16, Dtype::F32),
    (Dtype::Bf16, Dtype::Bf16),
];
const BATCH: usize = 2;
const TOKENS: usize = 3;
const PLACES: usize = BATCH * TOKENS;

/// The row of each token, and their number.
fn rows_of_tokens(indexed: bool) -> (Vec<i64>, usize) {
    match indexed {
        true => (vec![3, 0, 2, 2, 1, 3], 4),
        false => (vec![0, 0, 0, 1, 1, 1], BATCH),
    }
}

fn check_modulate(bench: &mut Bench, width: usize, indexed: bool) {
    let (index, rows) = rows_of_tokens(indexed);
    let scale = Values::f32(noise(rows * width, 2, 1.0, 0.5));
    let shift = Values::f32(noise(rows * width, 3, 0.0, 0.5));
    for (from, to) in PAIRS {
        let input = Values::new(from, noise(PLACES * width, 1, 0.7, 3.0));
        let mut expected = Vec::new();
        for (values, &row) in input.values.chunks(width).zip(&index) {
            let mean = values.iter().sum::<f64>() / width as f64;
            let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            let factor = 1.0 / (squares / width as f64 + f64::from(EPS)).sqrt();
            let row = row as usize * width;
            for (channel, x) in values.iter().enumerate() {
                let at = row + channel;
                expected.push((x - mean) * factor * scale.values[at] + shift.values[at]);
            }
        }
        let output = bench.room(to, PLACES * width);
        let modulate = Modulate {
            input: bench.upload(&input).buffer(),
            output: output.buffer(),
            scale: bench.upload(&scale).pointer(),
            shift: bench.upload(&shift).pointer(),
            index: indexed.then(|| bench.index(&index)),
            batch: BATCH,
            tokens: TOKENS,
            width,
            eps: EPS,
        };
        bench.expect(&modulate.launch().unwrap(), output, &expected);
    }
}

fn check_gate(bench: &mut Bench, width: usize, indexed: bool) {
    let (index, rows) = rows_of_tokens(indexed);
    let gate = Values::f32(noise(rows * width, 4, 0.5, 1.0));
    for (hidden, value) in PAIRS {
        let hidden = Values::new(hidden, noise(PLACES * width, 5, 0.0, 3.0));
        let value = Values::new(value, noise(PLACES * width, 6, 0.0, 2.0));
        let places = (0..PLACES).flat_map(|place| (0..width).map(move |c| (place, c)));
        let expected: Vec<f64> = places
            .map(|(place, c)| {
                let at = place * width + c;
                let gate = gate.values[index[place] as usize * width + c];
                hidden.values[at] + value.values[at] * gate
            })
            .collect();
        let output = bench.upload(&hidden);
        let gate = Gate {
            hidden: output.buffer(),
            value: bench.upload(&value).buffer(),
            gate: bench.upload(&gate).pointer(),
            index: indexed.then(|| bench.index(&index)),
            batch: BATCH,
            tokens: TOKENS,
            width,
        };
        bench.expect(&gate.launch().unwrap(), output, &expected);
    }
}

fn check_spread_rows(bench: &mut Bench, width: usize, indexed: bool) {
    let (index, rows) = rows_of_tokens(indexed);
    let source = Values::f32(noise(rows * width, 7, 0.0, 1.0));
    let table = Values::f32(noise(width, 8, 0.0, 1.0));
    let places = index
        .iter()
        .flat_map(|&row| (0..width).map(move |c| (row, c)));
    let expected: Vec<f64> = places
        .map(|(row, c)| source.values[row as usize * width + c] + table.values[c])
        .collect();
    for dtype in BOTH {
        let output = bench.room(dtype, PLACES * width);
        let spread = SpreadRows {
            rows: bench.upload(&source).pointer(),
            table: bench.upload(&table).pointer(),
            index: indexed.then(|| bench.index(&index)),
            output: output.buffer(),
            batch: BATCH,
            tokens: TOKENS,
            width,
        };
        bench.expect(&spread.launch().unwrap(), output, &expected);
    }
}

fn check_square_sums(bench: &mut Bench, width: usize) {
    for dtype in BOTH {
        let input = Values::new(dtype, noise(PLACES * width, 9, 0.5, 2.0));
        let expected: Vec<f64> = input
            .values
            .chunks(width)
            .map(|row| row.iter().map(|x| x * x).sum())
            .collect();
        let output = bench.room(Dtype::F32, PLACES);
        let sums = SquareSums {
            input: bench.upload(&input).buffer(),
            output: output.pointer(),
            batch: BATCH,
            tokens: TOKENS,
            width,
        };
        bench.expect(&sums.launch().unwrap(), output, &expected);
    }
}

fn check_norm_heads(bench: &mut Bench, heads: usize, dim: usize, rotated: bool, given: bool) {
    let width = heads * dim;
    let weight = Values::f32(noise(width, 10, 1.5, 0.5));
    let angles = noise(TOKENS * dim / 2, 11, 0.0, 20.0);
    let cos = Values::f32(angles.iter().map(|angle| angle.cos()).collect());
    let sin = Values::f32(angles.iter().map(|angle| angle.sin()).collect());
    // As if more heads, with other values, were elsewhere.
    let factors = Values::f32(noise(PLACES, 12, 0.6, 0.3));
    for (from, to) in PAIRS {
        let input = Values::new(from, noise(PLACES * width, 13, 0.3, 2.0));
        let mut expected = vec![0.0; PLACES * width];
        for (place, row) in input.values.chunks(width).enumerate() {
            let squares = row.iter().map(|x| x * x).sum::<f64>();
            let factor = match given {
                true => factors.values[place],
                false => 1.0 / (squares / width as f64 + f64::from(EPS)).sqrt(),
            };
            let (sample, token) = (place / TOKENS, place % TOKENS);
            for head in 0..heads {
                let to = ((sample * heads + head) * TOKENS + token) * dim;
                for pair in 0..dim / 2 {
                    let at = |odd: usize| {
                        let channel = head * dim + 2 * pair + odd;
                        row[channel] * factor * weight.values[channel]
                    };
                    let angle = token * dim / 2 + pair;
                    let (cos, sin) = match rotated {
                        true => (cos.values[angle], sin.values[angle]),
                        false => (1.0, 0.0),
                    };
                    expected[to + 2 * pair] = at(0) * cos - at(1) * sin;
                    expected[to + 2 * pair + 1] = at(0) * sin + at(1) * cos;
                }
            }
        }
        let output = bench.room(to, PLACES * width);
        let norm = NormHeads {
            input: bench.upload(&input).buffer(),
            output: output.buffer(),
            weight: bench.upload(&weight).pointer(),
            factors: given.then(|| bench.upload(&factors).pointer()),
            rotary: rotated.then(|| Rotary {
                cos: bench.upload(&cos).pointer(),
                sin: bench.upload(&sin).pointer(),
            }),
            batch: BATCH,
            tokens: TOKENS,
            heads,
            dim,
            eps: EPS,
        };
        bench.expect(&norm.launch().unwrap(), output, &expected);
    }
}

/// Two streams, one behind the other in one output.
fn check_norm_each_head(bench: &mut Bench, heads: usize, dim: usize) {
    const OTHERS: usize = 2;
    let (width, all) = (heads * dim, OTHERS + TOKENS);
    let weight = Values::f32(noise(dim, 10, 1.5, 0.5));
    let angles = noise(all * dim / 2, 11, 0.0, 20.0);
    let cos = Values::f32(angles.iter().map(|angle| angle.cos()).collect());
    let sin = Values::f32(angles.iter().map(|angle| angle.sin()).collect());
    for (from, to) in PAIRS {
        let streams = [(0, OTHERS, 13), (OTHERS, TOKENS, 14)].map(|(first, tokens, seed)| {
            let values = noise(BATCH * tokens * width, seed, 0.3, 2.0);
            (first, tokens, Values::new(from, values))
        });
        let mut expected = vec![0.0; BATCH * all * width];
        for (first, tokens, input) in &streams {
            for (place, row) in input.values.chunks(width).enumerate() {
                let (sample, token) = (place / tokens, first + place % tokens);
                for (head, values) in row.chunks(dim).enumerate() {
                    let squares = values.iter().map(|x| x * x).sum::<f64>();
                    let factor = 1.0 / (squares / dim as f64 + f64::from(EPS)).sqrt();
                    let to = ((sample * heads + head) * all + token) * dim;
                    for pair in 0..dim / 2 {
                        let at = |channel: usize| values[channel] * factor * weight.values[channel];
                        let (even, odd) = (at(2 * pair), at(2 * pair + 1));
                        let angle = token * dim / 2 + pair;
                        let (cos, sin) = (cos.values[angle], sin.values[angle]);
                        expected[to + 2 * pair] = even * cos - odd * sin;
                        expected[to + 2 * pair + 1] = even * sin + odd * cos;
                    }
                }
            }
        }
        let output = bench.room(to, BATCH * all * width);
        let launches = streams
            .each_ref()
            .map(|(first, tokens, input)| NormEachHead {
                input: bench.upload(input).buffer(),
                output: output.buffer(),
                weight: bench.upload(&weight).pointer(),
                rotary: Rotary {
                    cos: bench.upload(&cos).pointer(),
                    sin: bench.upload(&sin).pointer(),
                },
                batch: BATCH,
                tokens: *tokens,
                heads,
                dim,
                first: *first,
                all,
                eps: EPS,
            });
        bench.machine.run(&launches[0].launch().unwrap());
        bench.expect(&launches[1].launch().unwrap(), output, &expected);
    }
}

/// Rounding is that of the `half` crate, bit by bit, for what is special too.
fn check_bf16_rounding(bench: &mut Bench) {
    let mut values: Vec<f32> = (0..4096_u32)
        .map(|k| f32::from_bits(k.wrapping_mul(0x0010_3f01) ^ 0x3f80_8000))
        .collect();
    values.extend([
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        0.0,
        -0.0,
    ]);
    // NaNs that rounding up would turn into a zero.
    values.extend([f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_ffff)]);
    // Halfway between two neighbours, below an even and below an odd one.
    values.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff].map(f32::from_bits));
    let bytes = |values: &[f32]| -> Vec<u8> {
        let values = values.iter();
        values.flat_map(|x| x.to_ne_bytes()).collect()
    };
    let width = values.len();
    let output = bench.room(Dtype::Bf16, width);
    let spread = SpreadRows {
        rows: bench.machine.upload(&bytes(&values)),
        // What is added must keep the sign of a zero.
        table: bench.machine.upload(&bytes(&vec![-0.0; width])),
        index: None,
        output: output.buffer(),
        batch: 1,
        tokens: 1,
        width,
    };
    bench.machine.run(&spread.launch().unwrap());
    let found = bench.machine.download(output.base);
    let found = found[output.start..][..output.len].as_chunks().0;
    for (&found, value) in found.iter().zip(values) {
        let (found, expected) = (bf16::from_ne_bytes(found), bf16::from_f32(value));
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{value:e}: {found:e}, not {expected:e}");
    }
}

/// No token, no block.
fn check_nothing_to_do(bench: &mut Bench) {
    let sums = SquareSums {
        input: Buffer::f32(0),
        output: 0,
        batch: 1,
        tokens: 0,
        width: 8,
    };
    bench.machine.run(&sums.launch().unwrap());
}
