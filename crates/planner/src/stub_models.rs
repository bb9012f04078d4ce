//! Stub language models, to test planners without a checkpoint: one that generates one fixed text, and
//! one that generates random tokens.
//!
//! Their folders have the layout of the hub: a LLaMA of one layer that does nothing, whose last
//! matrix leads from every token to the one that follows it. Anything that runs LLaMAs can run
//! them, this program as well as a server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use storyloom_models::language::letter_of;

/// Most characters of a token.
const LONGEST: usize = 12;
/// What stands for every word of a prompt.
const UNKNOWN: &str = "<unk>";
const USER: &str = "<|user|>";
const ASSISTANT: &str = "<|assistant|>";
const END: &str = "<|end|>";

/// How conversations are written out: the last token is that of the model's own turn.
const TEMPLATE: &str = "{% for m in messages %}<|user|>\n{{ m.content }}\n{% endfor %}\
     {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Writes a model that answers every question with `text`.
///
/// # Errors
/// The folder cannot be written to, or the text is empty.
pub fn write(folder: &Path, text: &str) -> io::Result<()> {
    let tokens = cut(text);
    if tokens.is_empty() {
        return Err(io::Error::other("a text to say must not be empty"));
    }
    let mut vocabulary = vec![UNKNOWN, USER, ASSISTANT, END];
    let first = vocabulary.len();
    vocabulary.extend(tokens.iter().map(String::as_str));
    fs::create_dir_all(folder)?;
    let put = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    let width = vocabulary.len().next_multiple_of(16);
    put("config.json", &config(width))?;
    put("tokenizer.json", &tokenizer(&vocabulary))?;
    write_words(&put)?;
    // From the opening of the model's turn through the text to the end.
    let mut chain = vec![2];
    chain.extend(first..vocabulary.len());
    chain.push(3);
    let mut head = vec![0.0; width * width];
    for pair in chain.windows(2) {
        head[pair[1] * width + pair[0]] = 8.0;
    }
    fs::write(folder.join("model.safetensors"), weights(width, head)?)
}

/// Writes a model that writes any byte after any other, by chance; `seed` decides which are likely.
///
/// # Errors
/// The folder cannot be written to.
pub fn write_babble(folder: &Path, seed: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let put = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    let special = [UNKNOWN, USER, ASSISTANT, END];
    let width = (special.len() + 256).next_multiple_of(16);
    put("config.json", &config(width))?;
    let letters = (0..=255_u8).map(|byte| letter_of(byte).to_string());
    let words: BTreeMap<String, usize> = letters.zip(special.len()..).collect();
    let mut file = tokenizer(&special);
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "use_regex": false, "trim_offsets": true,
    });
    file["pre_tokenizer"] = bytes.clone();
    file["decoder"] = bytes;
    file["model"] = json!({"type": "BPE", "vocab": words, "merges": []});
    put("tokenizer.json", &file)?;
    write_words(&put)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let unit = |random: &mut ChaCha8Rng| random.next_u32() as f32 / u32::MAX as f32;
    let head = (0..width * width)
        .map(|_| 0.2 * unit(&mut random))
        .collect();
    fs::write(folder.join("model.safetensors"), weights(width, head)?)
}

/// What a folder says of its special tokens.
fn write_words(put: &dyn Fn(&str, &Value) -> io::Result<()>) -> io::Result<()> {
    let special = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": 65536,
        "clean_up_tokenization_spaces": false,
        "chat_template": TEMPLATE,
    });
    put("tokenizer_config.json", &special)?;
    let generation = json!({"eos_token_id": 3, "pad_token_id": 3, "do_sample": false});
    put("generation_config.json", &generation)
}

/// Cuts a text into tokens of which no two are equal.
fn cut(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens: Vec<String> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut start = 0;
    while start < chars.len() {
        let mut end = (start + LONGEST).min(chars.len());
        // Longer until it is new; the last one may have to be shorter or to join the one before.
        while seen.contains(&chars[start..end].iter().collect::<String>()) && end < chars.len() {
            end += 1;
        }
        let mut token: String = chars[start..end].iter().collect();
        if seen.contains(&token) {
            let before = tokens.pop().unwrap_or_default();
            seen.remove(&before);
            token = before + &token;
        }
        seen.insert(token.clone());
        tokens.push(token);
        start = end;
    }
    tokens
}

fn config(width: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_size": width,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": width / 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 65536,
        "vocab_size": width,
        "tie_word_embeddings": false,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": null,
        "eos_token_id": 3,
        "pad_token_id": 3,
    })
}

fn tokenizer(vocabulary: &[&str]) -> Value {
    let special = |(id, content): (usize, &&str)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let added: Vec<Value> = vocabulary.iter().enumerate().take(4).map(special).collect();
    let words: BTreeMap<&str, usize> = vocabulary.iter().copied().zip(0..).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": UNKNOWN},
    })
}

/// The tensors of a LLaMA that does nothing but `head`, `[token after, token before]`.
fn weights(width: usize, head: Vec<f32>) -> io::Result<Vec<u8>> {
    let zeros = |rows: usize, columns: usize| vec![0.0_f32; rows * columns];
    let mut embedding = zeros(width, width);
    for token in 0..width {
        embedding[token * width + token] = 1.0;
    }
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut put = |name: String, shape: [usize; 2], values: Vec<f32>| {
        tensors.insert(name, (shape.to_vec(), values));
    };
    put(
        "model.embed_tokens.weight".to_owned(),
        [width, width],
        embedding,
    );
    put("lm_head.weight".to_owned(), [width, width], head);
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        put(
            layer(&format!("self_attn.{name}")),
            [width, width],
            zeros(width, width),
        );
    }
    for name in ["gate_proj", "up_proj"] {
        put(layer(&format!("mlp.{name}")), [16, width], zeros(16, width));
    }
    put(layer("mlp.down_proj"), [width, 16], zeros(width, 16));
    for name in [
        layer("input_layernorm"),
        layer("post_attention_layernorm"),
        "model.norm.weight".to_owned(),
    ] {
        tensors.insert(name, (vec![width], vec![1.0; width]));
    }
    let bytes: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name, (shape, bytes.collect()))
        })
        .collect();
    let views: Result<BTreeMap<&str, TensorView<'_>>, _> = bytes
        .iter()
        .map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes)?;
            Ok((name.as_str(), view))
        })
        .collect();
    let views = views.map_err(|error: safetensors::SafeTensorError| io::Error::other(error))?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_text_and_no_two_are_equal() {
        for text in [
            "ab".repeat(40),
            "{\"a\":1,\"a\":1}".repeat(9),
            "x".to_owned(),
            "äö".repeat(31),
        ] {
            let tokens = cut(&text);
            assert_eq!(tokens.concat(), text);
            let distinct: BTreeSet<_> = tokens.iter().collect();
            assert_eq!(distinct.len(), tokens.len(), "{tokens:?}");
        }
        assert!(write(Path::new("/nowhere"), "").is_err());
    }
}
