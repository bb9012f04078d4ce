//! A small umT5 and a tokenizer that knows common words, letters and every byte.

use std::path::Path;

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;
use tokenizers::models::unigram::Unigram;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::sheet::Sheet;

/// Width of the text rows.
pub(super) const WIDTH: i64 = 64;

/// The special tokens at the ids that umT5 gives them.
const SPECIAL: [&str; 4] = ["<pad>", "</s>", "<s>", "<unk>"];
/// Id of the unknown token.
const UNKNOWN: usize = 3;

/// Words that stay whole; prompts that share them share tokens.
const WORDS: &str = "a an and are at beside blue boat bright camera child city close cold dark day \
    dog door down face field fire forest from front garden girl gold green hand he her his house \
    in inside into is it light long looks man morning mountain night of old on one open orange \
    out over rain red river road room sea she shot sky slow small snow soft stands street sun \
    table the through to tree two up walks wall warm water white wide wind window with woman \
    wood yellow young";

/// The words of the random checkpoint.
pub(super) fn words() -> Vec<&'static str> {
    WORDS.split_whitespace().collect()
}

/// `text_encoder/config.json` for a vocabulary of `vocab_size` rows.
pub(super) fn config(vocab_size: i64) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["UMT5EncoderModel"],
        "d_ff": 128,
        "d_kv": 16,
        "d_model": WIDTH,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "dtype": "bfloat16",
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": false,
        "is_gated_act": true,
        "layer_norm_epsilon": 1e-6,
        "model_type": "umt5",
        "num_heads": 4,
        "num_layers": 2,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": true,
        "use_cache": false,
        "vocab_size": vocab_size,
    })
}

/// `config.json` of a T5 of the same shape: the second text encoder of FLUX.
pub(super) fn t5_config(vocab_size: i64) -> serde_json::Value {
    let mut config = config(vocab_size);
    config["architectures"] = serde_json::json!(["T5EncoderModel"]);
    config["model_type"] = "t5".into();
    config
}

/// The values of the tensor `name`.
pub(super) fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    fill_as(seed, "text_encoder", name, shape)
}

/// As [`fill`], of the component `place`.
pub(super) fn fill_as(seed: Seed, place: &str, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("{place}/{name}");
    if name.contains("layer_norm") {
        return Sheet::noise(seed, &label, shape, 0.02).plus(&Sheet::constant(shape, 1.0));
    }
    if name == "shared.weight" || name.contains("relative_attention_bias") {
        return Sheet::noise(seed, &label, shape, 1.0);
    }
    // Scores are not scaled by the model: queries and keys are smaller instead.
    let small = name.ends_with(".q.weight") || name.ends_with(".k.weight");
    Sheet::layer(seed, &label, shape, if small { 0.6 } else { 1.0 })
}

/// Writes `tokenizer.json` and `tokenizer_config.json` of a tokenizer that knows `words` besides
/// characters and bytes; returns the embedding rows to have.
pub fn write_tokenizer(folder: &Path, words: &[&str]) -> Result<i64> {
    let path = folder.join("tokenizer.json");
    let bad = |error: tokenizers::Error| ModelError::bad_file(&path, error.to_string());
    let tokenizer = tokenizer(words).map_err(bad)?;
    tokenizer.save(&path, true).map_err(bad)?;
    let config = serde_json::json!({
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": false,
        "eos_token": "</s>",
        "extra_ids": 0,
        "model_max_length": 512,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    });
    super::write_json(&folder.join("tokenizer_config.json"), &config)?;
    let rows = tokenizer.get_vocab_size(true) as i64;
    Ok((rows + 7) / 8 * 8)
}

fn tokenizer(words: &[&str]) -> tokenizers::Result<Tokenizer> {
    let model = Unigram::from(pieces(words), Some(UNKNOWN), true)?;
    let mut tokenizer = Tokenizer::new(model);
    let metaspace = Metaspace::new('▁', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(metaspace.clone()));
    tokenizer.with_decoder(Some(metaspace));
    let template = TemplateProcessing::builder()
        .try_single("$A </s>")?
        .try_pair("$A </s> $B </s>")?
        .special_tokens(vec![("</s>", 1)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    let special: Vec<AddedToken> = SPECIAL
        .iter()
        .map(|token| AddedToken::from(*token, true))
        .collect();
    tokenizer.add_special_tokens(&special);
    Ok(tokenizer)
}

/// The vocabulary with its scores: specials, bytes, printable ASCII, words, best last.
fn pieces(words: &[&str]) -> Vec<(String, f64)> {
    let special = SPECIAL.iter().map(|token| ((*token).to_owned(), 0.0));
    let bytes = (0..=255_u8).map(|byte| (format!("<0x{byte:02X}>"), -12.0));
    let characters = std::iter::once('▁')
        .chain('!'..='~')
        .map(|character| (character.to_string(), -6.0));
    let words = words
        .iter()
        // Single letters are there already, without the space before them.
        .map(|word| (format!("▁{word}"), -4.0 - 0.1 * word.len() as f64));
    special
        .chain(bytes)
        .chain(characters)
        .chain(words)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<u32> {
        let encoding = tokenizer(&words()).unwrap().encode(text, true).unwrap();
        encoding.get_ids().to_vec()
    }

    #[test]
    fn special_ids_and_the_end() {
        let tokenizer = tokenizer(&words()).unwrap();
        for (id, token) in (0..).zip(SPECIAL) {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
        }
        assert_eq!(ids(""), [1]);
        assert_eq!(ids("the sea").len(), 3);
        assert_eq!(*ids("the sea").last().unwrap(), 1);
    }

    #[test]
    fn no_text_has_an_unknown_token() {
        for text in [
            "plain",
            "Ünïcödé",
            "色调艳丽，过曝",
            "🎬 scene",
            "tab\tand\nline",
        ] {
            assert!(!ids(text).contains(&3), "{text}: {:?}", ids(text));
            assert!(ids(text).len() > 2);
        }
        assert_ne!(ids("red sun"), ids("sun red"));
    }
}
