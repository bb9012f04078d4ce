//! Fused kernels for the transformer: what lies between its matrix products, each in one pass
//! over memory.
//!
//! The sources in `src/cuda` are compiled when the program runs, for the device that is there, by
//! NVRTC. Neither NVRTC nor a driver is needed to build this crate or to start a program with it.
//!
//! ```no_run
//! use storyloom_kernels::{Buffer, Gate, Kernels};
//! # fn hidden_pointer() -> u64 { 0 }
//! # fn value_pointer() -> u64 { 0 }
//! # fn gate_pointer() -> u64 { 0 }
//! # fn main() -> Result<(), storyloom_kernels::KernelError> {
//! let kernels = Kernels::load(0)?;
//! let gate = Gate {
//!     hidden: Buffer::f32(hidden_pointer()),
//!     value: Buffer::bf16(value_pointer()),
//!     gate: gate_pointer(),
//!     index: None,
//!     batch: 2,
//!     tokens: 1024,
//!     width: 5120,
//! };
//! // SAFETY: the buffers have these shapes, are on device 0, and live until the stream is done.
//! unsafe { kernels.run(&gate.launch()?, std::ptr::null_mut())? };
//! # Ok(())
//! # }
//! ```
//!
//! Activations are f32 or bf16; everything learned and every statistic is f32. All buffers are
//! dense and row-major. Rows move four elements at a time where the last axis is a multiple of
//! four and every buffer starts at a multiple of four of its elements, else one at a time.

mod compile;
mod device;
mod error;
mod launch;
mod libraries;

pub use compile::{Compiled, SOURCE};
pub use device::{Kernels, gpu_uuid};
pub use error::{KernelError, Result};
pub use launch::{
    Buffer, Dtype, Gate, Launch, MAX_NORM_WIDTH, Modulate, NormEachHead, NormHeads, Rotary,
    SpreadRows, SquareSums, entries,
};
pub use libraries::{driver_is_available, nvrtc_is_available, use_nvrtc_folder};
