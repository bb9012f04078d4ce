//! Tokenizer and tower together.

use std::path::Path;

use storyloom_nn::checkpoint::Target;
use storyloom_nn::error::{ModelError, Result};
use tch::Tensor;

use super::tokenizer::ClipTokenizer;
use super::tower::{ClipText, ClipTextOutput};

/// Turns texts into rows, pooled vectors and embeddings.
#[derive(Debug)]
pub struct ClipPrompts {
    tokenizer: ClipTokenizer,
    tower: ClipText,
}

impl ClipPrompts {
    /// Opens the folder of a text tower (or of a whole CLIP) and that of its tokenizer, which may be the
    /// same one.
    ///
    /// # Errors
    /// What [`ClipText::open`] and [`ClipTokenizer::open`] refuse.
    pub fn open(tower: &Path, tokenizer: &Path, target: Target) -> Result<Self> {
        let tower = ClipText::open(tower, target)?;
        let rows = tower.config().max_position_embeddings as usize;
        Ok(Self {
            tokenizer: ClipTokenizer::open(tokenizer, rows)?,
            tower,
        })
    }

    /// The tower.
    pub fn tower(&self) -> &ClipText {
        &self.tower
    }

    /// `texts` as typed to states `[texts, rows, hidden]`, with pads up to all positions of the tower,
    /// and one vector of each text; see [`ClipTextOutput`].
    ///
    /// # Errors
    /// No text, and a tokenizer that contradicts itself or its tower.
    pub fn encode(&self, texts: &[&str]) -> Result<ClipTextOutput> {
        self.tower.forward(&self.ids(texts)?)
    }

    /// Embeddings of length 1 in the space of pictures, `[texts, projection]` f32; see
    /// [`ClipText::embed_normalised`].
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and a tower without projection.
    pub fn embed_normalised(&self, texts: &[&str]) -> Result<Tensor> {
        self.tower.embed_normalised(&self.ids(texts)?)
    }

    /// Padded ids, i64 `[texts, rows]`.
    fn ids(&self, texts: &[&str]) -> Result<Tensor> {
        if texts.is_empty() {
            return Err(ModelError::input("texts", "there is none"));
        }
        let rows = texts.iter().map(|text| self.tokenizer.encode_padded(text));
        let ids: Vec<i64> = rows.collect::<Result<Vec<_>>>()?.concat();
        Ok(Tensor::f_from_slice(&ids)?.f_view([texts.len() as i64, -1])?)
    }
}
