//! The video diffusion transformer of Wan 2.1 and 2.2.

mod block;
mod config;
mod embed;
mod transformer;

pub use config::{PartFlops, WanConfig};
pub use transformer::{ForwardInputs, TextContext, WanTransformer};
