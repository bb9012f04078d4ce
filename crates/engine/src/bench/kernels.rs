//! `bench kernels`: every fused kernel beside operations of libtorch, its results and its time.

use std::time::Instant;

use serde::Serialize;
use storyloom_nn::cuda::synchronize;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::host::is_host;
use storyloom_nn::layers::fused;
use storyloom_nn::layers::{
    RmsNorm, RotaryTable, TokenIndex, TokenVectors, kernel_state, layer_norm, split_heads,
};
use storyloom_nn::runner::Runner;
use tch::{Device, Kind, Tensor};

use super::name_of;

/// Activations that kernels are tried on.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct KernelShape {
    /// Samples.
    pub batch: i64,
    /// Tokens of a sample.
    pub tokens: i64,
    /// Heads of a token.
    pub heads: i64,
    /// Channels of a head, an even number.
    pub dim: i64,
}

impl KernelShape {
    /// Where the kernels work one by one, for rows that are no whole vectors.
    pub const ODD: Self = Self {
        batch: 2,
        tokens: 37,
        heads: 5,
        dim: 6,
    };

    /// A clip of 81 frames of 832 x 480 in Wan2.2-A14B.
    pub const FULL: Self = Self {
        batch: 1,
        tokens: 32_760,
        heads: 40,
        dim: 128,
    };

    fn width(self) -> i64 {
        self.heads * self.dim
    }

    fn activation(self) -> [i64; 3] {
        [self.batch, self.tokens, self.width()]
    }
}

/// Figures of `bench kernels`.
#[derive(Debug, Clone, Serialize)]
pub struct KernelFigures {
    /// The GPU.
    pub device: String,
    /// Whether all results are right.
    pub passed: bool,
    /// One for each kernel, kinds and shape.
    pub checks: Vec<KernelCheck>,
}

/// A kernel on one shape.
#[derive(Debug, Clone, Serialize)]
pub struct KernelCheck {
    /// The kernel and what it is given.
    pub kernel: String,
    /// The activations.
    pub shape: KernelShape,
    /// Largest difference from libtorch's result, as a share of the largest expected element.
    pub error: f64,
    /// What rounding may explain.
    pub allowed: f64,
    /// Whether the error is that small.
    pub passed: bool,
    /// Seconds of the kernel.
    pub seconds: f64,
    /// 10^9 bytes per second of what it has to read and write.
    pub gigabytes_per_second: f64,
    /// Seconds of libtorch's operations.
    pub libtorch_seconds: f64,
}

/// Runs every kernel on `device` for each shape.
///
/// # Errors
/// There are no kernels for the device, or they cannot be started. Wrong results are no error.
pub fn kernels(device: Device, shapes: &[KernelShape]) -> Result<KernelFigures> {
    let _guard = tch::no_grad_guard();
    let probe = Tensor::f_zeros([1], (Kind::Float, device))?;
    let Some(runner) = fused::kernels(&probe) else {
        let reason = kernel_state(device).err();
        let reason = reason.unwrap_or_else(|| "they are turned off".to_owned());
        return Err(ModelError::input("fused kernels", reason));
    };
    tch::manual_seed(0);
    let mut checks = Vec::new();
    for &shape in shapes {
        let trial = Trial {
            runner,
            device,
            shape,
        };
        trial.modulate(&mut checks)?;
        trial.add_gated(&mut checks)?;
        trial.norm_heads(&mut checks)?;
        trial.norm_each_head(&mut checks)?;
        trial.square_sums(&mut checks)?;
        trial.spread_rows(&mut checks)?;
    }
    Ok(KernelFigures {
        device: name_of(device),
        passed: checks.iter().all(|check| check.passed),
        checks,
    })
}

const KINDS: [Kind; 2] = [Kind::Float, Kind::BFloat16];
const EPS: f64 = 1e-6;
/// Rows of modulation vectors where tokens name theirs.
const ROWS: i64 = 3;

/// All kernels on one shape.
struct Trial<'a> {
    runner: &'a dyn Runner,
    device: Device,
    shape: KernelShape,
}

type Computation<'a> = &'a dyn Fn() -> Result<Tensor>;

/// One kernel, and the same by libtorch.
struct Pair<'a> {
    kernel: String,
    /// Bytes that must be read and written.
    bytes: usize,
    found: Computation<'a>,
    expected: Computation<'a>,
}

