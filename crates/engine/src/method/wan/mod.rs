//! What all methods on Wan have in common: prompts and pictures in and out of latents, the stages behind
//! their ranks, and the parts of a pipeline.
//!
//! A method says with [`WanMethod`] what its stages are made of. [`Stages`] is what the leader of a replica
//! has of them, and [`serve`] is what the other ranks do.

pub mod adapters;
mod arithmetic;
mod compute;
mod frames;
mod grid;
pub(crate) mod message;
pub mod parts;
mod prompts;
mod stages;

pub use self::arithmetic::Identity;
pub(super) use self::arithmetic::{arithmetic, kind_name};
pub use self::compute::Compute;
pub(super) use self::frames::{FrameDecoder, HasFrames, encode_clip, encode_picture};
pub use self::grid::latent_grid;
pub(super) use self::prompts::Prompts;
pub use self::prompts::TextPair;
pub(super) use self::stages::{Stages, WanMethod, serve};
