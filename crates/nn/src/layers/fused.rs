//! Layers by the kernels of `storyloom-kernels`, on tensors of a GPU.
//!
//! Every layer that has a kernel also has a composition of libtorch's operations, which computes
//! the same with more passes over memory. It serves where there are no kernels: on other devices,
//! without NVRTC, and for kinds that the kernels do not know.

use std::sync::OnceLock;

use storyloom_kernels::{
    Buffer, Dtype, Gate, Kernels, MAX_NORM_WIDTH, Modulate, NormEachHead, NormHeads, Rotary,
    SpreadRows, SquareSums,
};
use tch::{Device, Kind, Tensor};

use super::Stream;
use super::rotary::RotaryTable;
use super::token_vectors::TokenVectors;
use crate::cuda;
use crate::error::{ModelError, Result};
use crate::flag::{Flag, with_flag};
use crate::gradients;
use crate::runner::Runner;
use crate::stand_in;

/// GPUs of one machine that kernels are kept for; any others do without.
const MOST_DEVICES: usize = 64;

/// The kernels of each GPU, or why there are none.
static LOADED: [OnceLock<Result<Kernels, String>>; MOST_DEVICES] =
    [const { OnceLock::new() }; MOST_DEVICES];

thread_local! {
    static WANTED: Flag = const { Flag::new(true) };
}

/// Does `work` on this thread by compositions of libtorch alone, to compare.
pub fn without_kernels<T>(work: impl FnOnce() -> T) -> T {
    with_flag(&WANTED, false, work)
}

/// What computes with tensors of this kind on this device, if there are kernels for them.
pub fn kernels(tensor: &Tensor) -> Option<&'static dyn Runner> {
    if dtype(tensor.kind()).is_none() || !WANTED.get() || gradients::are_wanted() {
        return None;
    }
    match tensor.device() {
        Device::Cuda(ordinal) => {
            let kernels = loaded(ordinal)?.as_ref().ok()?;
            Some(kernels)
        }
        _ => stand_in::runner(),
    }
}

/// Whether there are kernels for `device`, or else why not.
pub fn kernel_state(device: Device) -> Result<(), String> {
    let Device::Cuda(ordinal) = device else {
        return Err("this is no NVIDIA GPU".to_owned());
    };
    match loaded(ordinal) {
        Some(Ok(_)) => Ok(()),
        Some(Err(reason)) => Err(reason.clone()),
        None => Err(format!("there are kernels for {MOST_DEVICES} GPUs only")),
    }
}

/// Compiles the kernels at the first question.
fn loaded(ordinal: usize) -> Option<&'static Result<Kernels, String>> {
    Some(LOADED.get(ordinal)?.get_or_init(|| {
        cuda::find_nvrtc();
        let loaded = Kernels::load(ordinal).map_err(|error| error.to_string());
        match &loaded {
            Ok(_) => tracing::info!(gpu = ordinal, "norms and gates by fused kernels"),
            Err(reason) => {
                tracing::warn!(
                    gpu = ordinal,
                    "norms and gates by libtorch, slower: {reason}"
                );
            }
        }
        loaded
    }))
}

/// Whether rows of `width` channels can be normalised by [`modulate`].
pub fn takes_row(width: i64) -> bool {
    usize::try_from(width).is_ok_and(|width| width <= MAX_NORM_WIDTH)
}

