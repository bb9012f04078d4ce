//! The bytes that each token of a tokenizer stands for.

use std::collections::BTreeMap;

use llguidance::toktrie::TokTrie;
use serde::Deserialize;
use serde_json::Value;
use storyloom_models::language::letter_of;

/// Tokens by their number; those that no text can have are empty.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct File {
    model: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
    #[serde(default)]
    special: bool,
}

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// A letter for every byte, as GPT-2 does.
    Letters,
    /// Text with `▁` for spaces and `<0x0A>` for bytes that are no text, as SentencePiece does.
    Pieces,
    /// Text as it is.
    Plain,
}

impl Vocabulary {
    /// Reads a `tokenizer.json` into `size` tokens.
    pub(super) fn read(bytes: &[u8], size: usize) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let writing = writing_of(&file);
        let letters = bytes_of_letters();
        let mut tokens = vec![Vec::new(); size];
        let mut place = |id: usize, bytes: Vec<u8>| match tokens.get_mut(id) {
            Some(token) => {
                *token = bytes;
                Ok(())
            }
            None => Err(format!("token {id} is beyond the {size} of the model")),
        };
        for (text, id) in entries(&file.model)? {
            let bytes = match writing {
                Writing::Letters => from_letters(&text, &letters),
                Writing::Pieces => from_piece(&text),
                Writing::Plain => text.into_bytes(),
            };
            place(id, bytes)?;
        }
        for Added {
            id,
            content,
            special,
        } in file.added_tokens
        {
            let mut bytes = Vec::new();
            if special {
                bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
            }
            bytes.extend(content.into_bytes());
            place(id, bytes)?;
        }
        Ok(Self { tokens })
    }
}

/// Texts and numbers of a model's vocabulary.
fn entries(model: &Value) -> Result<Vec<(String, usize)>, String> {
    let number = |value: &Value| value.as_u64().and_then(|id| usize::try_from(id).ok());
    match &model["vocab"] {
        Value::Object(map) => map
            .iter()
            .map(|(text, id)| {
                let id = number(id).ok_or_else(|| format!("the token {text:?} has no number"))?;
                Ok((text.clone(), id))
            })
            .collect(),
        Value::Array(list) => (0..)
            .zip(list)
            .map(|(id, entry)| {
                let text = entry[0].as_str();
                let text = text.ok_or_else(|| format!("token {id} has no text"))?;
                Ok((text.to_owned(), id))
            })
            .collect(),
        _ => Err("there is no vocabulary in it".to_owned()),
    }
}

/// By the parts that turn tokens back into text.
fn writing_of(file: &File) -> Writing {
    if has(&file.decoder, "ByteLevel") || has(&file.pre_tokenizer, "ByteLevel") {
        Writing::Letters
    } else if ["Metaspace", "ByteFallback"]
        .iter()
        .any(|kind| has(&file.decoder, kind))
        || file.model["byte_fallback"] == true
    {
        Writing::Pieces
    } else {
        Writing::Plain
    }
}

/// Whether a part is of this type, or has one inside that is.
fn has(part: &Value, kind: &str) -> bool {
    match part {
        Value::Object(map) => {
            map.get("type").is_some_and(|own| own == kind)
                || map.values().any(|inner| has(inner, kind))
        }
        Value::Array(list) => list.iter().any(|inner| has(inner, kind)),
        _ => false,
    }
}

fn bytes_of_letters() -> BTreeMap<char, u8> {
    (0..=255).map(|byte| (letter_of(byte), byte)).collect()
}

/// A token with a character that is no letter of a byte is taken as text.
fn from_letters(text: &str, letters: &BTreeMap<char, u8>) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| letters.get(&c).copied()).collect();
    bytes.unwrap_or_else(|| text.as_bytes().to_vec())
}

fn from_piece(text: &str) -> Vec<u8> {
    let hex = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('\u{2581}', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Vec<Vec<u8>> {
        Vocabulary::read(value.to_string().as_bytes(), 6)
            .unwrap()
            .tokens
    }

    #[test]
    fn letters_are_those_of_gpt_2() {
        assert_eq!(letter_of(b' '), 'Ġ');
        assert_eq!(letter_of(b'\n'), 'Ċ');
        assert_eq!(letter_of(b'A'), 'A');
        assert_eq!(letter_of(0xad), 'Ń');
        assert_eq!(bytes_of_letters().len(), 256);
    }

    #[test]
    fn tokens_are_read_in_each_way_of_writing() {
        let letters = json!({
            "model": {"vocab": {"Ġa": 0, "Ã": 2}},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
            "added_tokens": [{"id": 5, "content": "<end>", "special": true}],
        });
        let tokens = read(letters);
        assert_eq!(tokens[0], b" a");
        assert_eq!(tokens[1], b"");
        assert_eq!(tokens[2], [0xc3]);
        assert_eq!(tokens[5], b"\xff<end>");
        let pieces = json!({
            "model": {"vocab": {"▁a": 0, "<0x0A>": 1, "<0x": 2}, "byte_fallback": true},
        });
        assert_eq!(
            read(pieces)[..3],
            [b" a".to_vec(), b"\n".to_vec(), b"<0x".to_vec()]
        );
        let list = json!({"model": {"vocab": [["▁", -1.0], ["b", -2.0]]}, "decoder": {"type": "Metaspace"}});
        assert_eq!(read(list)[..2], [b" ".to_vec(), b"b".to_vec()]);
        let plain = json!({"model": {"type": "WordLevel", "vocab": {"a▁": 3}}});
        assert_eq!(read(plain)[3], "a▁".as_bytes());
    }

    #[test]
    fn a_tokenizer_larger_than_the_model_is_refused() {
        let file = json!({"model": {"vocab": {"a": 9}}}).to_string();
        assert!(
            Vocabulary::read(file.as_bytes(), 6)
                .unwrap_err()
                .contains("token 9")
        );
        assert!(Vocabulary::read(b"{}", 6).is_err());
    }
}
