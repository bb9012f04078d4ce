//! Tokenizers as files of others describe them. The library panics at some files that are no
//! tokenizers, and at words where a file contradicts itself: both are errors here.

use std::path::Path;

use serde::de::IgnoredAny;
use tokenizers::{Encoding, Tokenizer};

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::guard::guarded;

/// Reads a `tokenizer.json`; `path` is for messages.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let bad = |reason: String| {
        let reason = format!("it is no tokenizer ({reason}); download the file again");
        ModelError::bad_file(path, reason)
    };
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| bad(error.to_string()))?;
    let read = guarded(|| Tokenizer::from_bytes(bytes)).map_err(bad)?;
    read.map_err(|error| bad(error.to_string()))
}

/// Tokens of a text, with those that the tokenizer adds to it if they are wanted.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str, adds: bool) -> Result<Encoding> {
    let failed = |reason| ModelError::input("text for the tokenizer", reason);
    let encoded = guarded(|| tokenizer.encode_fast(text, adds)).map_err(failed)?;
    encoded.map_err(|error| failed(error.to_string()))
}

/// Text of tokens.
pub(crate) fn decode(tokenizer: &Tokenizer, tokens: &[u32], skip_special: bool) -> Result<String> {
    let failed = |reason| ModelError::input("tokens", reason);
    let decoded = guarded(|| tokenizer.decode(tokens, skip_special)).map_err(failed)?;
    decoded.map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tokenizer_is_told() {
        let path = Path::new("tokenizer.json");
        // At the last two, the library panics.
        for text in [
            "",
            "[",
            r#"{"version": "1.0"}"#,
            r#"{"model": {}, "decoder": {"type": "Fuse", "#,
            r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": 5}}"#,
        ] {
            let error = read(path, text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.contains("tokenizer.json: it is no tokenizer"),
                "{error}"
            );
        }
    }
}
