//! The video diffusion transformer of Wan 2.1 and 2.2.

mod block;
mod conditions;
mod config;
mod embed;
mod transformer;

pub use conditions::{MEMORY_STRIDE, condition_channels, condition_mask, temporal_positions};
pub use config::WanConfig;
pub use transformer::{AppendedTokens, ForwardInputs, TextContext, WanTransformer};
