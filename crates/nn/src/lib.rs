//! What networks are made of, on libtorch (crate `tch`): layers, checkpoints, adapters, shards of
//! ranks, pictures as tensors, noise.
//!
//! No network is here: those are in `storyloom-models`.

pub mod checkpoint;
pub mod cuda;
pub mod dtype;
pub mod error;
mod flag;
pub mod gradients;
pub mod host;
pub mod image;
pub mod layers;
pub mod loaded;
pub mod lora;
pub mod noise;
pub mod runner;
pub mod shard;
#[cfg(not(any(test, feature = "testing")))]
mod stand_in;
#[cfg(any(test, feature = "testing"))]
#[path = "stand_in_tests.rs"]
pub mod stand_in;
pub mod tensor_file;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod threads;

pub use error::{ModelError, Result};
// The program sets threads and asks for devices; it names no other tensor library.
pub use tch;
