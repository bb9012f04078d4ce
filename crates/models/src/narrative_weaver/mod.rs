//! Narrative Weaver: what a picture sees of the pictures before it (arXiv 2603.06688).
//!
//! A [`MemoryBank`] holds the latents of the newest pictures and of the condition image, and hands them out as
//! tokens of the diffusion model, [pooled] by their age; [`TypeEmbeddings`] tell the kinds apart. How many tokens
//! there are and where they stand is decided [without tensors](storyloom_story::narrative_weaver). What the language
//! model says of a picture is in [`queries`](crate::language::queries).
//!
//! No weights or code of the method are published. Where the paper is silent, or could not be read, the choices are
//! ours (specification `narrative-weaver`, sections 3.5 and 3.6, marked `[O]` there).
//!
//! [pooled]: pool

mod bank;
mod stream;
mod types;

pub use bank::{Context, MemoryBank, pool};
pub use stream::flux_condition;
pub use types::{ContextConfig, ContextKind, TypeEmbeddings};

#[cfg(test)]
mod tests;
