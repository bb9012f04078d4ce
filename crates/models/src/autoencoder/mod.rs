//! Autoencoders: pictures and clips to latents and back.

pub mod kl;
pub mod wan;

pub use kl::{AutoencoderKl, AutoencoderKlConfig};
pub use wan::{AutoencoderKlWan, DECODE_CHUNK, VaeConfig};
