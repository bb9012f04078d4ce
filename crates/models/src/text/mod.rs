//! From a prompt to the rows the transformer attends to.

pub mod clip;
mod encoder;
mod flux;
mod ids;
pub(crate) mod outside;
mod prompt;
mod special;
mod t5;
mod t5_prompts;
mod tokenizer;

pub use encoder::{PromptEncoder, TEXT_ROWS};
pub use flux::{FluxPrompts, FluxText};
pub use prompt::{DEFAULT_NEGATIVE_PROMPT, clean_prompt};
pub use t5::{PositionTables, T5Config, T5Encoder};
pub use t5_prompts::T5Prompts;
pub use tokenizer::PromptTokenizer;
