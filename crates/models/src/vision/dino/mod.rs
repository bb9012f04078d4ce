//! DINOv2 (transformers `Dinov2Model`): how alike pictures are, whatever they are of.

mod config;
mod layer;
mod preprocess;
mod tower;

pub use config::DinoConfig;
pub use preprocess::{DINO_MEAN, DINO_STD, DinoPixels};
pub use tower::{DinoOutput, DinoVision};
