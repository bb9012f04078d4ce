//! Captions as token ids.

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_models::text::{PromptTokenizer, TEXT_ROWS, clean_prompt};
use storyloom_models::tiny::write_tokenizer;
use storyloom_nn::tch::{Device, Kind, Tensor};
use storyloom_tinyworld::vocabulary;

use crate::error::{Result, TrainError};

/// The tokenizer of the world.
#[derive(Debug)]
pub struct Words {
    tokenizer: PromptTokenizer,
    rows: i64,
}

/// Token ids of several captions, padded to one length.
#[derive(Debug)]
pub struct Tokens {
    /// `[captions, rows]`, integers.
    pub ids: Tensor,
    /// Of the same shape: 1 for a token, 0 for padding.
    pub mask: Tensor,
}

impl Words {
    /// Writes the tokenizer of the world's vocabulary to `folder` and opens it.
    pub fn write(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| TrainError::io(folder, error))?;
        let vocabulary = vocabulary();
        let words: Vec<&str> = vocabulary.iter().map(String::as_str).collect();
        let rows = write_tokenizer(folder, &words)?;
        Ok(Self {
            tokenizer: PromptTokenizer::open(folder, TEXT_ROWS as usize)?,
            rows,
        })
    }

    /// Rows of the embedding.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// The ids of `captions`.
    pub fn encode(&self, captions: &[String]) -> Result<Tokens> {
        let mut known = BTreeMap::new();
        for caption in captions {
            if !known.contains_key(caption) {
                known.insert(caption, self.tokenizer.encode(&clean_prompt(caption))?);
            }
        }
        let rows = known.values().map(Vec::len).max().unwrap_or(1);
        let mut ids = vec![0_i64; rows * captions.len()];
        let mut mask = vec![0_i64; rows * captions.len()];
        for (place, caption) in captions.iter().enumerate() {
            for (row, &id) in known[caption].iter().enumerate() {
                ids[place * rows + row] = id;
                mask[place * rows + row] = 1;
            }
        }
        let shape = [captions.len() as i64, rows as i64];
        let tensor =
            |values: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_view(shape)?) };
        Ok(Tokens {
            ids: tensor(&ids)?,
            mask: tensor(&mask)?,
        })
    }
}

impl Tokens {
    /// Places the tensors on `device`.
    pub fn on(self, device: Device) -> Result<Self> {
        Ok(Self {
            ids: self.ids.f_to_device(device)?,
            mask: self.mask.f_to_device(device)?,
        })
    }

    /// The mask as f32 `[captions, rows, 1]`.
    pub fn factors(&self) -> Result<Tensor> {
        Ok(self.mask.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?)
    }
}
