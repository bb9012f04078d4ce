//! CLIP's vision tower: similarity of keyframes, and the image branch of Wan 2.1.

mod config;
mod layer;
mod preprocess;
mod tower;

pub use config::ClipVisionConfig;
pub(crate) use config::shared_width;
pub(crate) use layer::{ClipLayer, LayerShape};
pub use preprocess::{
    MEAN as CLIP_MEAN, PixelRule, STD as CLIP_STD, SelectionResize, pixel_values,
};
pub use tower::{ClipOutput, ClipVision};
