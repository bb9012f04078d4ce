//! The autoencoder of pictures that SDXL and FLUX share (diffusers `AutoencoderKL`; specifications
//! `moviedreamer`, section 7.2, and `flux`, section 4).

mod attention;
mod autoencoder;
mod blocks;
mod config;
mod decoder;
mod encoder;

pub use autoencoder::{AutoencoderKl, Moments};
pub use config::AutoencoderKlConfig;
