//! The kernels by what they do, and the launches that they become.
//!
//! A launch is plain data, so that the tests can give the same launches to a host compiler's
//! translation of the same source.

use crate::error::{KernelError, Result};

/// Threads of a block at most, as `__launch_bounds__` in the sources says.
const MAX_THREADS: u32 = 256;

/// Floats of shared memory before the row, as `MAX_WARPS` in the sources says.
const PARTIAL_SUMS: u32 = 32;

/// The widest row that [`Modulate`] takes: it is kept in the shared memory that every device has.
pub const MAX_NORM_WIDTH: usize = 8192;

/// Type of the elements of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// The upper 16 bits of an f32.
    Bf16,
}

/// A dense activation in device memory.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Its first element.
    pub pointer: u64,
    /// Type of its elements.
    pub dtype: Dtype,
}

impl Buffer {
    /// An f32 activation.
    pub fn f32(pointer: u64) -> Self {
        let dtype = Dtype::F32;
        Self { pointer, dtype }
    }

    /// A bf16 activation.
    pub fn bf16(pointer: u64) -> Self {
        let dtype = Dtype::Bf16;
        Self { pointer, dtype }
    }
}

/// One kernel with its arguments. [`Kernels::run`](crate::Kernels::run) puts it into a stream.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Launch {
    /// Name of the kernel in the source, one of [`entries`].
    pub entry: &'static str,
    /// Blocks of the grid, one for each token; none: there is nothing to do.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The arguments in order, each the lower bytes of eight: pointers and sizes fill them, an
    /// f32 takes four.
    pub arguments: Vec<u64>,
}

