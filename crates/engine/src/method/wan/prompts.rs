//! What a prompt means, and what the picture should not be.

use std::path::Path;

use storyloom_models::text::{DEFAULT_NEGATIVE_PROMPT, PromptEncoder};
use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::Result;
use tch::Tensor;

/// Text rows of both prompts, `[1, rows, text_dim]` in f32, zero after each prompt's end.
#[derive(Debug)]
pub struct TextPair {
    /// The prompt.
    pub positive: Tensor,
    /// What the picture should not be.
    pub negative: Tensor,
}

/// The text encoder of a pipeline. What was encoded last is known, and so is the negative prompt.
#[derive(Debug)]
pub(in crate::method) struct Prompts {
    encoder: PromptEncoder,
    negative_prompt: String,
    negative: Option<Tensor>,
    last: Option<(String, Tensor)>,
}

impl Prompts {
    /// Loads text encoder and tokenizer of `pipeline`. Without a negative prompt that of the original Wan
    /// code is taken.
    pub(in crate::method) fn open(
        pipeline: &Path,
        target: Target,
        negative_prompt: Option<&str>,
    ) -> Result<Self> {
        Ok(Self {
            encoder: PromptEncoder::open(pipeline, target)?,
            negative_prompt: negative_prompt
                .unwrap_or(DEFAULT_NEGATIVE_PROMPT)
                .to_owned(),
            negative: None,
            last: None,
        })
    }

    /// Rows of the prompt alone, `[1, rows, text_dim]` in f32.
    pub(in crate::method) fn positive(&mut self, prompt: &str) -> Result<Tensor> {
        if let Some((_, rows)) = self.last.as_ref().filter(|(last, _)| last == prompt) {
            return Ok(rows.shallow_clone());
        }
        let rows = self.encoder.encode(prompt)?;
        self.last = Some((prompt.to_owned(), rows.shallow_clone()));
        Ok(rows)
    }

    /// Rows of both prompts.
    pub(in crate::method) fn pair(&mut self, prompt: &str) -> Result<TextPair> {
        let negative = match &self.negative {
            Some(known) => known.shallow_clone(),
            None => self.encoder.encode(&self.negative_prompt)?,
        };
        self.negative = Some(negative.shallow_clone());
        Ok(TextPair {
            positive: self.positive(prompt)?,
            negative,
        })
    }
}
