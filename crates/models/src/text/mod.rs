//! From a prompt to the rows the transformer attends to.

mod encoder;
pub(crate) mod outside;
mod prompt;
mod tokenizer;
mod umt5;

pub use encoder::{PromptEncoder, TEXT_ROWS};
pub use prompt::{DEFAULT_NEGATIVE_PROMPT, clean_prompt};
pub use tokenizer::PromptTokenizer;
pub use umt5::{Umt5Config, Umt5Encoder};