/// `layer_norm(input, eps) * scale[row] + shift[row]`, the norm without learned values.
///
/// Token `t` of sample `b` takes row `index[b * tokens + t]`, or `b` without an index.
#[derive(Debug, Clone, Copy)]
pub struct Modulate {
    /// `[batch, tokens, width]`.
    pub input: Buffer,
    /// `[batch, tokens, width]`, written.
    pub output: Buffer,
    /// f32 `[rows, width]`.
    pub scale: u64,
    /// f32 `[rows, width]`.
    pub shift: u64,
    /// i64 `[batch * tokens]`.
    pub index: Option<u64>,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Channels of a token, at most [`MAX_NORM_WIDTH`].
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

/// RMS norm over all heads of a token, times `weight`; then every head is rotated. The output has
/// the heads before the tokens.
#[derive(Debug, Clone, Copy)]
pub struct NormHeads {
    /// `[batch, tokens, heads * dim]`.
    pub input: Buffer,
    /// `[batch, heads, tokens, dim]`, written.
    pub output: Buffer,
    /// f32 `[heads * dim]`.
    pub weight: u64,
    /// `1 / sqrt(mean square + eps)` of every token, f32 `[batch, tokens]`, where the mean goes
    /// over more heads than are here. Without it the mean goes over the heads of `input`.
    pub factors: Option<u64>,
    /// Angles; without them nothing is rotated.
    pub rotary: Option<Rotary>,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Channels of a head, an even number.
    pub dim: usize,
    /// Added to the mean square; not used with `factors`.
    pub eps: f32,
}

/// RMS norm of each head by itself, times a `weight` that all heads share; then every head is rotated. The
/// output has the heads before the tokens, and these tokens are a run of its own: other streams of a joint
/// attention have the rest.
#[derive(Debug, Clone, Copy)]
pub struct NormEachHead {
    /// `[batch, tokens, heads * dim]`.
    pub input: Buffer,
    /// `[batch, heads, all, dim]`, written from token `first` on.
    pub output: Buffer,
    /// f32 `[dim]`.
    pub weight: u64,
    /// Angles of all tokens of the output, f32 `[all, dim / 2]`.
    pub rotary: Rotary,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Channels of a head, an even number.
    pub dim: usize,
    /// Where the tokens stand among those of the output.
    pub first: usize,
    /// Tokens of a sample in the output.
    pub all: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// The angles of every token, by which adjacent pairs of channels are rotated.
#[derive(Debug, Clone, Copy)]
pub struct Rotary {
    /// f32 `[tokens, dim / 2]`.
    pub cos: u64,
    /// f32 `[tokens, dim / 2]`.
    pub sin: u64,
}

/// The sum of the squares of every token, which ranks that hold some heads each add up to know the
/// `factors` of [`NormHeads`].
#[derive(Debug, Clone, Copy)]
pub struct SquareSums {
    /// `[batch, tokens, width]`.
    pub input: Buffer,
    /// f32 `[batch * tokens]`, written.
    pub output: u64,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Channels of a token that are here.
    pub width: usize,
}

/// `hidden += value * gate[row]`, with rows as for [`Modulate`].
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// `[batch, tokens, width]`, read and written.
    pub hidden: Buffer,
    /// `[batch, tokens, width]`.
    pub value: Buffer,
    /// f32 `[rows, width]`.
    pub gate: u64,
    /// i64 `[batch * tokens]`.
    pub index: Option<u64>,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Channels of a token.
    pub width: usize,
}

/// `rows[row] + table` for every token, with rows as for [`Modulate`].
#[derive(Debug, Clone, Copy)]
pub struct SpreadRows {
    /// f32 `[rows, width]`.
    pub rows: u64,
    /// f32 `[width]`.
    pub table: u64,
    /// i64 `[batch * tokens]`.
    pub index: Option<u64>,
    /// `[batch, tokens, width]`, written.
    pub output: Buffer,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Channels of a token.
    pub width: usize,
}

/// Names by the types of two activations, f32 before bf16.
type ByTwo = [&'static str; 4];

const MODULATE: ByTwo = [
    "modulate_f32_f32",
    "modulate_f32_bf16",
    "modulate_bf16_f32",
    "modulate_bf16_bf16",
];
const NORM_HEADS: ByTwo = [
    "norm_heads_f32_f32",
    "norm_heads_f32_bf16",
    "norm_heads_bf16_f32",
    "norm_heads_bf16_bf16",
];
const NORM_EACH_HEAD: ByTwo = [
    "norm_each_head_f32_f32",
    "norm_each_head_f32_bf16",
    "norm_each_head_bf16_f32",
    "norm_each_head_bf16_bf16",
];
const ADD_GATED: ByTwo = [
    "add_gated_f32_f32",
    "add_gated_f32_bf16",
    "add_gated_bf16_f32",
    "add_gated_bf16_bf16",
];
const SQUARE_SUMS: [&str; 2] = ["square_sums_f32", "square_sums_bf16"];
const SPREAD_ROWS: [&str; 2] = ["spread_rows_f32", "spread_rows_bf16"];

/// The names of all kernels in the source and in the PTX.
pub fn entries() -> impl Iterator<Item = &'static str> {
    let groups: [&[&str]; 6] = [
        &MODULATE,
        &NORM_HEADS,
        &NORM_EACH_HEAD,
        &ADD_GATED,
        &SQUARE_SUMS,
        &SPREAD_ROWS,
    ];
    groups.into_iter().flatten().copied()
}

fn by_two(names: ByTwo, first: Buffer, second: Buffer) -> &'static str {
    names[2 * first.dtype as usize + second.dtype as usize]
}

impl Modulate {
    /// The launch, if the sizes are such that the kernel takes them.
    pub fn launch(&self) -> Result<Launch> {
        let mut call = Call::new("modulate", self.batch, self.tokens, self.width)?;
        if self.width > MAX_NORM_WIDTH {
            return Err(call.wrong(format!("width {} > {MAX_NORM_WIDTH}", self.width)));
        }
        call.keeps_row = true;
        call.buffer(self.input)?;
        call.pointer(self.scale)?;
        call.pointer(self.shift)?;
        call.optional(self.index);
        call.buffer(self.output)?;
        call.size(self.tokens);
        call.size(self.width);
        call.f32(self.eps);
        Ok(call.launch(by_two(MODULATE, self.input, self.output)))
    }
}

