//! From a prompt to the rows the transformer attends to.

pub mod clip;
mod encoder;
mod ids;
pub(crate) mod outside;
mod prompt;
mod special;
mod tokenizer;
mod umt5;

pub use encoder::{PromptEncoder, TEXT_ROWS};
pub use prompt::{DEFAULT_NEGATIVE_PROMPT, clean_prompt};
pub use tokenizer::PromptTokenizer;
pub use umt5::{Umt5Config, Umt5Encoder};
