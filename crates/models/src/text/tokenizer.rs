//! The prompt's tokens.

use std::path::Path;

use storyloom_nn::checkpoint::read_file;
use storyloom_nn::error::{ModelError, Result};
use tokenizers::{Tokenizer, TruncationParams};

use super::outside;

/// Reads `tokenizer.json` and encodes prompts as the encoders of T5 and UMT5 were trained: an end token and no
/// start token.
#[derive(Debug)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
}

impl PromptTokenizer {
    /// Opens the `tokenizer` folder of a checkpoint; prompts are cut at `max_tokens`, the end
    /// token kept.
    pub fn open(folder: &Path, max_tokens: usize) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bad = |error: tokenizers::Error| ModelError::bad_file(&path, error.to_string());
        let text = read_file(&path)?;
        let mut tokenizer = outside::read(&path, &text)?;
        let truncation = TruncationParams {
            max_length: max_tokens,
            ..Default::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(bad)?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer })
    }

    /// The id of a token.
    pub(super) fn id_of(&self, token: &str) -> Option<i64> {
        self.tokenizer.token_to_id(token).map(i64::from)
    }

    /// Token ids of a prompt that is cleaned already where its pipeline cleans, the end token included, without
    /// padding.
    pub fn encode(&self, prompt: &str) -> Result<Vec<i64>> {
        let encoding = outside::encode(&self.tokenizer, prompt, true)?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }
}