impl NormHeads {
    /// The launch, if the sizes are such that the kernel takes them.
    pub fn launch(&self) -> Result<Launch> {
        let width = self.heads.saturating_mul(self.dim);
        let mut call = Call::new("norm_heads", self.batch, self.tokens, width)?;
        if !self.dim.is_multiple_of(2) {
            return Err(call.wrong(format!("heads of {} channels have no pairs", self.dim)));
        }
        call.buffer(self.input)?;
        call.pointer(self.weight)?;
        call.optional(self.factors);
        match self.rotary {
            Some(Rotary { cos, sin }) => {
                call.pointer(cos)?;
                call.pointer(sin)?;
            }
            None => {
                call.optional(None);
                call.optional(None);
            }
        }
        call.buffer(self.output)?;
        call.size(self.tokens);
        call.size(self.heads);
        call.size(self.dim);
        call.f32(self.eps);
        Ok(call.launch(by_two(NORM_HEADS, self.input, self.output)))
    }
}

impl NormEachHead {
    /// The launch, if the sizes are such that the kernel takes them.
    pub fn launch(&self) -> Result<Launch> {
        let width = self.heads.saturating_mul(self.dim);
        let mut call = Call::new("norm_each_head", self.batch, self.tokens, width)?;
        if !self.dim.is_multiple_of(2) {
            return Err(call.wrong(format!("heads of {} channels have no pairs", self.dim)));
        }
        let fits = self.first.checked_add(self.tokens);
        if fits.is_none_or(|end| end > self.all) {
            let (tokens, first, all) = (self.tokens, self.first, self.all);
            return Err(call.wrong(format!("{tokens} tokens from {first} on are not in {all}")));
        }
        call.buffer(self.input)?;
        call.pointer(self.weight)?;
        call.pointer(self.rotary.cos)?;
        call.pointer(self.rotary.sin)?;
        call.buffer(self.output)?;
        call.size(self.tokens);
        call.size(self.heads);
        call.size(self.dim);
        call.size(self.first);
        call.size(self.all);
        call.f32(self.eps);
        Ok(call.launch(by_two(NORM_EACH_HEAD, self.input, self.output)))
    }
}

impl SquareSums {
    /// The launch, if the sizes are such that the kernel takes them.
    pub fn launch(&self) -> Result<Launch> {
        let mut call = Call::new("square_sums", self.batch, self.tokens, self.width)?;
        call.buffer(self.input)?;
        call.pointer(self.output)?;
        call.size(self.width);
        Ok(call.launch(SQUARE_SUMS[self.input.dtype as usize]))
    }
}

impl Gate {
    /// The launch, if the sizes are such that the kernel takes them.
    pub fn launch(&self) -> Result<Launch> {
        let mut call = Call::new("add_gated", self.batch, self.tokens, self.width)?;
        call.buffer(self.hidden)?;
        call.buffer(self.value)?;
        call.pointer(self.gate)?;
        call.optional(self.index);
        call.size(self.tokens);
        call.size(self.width);
        Ok(call.launch(by_two(ADD_GATED, self.hidden, self.value)))
    }
}

impl SpreadRows {
    /// The launch, if the sizes are such that the kernel takes them.
    pub fn launch(&self) -> Result<Launch> {
        let mut call = Call::new("spread_rows", self.batch, self.tokens, self.width)?;
        call.pointer(self.rows)?;
        call.pointer(self.table)?;
        call.optional(self.index);
        call.buffer(self.output)?;
        call.size(self.tokens);
        call.size(self.width);
        Ok(call.launch(SPREAD_ROWS[self.output.dtype as usize]))
    }
}

/// A launch that is being put together.
struct Call {
    kernel: &'static str,
    blocks: u32,
    width: u32,
    /// Whether a block keeps its row in shared memory.
    keeps_row: bool,
    arguments: Vec<u64>,
}

impl Call {
    fn new(kernel: &'static str, batch: usize, tokens: usize, width: usize) -> Result<Self> {
        let wrong = |reason: String| KernelError::Input { kernel, reason };
        // Grids have at most 2³¹ - 1 blocks. Steps of a thread past the row must fit an int.
        let (most, widest) = (i32::MAX as usize, 1 << 30);
        let blocks = batch.checked_mul(tokens).filter(|&blocks| blocks <= most);
        let Some(blocks) = blocks else {
            return Err(wrong(format!("{batch} * {tokens} tokens are too many")));
        };
        if !(1..=widest).contains(&width) {
            return Err(wrong(format!("{width} channels")));
        }
        Ok(Self {
            kernel,
            blocks: blocks as u32,
            width: width as u32,
            keeps_row: false,
            arguments: Vec::with_capacity(11),
        })
    }