impl Trial<'_> {
    fn random(&self, size: &[i64], middle: f64, kind: Kind) -> Result<Tensor> {
        let noise = Tensor::f_randn(size, (Kind::Float, self.device))?;
        Ok(noise.f_add_scalar(middle)?.f_to_kind(kind)?)
    }

    fn index(&self) -> Result<TokenIndex> {
        let tokens = self.shape.batch * self.shape.tokens;
        let rows = (0..tokens).map(|token| token * 7 % ROWS).collect();
        TokenIndex::new(rows, ROWS, self.device)
    }

    fn vectors<'a>(&self, middle: f64, index: Option<&'a TokenIndex>) -> Result<TokenVectors<'a>> {
        let rows = index.map_or(self.shape.batch, |_| ROWS);
        Ok(TokenVectors {
            rows: self.random(&[rows, self.shape.width()], middle, Kind::Float)?,
            index,
        })
    }

    fn modulate(&self, checks: &mut Vec<KernelCheck>) -> Result<()> {
        let index = self.index()?;
        for index in [None, Some(&index)] {
            let (scale, shift) = (self.vectors(1.0, index)?, self.vectors(0.0, index)?);
            for (from, to) in pairs() {
                let input = self.random(&self.shape.activation(), 0.5, from)?;
                checks.push(self.check(&Pair {
                    kernel: format!("modulate {}{}", kinds(&[from, to]), by(index)),
                    bytes: self.bytes(&[from, to]),
                    found: &|| fused::modulate(self.runner, &input, EPS, &scale, &shift, to),
                    expected: &|| {
                        Ok(layer_norm(&input, EPS)?
                            .f_mul_(&scale.broadcast(self.shape.batch)?)?
                            .f_add_(&shift.broadcast(self.shape.batch)?)?
                            .f_to_kind(to)?)
                    },
                })?);
            }
        }
        Ok(())
    }

    fn add_gated(&self, checks: &mut Vec<KernelCheck>) -> Result<()> {
        let index = self.index()?;
        for index in [None, Some(&index)] {
            let gate = self.vectors(0.5, index)?;
            for (hidden_kind, value_kind) in pairs() {
                let hidden = self.random(&self.shape.activation(), 0.0, hidden_kind)?;
                let value = self.random(&self.shape.activation(), 0.0, value_kind)?;
                let add = |mut sum: Tensor| {
                    fused::add_gated(self.runner, &mut sum, &value, &gate)?;
                    Ok(sum)
                };
                let add_by_libtorch = |mut sum: Tensor| -> Result<Tensor> {
                    let gate = gate.broadcast(self.shape.batch)?;
                    Ok(sum.f_addcmul_(&value.f_to_kind(sum.kind())?, &gate)?)
                };
                let pair = Pair {
                    kernel: format!(
                        "add_gated {}{}",
                        kinds(&[hidden_kind, value_kind]),
                        by(index)
                    ),
                    bytes: self.bytes(&[hidden_kind, hidden_kind, value_kind]),
                    found: &|| add(hidden.f_mul_scalar(1.0)?),
                    expected: &|| {
                        let value = value.f_to_kind(Kind::Float)?;
                        let gate = gate.broadcast(self.shape.batch)?;
                        let sum = hidden.f_to_kind(Kind::Float)?.f_addcmul(&value, &gate)?;
                        Ok(sum.f_to_kind(hidden_kind)?)
                    },
                };
                // Timed in place: making the copies takes as long as the work.
                let again: [Computation; 2] = [&|| add(hidden.shallow_clone()), &|| {
                    add_by_libtorch(hidden.shallow_clone())
                }];
                checks.push(self.check_timing(&pair, again)?);
            }
        }
        Ok(())
    }

    fn norm_heads(&self, checks: &mut Vec<KernelCheck>) -> Result<()> {
        let KernelShape {
            batch,
            tokens,
            heads,
            dim,
        } = self.shape;
        let weight = self.random(&[self.shape.width()], 1.5, Kind::Float)?;
        let given = self.random(&[batch, tokens], 2.0, Kind::Float)?;
        let table = self.rotary_table(tokens, dim)?;
        for (from, to) in pairs() {
            let input = self.random(&self.shape.activation(), 0.3, from)?;
            for (factors, rotary) in [
                (None, None),
                (None, Some(&table)),
                (Some(&given), Some(&table)),
            ] {
                let learned = (&weight, EPS);
                let how = [
                    factors.map_or("", |_| ", given factors"),
                    rotary.map_or("", |_| ", rotated"),
                ];
                checks.push(self.check(&Pair {
                    kernel: format!("norm_heads {}{}", kinds(&[from, to]), how.concat()),
                    bytes: self.bytes(&[from, to]),
                    found: &|| {
                        fused::norm_heads(self.runner, &input, learned, factors, heads, rotary, to)
                    },
                    expected: &|| {
                        let input = input.f_to_kind(Kind::Float)?;
                        let factors = match factors {
                            Some(factors) => factors.shallow_clone(),
                            None => mean_square(&input)?.f_add_scalar(EPS)?.f_rsqrt()?,
                        };
                        let normed = input.f_mul(&factors.f_unsqueeze(-1)?)?.f_mul(&weight)?;
                        let normed = split_heads(&normed, heads)?;
                        let rotated = match rotary {
                            Some(table) => table.rotate(&normed)?,
                            None => normed.f_contiguous()?,
                        };
                        Ok(rotated.f_to_kind(to)?)
                    },
                })?);
            }
        }
        Ok(())
    }

    /// Random angles, for `tokens` of heads with `dim` channels.
    fn rotary_table(&self, tokens: i64, dim: i64) -> Result<RotaryTable> {
        let angles = self.random(&[tokens, dim / 2], 0.0, Kind::Float)?;
        Ok(RotaryTable {
            cos: angles.f_cos()?,
            sin: angles.f_sin()?,
        })
    }

    /// One stream; a second one has a launch of its own.
    fn norm_each_head(&self, checks: &mut Vec<KernelCheck>) -> Result<()> {
        let KernelShape {
            tokens, heads, dim, ..
        } = self.shape;
        let weight = self.random(&[dim], 1.5, Kind::Float)?;
        let norm = RmsNorm::from_weight(weight.shallow_clone(), EPS);
        let table = self.rotary_table(tokens, dim)?;
        for (from, to) in pairs() {
            let input = self.random(&self.shape.activation(), 0.3, from)?;
            let streams = [(&input, &norm)];
            checks.push(self.check(&Pair {
                kernel: format!("norm_each_head {}", kinds(&[from, to])),
                bytes: self.bytes(&[from, to]),
                found: &|| fused::norm_each_head(self.runner, &streams, heads, &table, to),
                expected: &|| {
                    let each = split_heads(&input.f_to_kind(Kind::Float)?, heads)?;
                    let factors = mean_square(&each)?.f_add_scalar(EPS)?.f_rsqrt()?;
                    let normed = each.f_mul(&factors.f_unsqueeze(-1)?)?.f_mul(&weight)?;
                    Ok(table.rotate(&normed)?.f_to_kind(to)?)
                },
            })?);
        }
        Ok(())
    }

    fn square_sums(&self, checks: &mut Vec<KernelCheck>) -> Result<()> {
        let width = self.shape.width() as f64;
        for kind in KINDS {
            let input = self.random(&self.shape.activation(), 0.5, kind)?;
            checks.push(self.check(&Pair {
                kernel: format!("square_sums {}", kinds(&[kind])),
                bytes: self.bytes(&[kind]),
                found: &|| fused::square_sums(self.runner, &input),
                expected: &|| {
                    let input = input.f_to_kind(Kind::Float)?;
                    Ok(mean_square(&input)?.f_mul_scalar(width)?)
                },
            })?);
        }
        Ok(())
    }

    fn spread_rows(&self, checks: &mut Vec<KernelCheck>) -> Result<()> {
        let KernelShape { batch, tokens, .. } = self.shape;
        let index = self.index()?;
        let rows = self.vectors(0.0, Some(&index))?;
        let table = self.random(&[self.shape.width()], 0.0, Kind::Float)?;
        for kind in KINDS {
            checks.push(self.check(&Pair {
                kernel: format!("spread_rows {}", kinds(&[kind])),
                bytes: self.bytes(&[kind]),
                found: &|| fused::spread_rows(self.runner, &rows, &table, [batch, tokens], kind),
                expected: &|| Ok(rows.broadcast(batch)?.f_add(&table)?.f_to_kind(kind)?),
            })?);
        }
        Ok(())
    }

    /// Bytes of activations of these kinds.
    fn bytes(&self, activations: &[Kind]) -> usize {
        let elements: i64 = self.shape.activation().iter().product();
        let size: usize = activations
            .iter()
            .map(|kind| kind.elt_size_in_bytes())
            .sum();
        elements.unsigned_abs() as usize * size
    }

    fn check(&self, pair: &Pair) -> Result<KernelCheck> {
        self.check_timing(pair, [pair.found, pair.expected])
    }

    /// Compares the results of `pair` and times `ours` and `theirs`.
    fn check_timing(&self, pair: &Pair, [ours, theirs]: [Computation; 2]) -> Result<KernelCheck> {
        let found = (pair.found)()?;
        let expected = (pair.expected)()?;
        let error = largest_error(&found, &expected)?;
        // Half a step of bf16 is 1/512 of an element; what is nearly halfway may round to either
        // side, so that a whole step is allowed.
        let allowed = match found.kind() {
            Kind::BFloat16 => 1.0 / 128.0,
            _ => 1e-5,
        };
        let fits = found.kind() == expected.kind() && found.size() == expected.size();
        drop((found, expected));
        let seconds = self.time(ours)?;
        Ok(KernelCheck {
            kernel: pair.kernel.clone(),
            shape: self.shape,
            error,
            allowed,
            // A NaN has not passed.
            passed: fits && error <= allowed,
            seconds,
            gigabytes_per_second: pair.bytes as f64 / seconds / 1e9,
            libtorch_seconds: self.time(theirs)?,
        })
    }

    /// Seconds of one call, the fastest of three rounds.
    fn time(&self, work: Computation) -> Result<f64> {
        /// Enough in the queue that starting them costs nothing.
        const CALLS: u32 = 10;
        let calls = if is_host(self.device) { 1 } else { CALLS };
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            synchronize(self.device);
            let start = Instant::now();
            for _ in 0..calls {
                drop(work()?);
            }
            synchronize(self.device);
            best = best.min(start.elapsed().as_secs_f64() / f64::from(calls));
        }
        Ok(best)
    }
}

