//! Special tokens, as the files beside a tokenizer name them.

use std::path::Path;

use serde_json::Value;
use storyloom_nn::checkpoint::read_json;
use storyloom_nn::error::Result;

/// What the configs in the folder of a tokenizer call its `pad_token` or another special token; `None` if
/// they do not name it.
pub(super) fn special_token(folder: &Path, key: &str) -> Result<Option<String>> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(file);
        if !path.exists() {
            continue;
        }
        let config = read_json(&path)?;
        let named = match config.get(key) {
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            other => other.and_then(Value::as_str),
        };
        if let Some(token) = named {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_named_as_text_or_with_their_rules() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let named = |key: &str| special_token(folder.path(), key).unwrap();
        assert_eq!(named("pad_token"), None);
        write(
            "special_tokens_map.json",
            r#"{"pad_token": {"content": "!", "lstrip": false}}"#,
        );
        assert_eq!(named("pad_token").as_deref(), Some("!"));
        write(
            "tokenizer_config.json",
            r#"{"pad_token": "<pad>", "eos_token": null}"#,
        );
        assert_eq!(named("pad_token").as_deref(), Some("<pad>"));
        assert_eq!(named("eos_token"), None);
    }
}
