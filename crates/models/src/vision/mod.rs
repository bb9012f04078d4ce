//! Networks that look at pictures.

pub mod clip;
mod crop;
pub mod dino;
