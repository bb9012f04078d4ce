//! Tokenizer and UMT5 together.

use std::path::Path;

use storyloom_nn::checkpoint::{Target, component_folder};
use storyloom_nn::error::{ModelError, Result};
use tch::{Device, Kind, Tensor};

use super::prompt::clean_prompt;
use super::t5::T5Encoder;
use super::tokenizer::PromptTokenizer;

/// Rows of text the transformer attends to; shorter prompts are followed by rows of zeros.
pub const TEXT_ROWS: i64 = 512;

/// Turns prompts into conditioning rows.
#[derive(Debug)]
pub struct PromptEncoder {
    tokenizer: PromptTokenizer,
    encoder: T5Encoder,
    device: Device,
}

impl PromptEncoder {
    /// Opens `tokenizer/` and `text_encoder/` below a pipeline folder.
    pub fn open(pipeline: &Path, target: Target) -> Result<Self> {
        Ok(Self {
            tokenizer: PromptTokenizer::open(
                &component_folder(pipeline, "tokenizer"),
                TEXT_ROWS as usize,
            )?,
            encoder: T5Encoder::open(&pipeline.join("text_encoder"), target)?,
            device: target.device,
        })
    }

    /// Width of a row.
    pub fn width(&self) -> i64 {
        self.encoder.config().d_model
    }

    /// Cleans, tokenises and encodes a prompt: `[1, 512, width]` in f32, zero after its last
    /// token. The encoder runs at the prompt's true length, which gives the same rows as a
    /// masked run at 512.
    pub fn encode(&self, prompt: &str) -> Result<Tensor> {
        let ids = self.tokenizer.encode(&clean_prompt(prompt))?;
        if ids.is_empty() {
            return Err(ModelError::input(
                "prompt",
                "the tokenizer gave no token, not even an end",
            ));
        }
        let rows = ids.len() as i64;
        let ids = Tensor::f_from_slice(&ids)?.f_view([1, rows])?;
        let encoded = self.encoder.forward(&ids, None)?;
        let padding = [1, TEXT_ROWS - rows, self.width()];
        let padding = Tensor::f_zeros(padding, (Kind::Float, self.device))?;
        Ok(Tensor::f_cat(&[encoded, padding], 1)?)
    }
}
