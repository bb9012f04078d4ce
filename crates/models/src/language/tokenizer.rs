//! Text to tokens and back.

use std::path::{Path, PathBuf};

use storyloom_nn::checkpoint::read_file;
use storyloom_nn::error::{ModelError, Result};
use tokenizers::Tokenizer;

use crate::text::outside;

/// The tokenizer of a language model.
#[derive(Debug)]
pub struct LanguageTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl LanguageTokenizer {
    /// Reads `tokenizer.json` of a model's folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes = read_file(&path)?;
        let bad = |error: tokenizers::Error| ModelError::bad_file(&path, error.to_string());
        let mut tokenizer = outside::read(&path, &bytes)?;
        tokenizer.with_truncation(None).map_err(bad)?;
        tokenizer.with_padding(None);
        Ok(Self {
            tokenizer,
            path,
            bytes,
        })
    }

    /// Tokens of a text in which special tokens are written out, as chat templates do; none are
    /// added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = outside::encode(&self.tokenizer, text, false)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens without special ones. Bytes that are no whole character become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.decode_with(tokens, true)
    }

    /// Text of tokens, with special ones written out unless they are to be skipped.
    pub fn decode_with(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        outside::decode(&self.tokenizer, tokens, skip_special)
    }

    /// The token that is written like this, if there is one.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }

    /// Entries, special ones included; the model's vocabulary may be larger.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of the file, for other readers of the same format.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The letter that GPT-2 writes for a byte: printable ones stand for themselves, the others for
/// those from U+0100 on.
pub fn letter_of(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or('\u{fffd}')
}
