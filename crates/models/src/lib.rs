//! Networks, samplers and stage functions of storyloom, on libtorch (crate `tch`).
//!
//! The only crate that knows a tensor library.

pub mod bench;
pub mod bench_share;
pub mod checkpoint;
pub mod clip;
pub mod cuda;
pub mod engine;
pub mod error;
mod flag;
pub mod forward;
pub mod gradients;
pub use storyloom_story::guard;
mod help;
pub mod image;
pub mod inspect;
pub mod language;
pub mod layers;
pub mod loaded;
pub mod lora;
pub mod method;
pub mod noise;
pub mod parts;
mod remote;
pub mod replica;
pub mod sampler;
pub mod scorer;
pub mod shard;
pub mod stage;
pub mod tensor_file;
pub mod text;
pub mod tiny;
pub mod vae;
pub mod wan;
mod wire;

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod replicas_test;
#[cfg(test)]
mod testing;

pub use error::{ModelError, Result};
// The binary sets threads and asks for devices; it names no other tensor library.
pub use tch;