    fn wrong(&self, reason: String) -> KernelError {
        let kernel = self.kernel;
        KernelError::Input { kernel, reason }
    }

    fn buffer(&mut self, buffer: Buffer) -> Result<()> {
        self.pointer(buffer.pointer)
    }

    /// A pointer that the kernel follows.
    fn pointer(&mut self, pointer: u64) -> Result<()> {
        // An empty tensor has no memory.
        if pointer == 0 && self.blocks > 0 {
            let position = self.arguments.len();
            return Err(self.wrong(format!("argument {position} is a null pointer")));
        }
        self.arguments.push(pointer);
        Ok(())
    }

    /// A pointer that may be absent.
    fn optional(&mut self, pointer: Option<u64>) {
        self.arguments.push(pointer.unwrap_or(0));
    }

    fn size(&mut self, size: usize) {
        self.arguments.push(size as u64);
    }

    fn f32(&mut self, value: f32) {
        self.arguments.push(u64::from(value.to_bits()));
    }

    fn launch(self, entry: &'static str) -> Launch {
        let row = if self.keeps_row { self.width } else { 0 };
        let shared_bytes = (PARTIAL_SUMS + row) * size_of::<f32>() as u32;
        // Whole warps, with four elements for every thread as long as the row has them.
        let threads = self.width.div_ceil(4).next_multiple_of(32).min(MAX_THREADS);
        Launch {
            entry,
            blocks: self.blocks,
            threads,
            shared_bytes,
            arguments: self.arguments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate {
            hidden: Buffer::f32(0x1000),
            value: Buffer::bf16(0x2000),
            gate: 0x3000,
            index: None,
            batch: 2,
            tokens: 3,
            width: 520,
        }
    }

    #[test]
    fn a_launch_has_all_arguments_in_order() {
        let launch = gate().launch().unwrap();
        assert_eq!(launch.entry, "add_gated_f32_bf16");
        assert_eq!((launch.blocks, launch.threads), (6, 160));
        assert_eq!(launch.arguments, [0x1000, 0x2000, 0x3000, 0, 3, 520]);
    }

    #[test]
    fn sizes_that_no_kernel_takes_are_refused() {
        let refused = |gate: Gate| gate.launch().unwrap_err().to_string();
        let wide = Gate { width: 0, ..gate() };
        assert_eq!(refused(wide), "add_gated: 0 channels");
        let long = Gate {
            tokens: usize::MAX,
            ..gate()
        };
        assert!(refused(long).ends_with("tokens are too many"));
        let null = Gate { gate: 0, ..gate() };
        assert_eq!(refused(null), "add_gated: argument 2 is a null pointer");

        let modulate = Modulate {
            input: Buffer::f32(16),
            output: Buffer::f32(32),
            scale: 48,
            shift: 64,
            index: Some(80),
            batch: 1,
            tokens: 1,
            width: MAX_NORM_WIDTH,
            eps: 1e-6,
        };
        // Without asking for more, a block may have 48 KiB.
        assert!(modulate.launch().unwrap().shared_bytes <= 48 << 10);
        let width = MAX_NORM_WIDTH + 1;
        let wide = Modulate { width, ..modulate };
        assert_eq!(
            wide.launch().unwrap_err().to_string(),
            "modulate: width 8193 > 8192"
        );

        let heads = NormHeads {
            input: Buffer::f32(16),
            output: Buffer::f32(32),
            weight: 48,
            factors: None,
            rotary: None,
            batch: 1,
            tokens: 1,
            heads: 4,
            dim: 7,
            eps: 1e-6,
        };
        assert_eq!(
            heads.launch().unwrap_err().to_string(),
            "norm_heads: heads of 7 channels have no pairs"
        );
    }

    #[test]
    fn empty_batches_are_launches_of_nothing() {
        let nothing = Gate {
            batch: 0,
            hidden: Buffer::f32(0),
            ..gate()
        };
        assert_eq!(nothing.launch().unwrap().blocks, 0);
    }
}
