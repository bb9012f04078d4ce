//! The stages of a shot that need networks, each on its own.

pub mod decode;
pub mod denoise;
pub mod encode;
pub mod score;
