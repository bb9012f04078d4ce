//! The causal video autoencoder of Wan 2.1 and 2.2 (diffusers `AutoencoderKLWan`).
//!
//! Clips are streamed through in chunks. Every causal layer keeps what it needs of the chunks
//! before, so that chunk length is a choice of speed and memory and never of numbers
//! (specification `wan22`, section 3.4).

mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod encoder;
mod resample;

pub use autoencoder::{AutoencoderKlWan, DECODE_CHUNK};
pub use config::VaeConfig;
