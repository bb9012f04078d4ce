//! CLIP's byte-level pairs (transformers `CLIPTokenizer`).

use std::path::Path;

use serde_json::{Value, json};
use storyloom_nn::checkpoint::{read_file, read_json};
use storyloom_nn::error::{ModelError, Result};
use tokenizers::{Tokenizer, TruncationParams};

use crate::text::outside;
use crate::text::special::special_token;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// The special tokens, contractions, runs of letters, single digits, and runs of everything else but space.
const PIECES: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Turns texts into ids: lower case, start and end token around them.
#[derive(Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    rows: usize,
    pad: i64,
}

impl ClipTokenizer {
    /// Opens the folder of a tokenizer, in either form: `tokenizer.json`, or `vocab.json` with
    /// `merges.txt`. Texts are cut at `rows` tokens, the end token kept.
    ///
    /// The pad token is the one that `tokenizer_config.json` or `special_tokens_map.json` names, else the
    /// end token: the first tokenizer of SDXL pads with its end, the second with "!".
    ///
    /// # Errors
    /// Files that are missing or are no tokenizer, and a pad token that the vocabulary does not have.
    pub fn open(folder: &Path, rows: usize) -> Result<Self> {
        let pad = special_token(folder, "pad_token")?.unwrap_or_else(|| END.to_owned());
        let whole = folder.join("tokenizer.json");
        let (path, text) = match whole.exists() {
            true => (whole.clone(), read_file(&whole)?),
            false => (folder.join("vocab.json"), whole_file(folder, &pad)?),
        };
        let bad = |reason: String| ModelError::bad_file(&path, reason);
        let mut tokenizer = outside::read(&path, &text)?;
        let truncation = TruncationParams {
            max_length: rows,
            ..Default::default()
        };
        let cut = tokenizer.with_truncation(Some(truncation));
        cut.map_err(|error| bad(error.to_string()))?;
        tokenizer.with_padding(None);
        let pad = tokenizer
            .token_to_id(&pad)
            .ok_or_else(|| bad(format!("there is no token {pad:?}, the pad token")))?;
        Ok(Self {
            tokenizer,
            rows,
            pad: i64::from(pad),
        })
    }

    /// Ids of a text, start and end token included, without pads.
    ///
    /// # Errors
    /// A tokenizer that contradicts itself.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = outside::encode(&self.tokenizer, text, true)?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// As [`encode`](Self::encode), with pads behind it up to the number of rows.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_padded(&self, text: &str) -> Result<Vec<i64>> {
        let mut ids = self.encode(text)?;
        ids.resize(self.rows, self.pad);
        Ok(ids)
    }
}

/// The `tokenizer.json` that transformers makes of `vocab.json` and `merges.txt`.
fn whole_file(folder: &Path, pad: &str) -> Result<Vec<u8>> {
    let path = folder.join("vocab.json");
    if !path.exists() {
        let reason = "there is neither tokenizer.json nor vocab.json with merges.txt in it";
        return Err(ModelError::bad_file(folder, reason));
    }
    let vocabulary = read_json(&path)?;
    let id = |token: &str| {
        let missing = || ModelError::bad_file(&path, format!("there is no token {token:?}"));
        vocabulary
            .get(token)
            .and_then(Value::as_u64)
            .ok_or_else(missing)
    };
    let mut added = vec![(id(START)?, START), (id(END)?, END)];
    if ![START, END].contains(&pad) {
        added.push((id(pad)?, pad));
    }
    added.sort_unstable();
    let added: Vec<Value> = added
        .into_iter()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        })
        .collect();
    let pieces = json!({
        "type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Removed", "invert": true,
    });
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pieces, bytes]},
        "post_processor": {
            "type": "RobertaProcessing", "trim_offsets": false, "add_prefix_space": false,
            "sep": [END, id(END)?], "cls": [START, id(START)?],
        },
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": merges(folder)?,
        },
    });
    Ok(file.to_string().into_bytes())
}

/// The lines of `merges.txt` behind its heading.
fn merges(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("merges.txt");
    let bytes = read_file(&path)?;
    let text =
        String::from_utf8(bytes).map_err(|error| ModelError::bad_file(&path, error.to_string()))?;
    let pairs = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("#version"));
    Ok(pairs.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Deserialize;
    use storyloom_nn::testing::golden;

    use super::*;

    #[derive(Deserialize)]
    struct Tokens {
        prompt: String,
        first: Vec<i64>,
        second: Vec<i64>,
    }

    fn folder(name: &str) -> PathBuf {
        golden("clip-tokenizer").join(name)
    }

    fn tokens() -> Vec<Tokens> {
        let text = std::fs::read(golden("clip-tokenizer").join("tokens.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// transformers `CLIPTokenizer`, from the files of the published folders and as it saves itself.
    #[test]
    fn ids_equal_the_reference_in_both_forms() {
        let open = |name| ClipTokenizer::open(&folder(name), 77).unwrap();
        let [first, second, whole] = ["first", "second", "whole"].map(open);
        let tokens = tokens();
        assert!(
            tokens.iter().any(|case| case.first.len() == 77),
            "one is cut"
        );
        assert!(tokens.iter().any(|case| case.first != case.second));
        for case in &tokens {
            let prompt = &case.prompt;
            assert_eq!(first.encode(prompt).unwrap(), case.first, "{prompt:?}");
            assert_eq!(whole.encode(prompt).unwrap(), case.first, "{prompt:?}");
            // Its pad "!" is a special token, so that it is cut out of words.
            assert_eq!(second.encode(prompt).unwrap(), case.second, "{prompt:?}");
        }
    }

    #[test]
    fn pads_are_the_end_token_or_what_the_files_say() {
        for (name, pad) in [("first", 633), ("whole", 633), ("second", 0)] {
            let ids = ClipTokenizer::open(&folder(name), 12)
                .unwrap()
                .encode_padded("a fox");
            let ids = ids.unwrap();
            assert_eq!(ids.len(), 12, "{name}");
            let end = ids.iter().position(|&id| id == 633).unwrap();
            assert!(
                end < 11 && ids[end + 1..].iter().all(|&id| id == pad),
                "{ids:?}"
            );
        }
        let cut = ClipTokenizer::open(&folder("first"), 4)
            .unwrap()
            .encode_padded("a red red fox");
        assert_eq!(
            cut.unwrap()
                .iter()
                .map(|&id| (id == 632, id == 633))
                .collect::<Vec<_>>(),
            [(true, false), (false, false), (false, false), (false, true),]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let work = tempfile::tempdir().unwrap();
        let error = |work: &Path| ClipTokenizer::open(work, 77).unwrap_err().to_string();
        assert!(
            error(work.path()).contains("vocab.json with merges.txt"),
            "{}",
            error(work.path())
        );
        std::fs::copy(
            folder("first").join("vocab.json"),
            work.path().join("vocab.json"),
        )
        .unwrap();
        assert!(
            error(work.path()).contains("merges.txt"),
            "{}",
            error(work.path())
        );
        std::fs::copy(
            folder("first").join("merges.txt"),
            work.path().join("merges.txt"),
        )
        .unwrap();
        std::fs::write(
            work.path().join("tokenizer_config.json"),
            r#"{"pad_token": "[PAD]"}"#,
        )
        .unwrap();
        assert!(
            error(work.path()).contains("[PAD]"),
            "{}",
            error(work.path())
        );
        std::fs::write(work.path().join("vocab.json"), r#"{"a": 0}"#).unwrap();
        assert!(
            error(work.path()).contains("<|startoftext|>"),
            "{}",
            error(work.path())
        );
    }
}
