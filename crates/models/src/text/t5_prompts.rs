//! Tokenizer and T5 together, the way the FLUX pipelines use them (specification `flux`, section 3.1).

use std::path::Path;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use tch::Tensor;

use super::special::special_token;
use super::t5::T5Encoder;
use super::tokenizer::PromptTokenizer;

/// Turns prompts into rows. A prompt is used as typed, and pads are rows like others: they are encoded without a
/// mask, so the number of rows changes all of them.
#[derive(Debug)]
pub struct T5Prompts {
    tokenizer: PromptTokenizer,
    encoder: T5Encoder,
    rows: usize,
    pad: i64,
}

impl T5Prompts {
    /// Opens the folder of an encoder and that of its tokenizer. Prompts have `rows` rows: longer ones are cut,
    /// the end token kept, and shorter ones are padded.
    ///
    /// # Errors
    /// Files that are missing or do not fit, and a pad token that the vocabulary does not have.
    pub fn open(encoder: &Path, tokenizer: &Path, rows: usize, target: Target) -> Result<Self> {
        let pad = special_token(tokenizer, "pad_token")?.unwrap_or_else(|| "<pad>".to_owned());
        let words = PromptTokenizer::open(tokenizer, rows)?;
        let missing = || {
            let reason = format!("there is no token {pad:?}, the pad token");
            ModelError::bad_file(tokenizer.join("tokenizer.json"), reason)
        };
        Ok(Self {
            pad: words.id_of(&pad).ok_or_else(missing)?,
            tokenizer: words,
            encoder: T5Encoder::open(encoder, target)?,
            rows,
        })
    }

    /// Width of a row.
    pub fn width(&self) -> i64 {
        self.encoder.config().d_model
    }

    /// A prompt, as it is, to `[1, rows, width]` f32. Whole on one rank; no collective.
    ///
    /// # Errors
    /// A tokenizer that contradicts itself or its encoder.
    pub fn encode(&self, prompt: &str) -> Result<Tensor> {
        let ids = self.ids(prompt)?;
        let ids = Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?;
        self.encoder.forward(&ids, None)
    }

    /// Padded ids of a prompt.
    fn ids(&self, prompt: &str) -> Result<Vec<i64>> {
        let mut ids = self.tokenizer.encode(prompt)?;
        ids.resize(self.rows, self.pad);
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storyloom_nn::testing::vectors::write_vector_checkpoint;
    use storyloom_nn::testing::{golden, relative_error};

    use super::*;
    use crate::text::{PositionTables, T5Config, clean_prompt};

    const TYPED: &str = "A \u{201c}small\u{201d} fox &amp; a  lamp";

    fn prompts(rows: usize) -> T5Prompts {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "architectures": ["T5EncoderModel"], "vocab_size": 248, "d_model": 32, "d_kv": 8, "d_ff": 48,
            "num_layers": 3, "num_heads": 4, "feed_forward_proj": "gated-gelu",
        });
        write_vector_checkpoint(folder.path(), &config, |weights| {
            let config = T5Config {
                tables: PositionTables::FirstLayer,
                ..serde_json::from_value(config.clone()).unwrap()
            };
            T5Encoder::load(weights, config).map(drop)
        });
        let tokenizer = golden("umt5").join("tokenizer");
        T5Prompts::open(folder.path(), &tokenizer, rows, Target::CPU_F32).unwrap()
    }

    /// Quotes, entities and white space reach the tokenizer, which is not so where prompts are cleaned.
    #[test]
    fn a_prompt_is_used_as_typed() {
        let prompts = prompts(64);
        let typed = prompts.tokenizer.encode(TYPED).unwrap();
        let ids = prompts.ids(TYPED).unwrap();
        assert_eq!((ids.len(), &ids[..typed.len()]), (64, &typed[..]));
        assert!(ids[typed.len()..].iter().all(|&id| id == 0), "pads are 0");
        assert_eq!(typed.last(), Some(&1), "the end token is 1");
        assert_ne!(prompts.ids(&clean_prompt(TYPED)).unwrap(), ids);
        let cut = self::prompts(5).ids(TYPED).unwrap();
        assert_eq!((cut.len(), cut[4]), (5, 1));
        assert_eq!(cut[..4], typed[..4]);
    }

    /// Pads are seen: neither a mask nor the true length gives the same rows.
    #[test]
    fn pads_are_rows_like_others() {
        let prompts = prompts(40);
        let found = prompts.encode(TYPED).unwrap();
        assert_eq!(found.size(), [1, 40, 32]);
        let ids = prompts.tokenizer.encode(TYPED).unwrap();
        let length = ids.len() as i64;
        let short = Tensor::from_slice(&ids).unsqueeze(0);
        let short = prompts.encoder.forward(&short, None).unwrap();
        let trimmed = found.narrow(1, 0, length);
        assert!(relative_error(&short, &trimmed) > 1e-3);
        let padded = Tensor::from_slice(&prompts.ids(TYPED).unwrap()).unsqueeze(0);
        let mask = padded.ne(0);
        let masked = prompts.encoder.forward(&padded, Some(&mask)).unwrap();
        assert!(relative_error(&masked.narrow(1, 0, length), &trimmed) > 1e-3);
        assert!(relative_error(&masked.narrow(1, 0, length), &short) < 1e-5);
    }
}
