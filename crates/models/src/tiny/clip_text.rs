//! A small CLIP text tower and a tokenizer of byte pairs that keeps common words whole.

use std::path::Path;

use serde_json::{Map, Value, json};
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;

use super::hub::write_json;
use super::sheet::Sheet;

/// Width of the pooled vector.
pub(super) const WIDTH: i64 = 48;
/// Tokens of a text at most, as in the published towers.
const POSITIONS: i64 = 77;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// `text_encoder/config.json` for a vocabulary of `vocab_size` rows, whose last is the end token.
pub(super) fn config(vocab_size: i64) -> Value {
    json!({
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": vocab_size - 2,
        "dtype": "bfloat16",
        "eos_token_id": vocab_size - 1,
        "hidden_act": "quick_gelu",
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": POSITIONS,
        "model_type": "clip_text_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": vocab_size - 1,
        "projection_dim": WIDTH,
        "vocab_size": vocab_size,
    })
}

/// The values of the tensor `name`.
pub(super) fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("clip_text/{name}");
    let random = |gain: f32| Sheet::layer(seed, &label, shape, gain);
    match name {
        _ if name.contains("norm") && name.ends_with("weight") => {
            Sheet::noise(seed, &label, shape, 0.02).plus(&Sheet::constant(shape, 1.0))
        }
        _ if name.ends_with("bias") => Sheet::constant(shape, 0.0),
        _ if name.ends_with("token_embedding.weight") => Sheet::noise(seed, &label, shape, 1.0),
        _ if name.ends_with("position_embedding.weight") => Sheet::noise(seed, &label, shape, 0.1),
        _ => random(1.0),
    }
}

/// Writes the files of a tokenizer in the form of the published folders; returns the number of tokens.
pub(super) fn write_tokenizer(folder: &Path, words: &[&str]) -> Result<i64> {
    let merges = merges(words);
    let mut tokens: Vec<String> = letters().iter().map(char::to_string).collect();
    let ends: Vec<String> = tokens
        .iter()
        .map(|letter| format!("{letter}</w>"))
        .collect();
    tokens.extend(ends);
    for [left, right] in &merges {
        let joined = format!("{left}{right}");
        if !tokens.contains(&joined) {
            tokens.push(joined);
        }
    }
    tokens.extend([START, END].map(str::to_owned));
    let ids = (0_u64..).zip(&tokens);
    let vocabulary: Map<String, Value> =
        ids.map(|(id, token)| (token.clone(), id.into())).collect();
    write_json(&folder.join("vocab.json"), &vocabulary.into())?;
    let lines = merges
        .iter()
        .map(|[left, right]| format!("{left} {right}\n"));
    let text: String = std::iter::once("#version: 0.2\n".to_owned())
        .chain(lines)
        .collect();
    let path = folder.join("merges.txt");
    std::fs::write(&path, text).map_err(|error| ModelError::io(path, error))?;
    let special = json!({"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END});
    write_json(&folder.join("special_tokens_map.json"), &special)?;
    let mut config = special;
    config["model_max_length"] = POSITIONS.into();
    config["tokenizer_class"] = "CLIPTokenizer".into();
    write_json(&folder.join("tokenizer_config.json"), &config)?;
    Ok(tokens.len() as i64)
}

/// Pairs that make each word one token: what earlier words leave of it is joined from its front.
fn merges(words: &[&str]) -> Vec<[String; 2]> {
    let mut merges: Vec<[String; 2]> = Vec::new();
    for word in words {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        if let Some(last) = parts.last_mut() {
            last.push_str("</w>");
        }
        for pair in &merges {
            join(&mut parts, pair);
        }
        while let [left, right, ..] = parts.as_slice() {
            let pair = [left.clone(), right.clone()];
            join(&mut parts, &pair);
            merges.push(pair);
        }
    }
    merges
}

/// Joins every place where the two parts of `pair` are neighbours.
fn join(parts: &mut Vec<String>, pair: &[String; 2]) {
    let mut at = 0;
    while at + 1 < parts.len() {
        if parts[at..at + 2] == *pair {
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        at += 1;
    }
}

/// The letter that stands for each byte in files of byte pairs, in their order: printable ones stand for
/// themselves.
fn letters() -> Vec<char> {
    let plain = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let plain: Vec<char> = plain.collect();
    let rest = 256 - plain.len() as u32;
    let others = (0..rest).filter_map(|place| char::from_u32(256 + place));
    plain.iter().copied().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::clip::ClipTokenizer;
    use crate::tiny::text::words;

    #[test]
    fn words_stay_whole_and_no_text_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let rows = write_tokenizer(folder.path(), &words()).unwrap();
        let tokenizer = ClipTokenizer::open(folder.path(), 77).unwrap();
        let ids = |text: &str| tokenizer.encode(text).unwrap();
        let (start, end) = (rows - 2, rows - 1);
        assert_eq!(ids(""), [start, end]);
        for word in words() {
            assert_eq!(ids(word).len(), 3, "{word}");
        }
        assert_ne!(ids("red sun"), ids("sun red"));
        for text in ["Ünïcödé", "色调艳丽", "🎬 scene", "tab\tand\nline", "!"] {
            let ids = ids(text);
            assert!(
                ids.len() > 2 && !ids[1..ids.len() - 1].contains(&end),
                "{text}: {ids:?}"
            );
        }
    }
}
