//! CLIP's text towers and their tokenizer: the pooled vector of FLUX, the rows of SDXL, and the embedding
//! of a text in the space of pictures (specifications `flux`, section 3.2, and `moviedreamer`, section 7.7).

mod config;
mod prompts;
mod tokenizer;
mod tower;

pub use config::ClipTextConfig;
pub use prompts::ClipPrompts;
pub use tokenizer::ClipTokenizer;
pub use tower::{ClipText, ClipTextOutput};
