//! Autoencoders: pictures and clips to latents and back.

pub mod wan;

pub use wan::{AutoencoderKlWan, DECODE_CHUNK, VaeConfig};