fn dtype(kind: Kind) -> Option<Dtype> {
    match kind {
        Kind::Float => Some(Dtype::F32),
        Kind::BFloat16 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// `layer_norm(input) * scale + shift`, written in `kind`; see
/// [`modulated_layer_norm`](super::modulated_layer_norm).
pub fn modulate(
    runner: &dyn Runner,
    input: &Tensor,
    eps: f64,
    scale: &TokenVectors,
    shift: &TokenVectors,
    kind: Kind,
) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    let input = input.f_contiguous()?;
    let output = Tensor::f_empty([batch, tokens, width], (kind, input.device()))?;
    let scale = Rows::of(scale, &input)?;
    let shift = Rows::of(shift, &input)?;
    if scale.index != shift.index {
        let reason = "scale and shift are dealt out differently";
        return Err(ModelError::input("modulation", reason));
    }
    let launch = Modulate {
        input: buffer(&input)?,
        output: buffer(&output)?,
        scale: pointer(&scale.vectors),
        shift: pointer(&shift.vectors),
        index: scale.index,
        batch: count(batch),
        tokens: count(tokens),
        width: count(width),
        eps: eps as f32,
    };
    // SAFETY: all are dense tensors of these sizes and kinds on one device, the rows and their
    // index as `Rows` says; the output is new.
    unsafe { runner.run(&launch.launch()?)? };
    Ok(output)
}

/// RMS norm, heads before tokens and rotation, written in the kind of the input; see
/// [`RmsNorm::forward_heads`](super::RmsNorm::forward_heads).
pub fn norm_heads(
    runner: &dyn Runner,
    input: &Tensor,
    (weight, eps): (&Tensor, f64),
    factors: Option<&Tensor>,
    heads: i64,
    rotary: Option<&RotaryTable>,
    kind: Kind,
) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    let dim = width / heads;
    let device = input.device();
    let input = input.f_contiguous()?;
    let output = Tensor::f_empty([batch, heads, tokens, dim], (kind, device))?;
    let weight = floats("weight", weight, &[width], device)?;
    let factors = factors.map(|factors| floats("factors", factors, &[batch, tokens], device));
    let factors = factors.transpose()?;
    let angles = |tensor| floats("rotary table", tensor, &[tokens, dim / 2], device);
    let rotary =
        rotary.map(|table| Ok::<_, ModelError>((angles(&table.cos)?, angles(&table.sin)?)));
    let rotary = rotary.transpose()?;
    let launch = NormHeads {
        input: buffer(&input)?,
        output: buffer(&output)?,
        weight: pointer(&weight),
        factors: factors.as_ref().map(pointer),
        rotary: rotary.as_ref().map(|(cos, sin)| Rotary {
            cos: pointer(cos),
            sin: pointer(sin),
        }),
        batch: count(batch),
        tokens: count(tokens),
        heads: count(heads),
        dim: count(dim),
        eps: eps as f32,
    };
    // SAFETY: all are dense tensors of these sizes and kinds on one device; the output is new.
    unsafe { runner.run(&launch.launch()?)? };
    Ok(output)
}

/// RMS norm of each head by itself, heads before tokens and rotation, of all streams of a joint attention, written
/// in `kind`; see [`joint_heads`](super::joint_heads).
pub fn norm_each_head(
    runner: &dyn Runner,
    streams: &[Stream],
    heads: i64,
    rotary: &RotaryTable,
    kind: Kind,
) -> Result<Tensor> {
    let [all, half] = <[i64; 2]>::try_from(rotary.cos.size()).unwrap_or_default();
    let (batch, dim) = (
        streams.first().map_or(0, |(input, _)| input.size()[0]),
        2 * half,
    );
    let device = rotary.cos.device();
    let output = Tensor::f_empty([batch, heads, all, dim], (kind, device))?;
    let angles = |tensor| floats("rotary table", tensor, &[all, half], device);
    let (cos, sin) = (angles(&rotary.cos)?, angles(&rotary.sin)?);
    let mut first = 0;
    for (input, norm) in streams {
        let tokens = input.size3()?.1;
        let input = dense("stream", input, &[batch, tokens, heads * dim], device)?;
        let weight = floats("weight", norm.weight(), &[dim], device)?;
        let launch = NormEachHead {
            input: buffer(&input)?,
            output: buffer(&output)?,
            weight: pointer(&weight),
            rotary: Rotary {
                cos: pointer(&cos),
                sin: pointer(&sin),
            },
            batch: count(batch),
            tokens: count(tokens),
            heads: count(heads),
            dim: count(dim),
            first: count(first),
            all: count(all),
            eps: norm.eps() as f32,
        };
        // SAFETY: all are dense tensors of these sizes and kinds on one device, and the launch checks that the
        // tokens are in the output, which is new.
        unsafe { runner.run(&launch.launch()?)? };
        first += tokens;
    }
    Ok(output)
}

/// Sums of squares over the last axis of `[batch, tokens, width]`: f32 `[batch, tokens]`.
pub fn square_sums(runner: &dyn Runner, input: &Tensor) -> Result<Tensor> {
    let (batch, tokens, width) = input.size3()?;
    let input = input.f_contiguous()?;
    let output = Tensor::f_empty([batch, tokens], (Kind::Float, input.device()))?;
    let launch = SquareSums {
        input: buffer(&input)?,
        output: pointer(&output),
        batch: count(batch),
        tokens: count(tokens),
        width: count(width),
    };
    // SAFETY: both are dense tensors of these sizes and kinds on one device; the output is new.
    unsafe { runner.run(&launch.launch()?)? };
    Ok(output)
}

