//! The vision tower of Qwen2.5-VL: pictures to rows in place of tokens.

mod config;
mod positions;
mod preprocess;
mod tower;

pub use config::VisionConfig;
pub use positions::{PromptPositions, prompt_positions};
pub use preprocess::{ImagePatches, PixelLimits};
pub use tower::VisionTower;