fn pairs() -> impl Iterator<Item = (Kind, Kind)> {
    KINDS.into_iter().flat_map(|a| KINDS.map(|b| (a, b)))
}

fn kinds(kinds: &[Kind]) -> String {
    let name = |kind: &Kind| match kind {
        Kind::BFloat16 => "bf16",
        _ => "f32",
    };
    kinds.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn by(index: Option<&TokenIndex>) -> &'static str {
    index.map_or("", |_| ", by index")
}

fn mean_square(input: &Tensor) -> Result<Tensor> {
    Ok(input
        .f_square()?
        .f_mean_dim([-1_i64].as_slice(), false, Kind::Float)?)
}

/// `max |found - expected| / max |expected|`.
fn largest_error(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if found.size() != expected.size() {
        return Ok(f64::INFINITY);
    }
    let expected = expected.f_to_kind(Kind::Float)?;
    let most =
        |tensor: &Tensor| -> Result<f64> { Ok(tensor.f_abs()?.f_max()?.f_double_value(&[])?) };
    Ok(most(&found.f_to_kind(Kind::Float)?.f_sub(&expected)?)? / most(&expected)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::stand_in::as_gpu;

    #[test]
    fn every_kernel_is_checked_on_every_pair_of_kinds() {
        let aligned = KernelShape {
            batch: 2,
            tokens: 3,
            heads: 2,
            dim: 16,
        };
        let figures = as_gpu(|| kernels(Device::Cpu, &[KernelShape::ODD, aligned]).unwrap());
        let Some(figures) = figures else {
            return;
        };
        for check in &figures.checks {
            assert!(check.passed, "{check:?}");
            assert!(
                check.seconds > 0.0 && check.libtorch_seconds > 0.0,
                "{check:?}"
            );
        }
        assert!(figures.passed);
        for entry in storyloom_kernels::entries() {
            let (kernel, kinds) = split(entry);
            let start = format!("{kernel} {kinds}");
            let checks = figures.checks.iter();
            let found = checks
                .filter(|check| check.kernel.starts_with(&start))
                .count();
            assert!(found >= 2, "{entry}");
        }
    }

    /// `norm_heads_f32_bf16` to `norm_heads` and `f32 bf16`.
    fn split(entry: &str) -> (String, String) {
        let parts = entry.split('_');
        let (kinds, names): (Vec<_>, Vec<_>) =
            parts.partition(|part| ["f32", "bf16"].contains(part));
        (names.join("_"), kinds.join(" "))
    }

    #[test]
    fn errors_are_shares_of_the_largest_element() {
        let expected = Tensor::from_slice(&[1.0_f32, -4.0, 2.0]);
        let found = Tensor::from_slice(&[1.0_f32, -4.0, 2.2]);
        let error = largest_error(&found, &expected).unwrap();
        assert!((error - 0.05).abs() < 1e-6, "{error}");
        let broken = Tensor::from_slice(&[f32::NAN, -4.0, 2.0]);
        assert!(largest_error(&broken, &expected).unwrap().is_nan());
        assert_eq!(
            largest_error(&found.narrow(0, 0, 2), &expected).unwrap(),
            f64::INFINITY
        );
    }

    #[test]
    fn without_a_gpu_there_is_nothing_to_check() {
        let error = kernels(Device::Cpu, &[KernelShape::ODD])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no NVIDIA GPU"), "{error}");
    }
}