/// Adds `value * gate` to `hidden`, which must be dense; see [`add_gated`](super::add_gated).
pub fn add_gated(
    runner: &dyn Runner,
    hidden: &mut Tensor,
    value: &Tensor,
    gate: &TokenVectors,
) -> Result<()> {
    let (batch, tokens, width) = hidden.size3()?;
    let value = dense("gated value", value, &hidden.size(), hidden.device())?;
    let gate = Rows::of(gate, hidden)?;
    let launch = Gate {
        hidden: buffer(hidden)?,
        value: buffer(&value)?,
        gate: pointer(&gate.vectors),
        index: gate.index,
        batch: count(batch),
        tokens: count(tokens),
        width: count(width),
    };
    // SAFETY: all are dense tensors of these sizes and kinds on one device, the rows and their
    // index as `Rows` says. `hidden` is the caller's alone, so that nothing else overlaps it.
    unsafe { runner.run(&launch.launch()?)? };
    Ok(())
}

/// `rows[index] + table` for every token `[batch, tokens, width]`, written in `kind`.
pub fn spread_rows(
    runner: &dyn Runner,
    rows: &TokenVectors,
    table: &Tensor,
    [batch, tokens]: [i64; 2],
    kind: Kind,
) -> Result<Tensor> {
    let width = rows.rows.size2()?.1;
    let device = rows.rows.device();
    let output = Tensor::f_empty([batch, tokens, width], (kind, device))?;
    let rows = Rows::of(rows, &output)?;
    let table = floats("table", table, &[width], device)?;
    let launch = SpreadRows {
        rows: pointer(&rows.vectors),
        table: pointer(&table),
        index: rows.index,
        output: buffer(&output)?,
        batch: count(batch),
        tokens: count(tokens),
        width: count(width),
    };
    // SAFETY: all are dense tensors of these sizes and kinds on one device, the rows and their
    // index as `Rows` says; the output is new.
    unsafe { runner.run(&launch.launch()?)? };
    Ok(output)
}

/// Vectors and the index of their rows that fit tokens: every token has a row that is there.
struct Rows {
    vectors: Tensor,
    index: Option<u64>,
}

impl Rows {
    /// Of `vectors` for the tokens of `like`, `[batch, tokens, width]`.
    fn of(vectors: &TokenVectors, like: &Tensor) -> Result<Self> {
        let (batch, tokens, width) = like.size3()?;
        let device = like.device();
        let (rows, index) = match vectors.index {
            None => (batch, None),
            Some(index) => {
                // An index only names rows below its count.
                let tensor = index.tensor();
                let fits = tensor.size() == [batch * tokens] && tensor.device() == device;
                if !fits || index.count() > vectors.rows.size2()?.0 {
                    let reason = format!("it does not fit {batch} x {tokens} tokens");
                    return Err(ModelError::input("index of modulation rows", reason));
                }
                (vectors.rows.size2()?.0, Some(pointer(tensor)))
            }
        };
        Ok(Self {
            vectors: floats("modulation rows", &vectors.rows, &[rows, width], device)?,
            index,
        })
    }
}

/// `tensor` laid out densely, if it has this size and is on this device.
fn dense(what: &str, tensor: &Tensor, size: &[i64], device: Device) -> Result<Tensor> {
    if tensor.size() != size || tensor.device() != device {
        let found = (tensor.size(), tensor.device());
        let reason = format!("{size:?} on {device:?} is needed, found {found:?}");
        return Err(ModelError::input(what, reason));
    }
    Ok(tensor.f_contiguous()?)
}

/// As [`dense`], in f32.
fn floats(what: &str, tensor: &Tensor, size: &[i64], device: Device) -> Result<Tensor> {
    dense(what, &tensor.f_to_kind(Kind::Float)?, size, device)
}

fn buffer(tensor: &Tensor) -> Result<Buffer> {
    let Some(dtype) = dtype(tensor.kind()).filter(|_| tensor.is_contiguous()) else {
        let reason = format!("kernels take no {:?} with gaps", tensor.kind());
        return Err(ModelError::input("activation", reason));
    };
    Ok(Buffer {
        pointer: pointer(tensor),
        dtype,
    })
}

fn pointer(tensor: &Tensor) -> u64 {
    tensor.data_ptr().expose_provenance() as u64
}

/// Lengths of axes are never negative.
fn count(length: i64) -> usize {
    length.unsigned_abs() as usize
}

/// The kernels as a host compiler translates them, through the same way as on a GPU.
#[cfg(test)]
#[path = "fused_test.rs"]
mod tests;
