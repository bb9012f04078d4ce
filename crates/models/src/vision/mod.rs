//! Networks that look at pictures.

pub mod clip;
