//! A small Qwen3 with random weights that writes common words in no order.
//!
//! It is there to try the planner with: under the grammar of a script it writes something that can be
//! read and that the checks of scripts mostly take. Its weights are random but for one channel, which
//! is the same in every position and says how likely a token is by its kind: words are, quotation marks
//! end a text after a dozen of them, and everything else comes where the grammar leaves nothing better.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::shard::Peers;
use storyloom_story::Seed;

use super::hub::{TRANSFORMERS, write_json};
use super::sheet::Sheet;
use super::{layout, write_component};
use crate::language::{Decoder, Family, LanguageConfig, letter_of};

/// Width of the residual stream.
const WIDTH: i64 = 64;
/// What ends a text.
const MARK: &str = "\"";
/// The special tokens, after all others.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// What channel 0 has in every row of the embedding; nothing adds to it.
const STEADY: f32 = 4.0;
/// About what is left of it after the last norm.
const NORMED: f32 = 3.4;
/// Advantage of a quotation mark over a single word.
const ENDS: f32 = 1.9;
/// Disadvantage of everything that is neither.
const RARE: f32 = -12.0;
/// Disadvantage of what could also stand in a text, but comes before single letters where it is due.
const SELDOM: f32 = -8.0;

/// Parts of a script that are one token, so that it takes fewer steps. None of them can stand in a text.
const PARTS: [&str; 8] = [
    "{\"title\":\"",
    ",\"overview\":\"",
    ",\"product\":\"",
    ",\"shots\":[{\"scene\":",
    "},{\"scene\":",
    ",\"cut\":",
    ",\"prompt\":\"",
    ",\"keyframe\":\"",
];
/// Others that can.
const ENDINGS: [&str; 3] = ["true", "false", "}]}"];

/// Words that it writes; none tells what people wear or look like, so that advertisements may have
/// any of them.
const WORDS: &str = "a above across and at beside blue boat bowl bread bridge bright calm camera candle \
    chair circles city clock close coffee cold cup dawn desk door dusk empty evening falls field fills fire \
    flower fog forest garden glass glides glows gold green hand harbour hill in island kettle kitchen lamp \
    lantern leaf light looks low meadow mist moon morning mountain near of on over paper path quiet rain red \
    river rock roof room sand sea shadow shelf shines shore sky slowly snow soft stands star steam stone \
    street sun table tea the to tower tree turns under valley walks wall warm water white wide wind window \
    with wood";

/// How conversations are written out.
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The tokens in the order of their numbers.
struct Vocabulary {
    tokens: Vec<String>,
    /// Pairs that become one token, in order.
    merges: Vec<String>,
}

impl Vocabulary {
    /// Every byte, then the beginnings of the words from left to right, up to the whole words, and the
    /// parts of a script.
    fn new() -> Self {
        let mut tokens: Vec<String> = (0..=255_u8)
            .map(|byte| letter_of(byte).to_string())
            .collect();
        let mut merges = Vec::new();
        for word in WORDS.split_whitespace() {
            let mut piece = letter_of(b' ').to_string();
            for letter in word.chars() {
                let longer = format!("{piece}{letter}");
                if !tokens.contains(&longer) {
                    merges.push(format!("{piece} {letter}"));
                    tokens.push(longer.clone());
                }
                piece = longer;
            }
        }
        tokens.extend(PARTS.iter().chain(&ENDINGS).map(|&part| part.to_owned()));
        Self { tokens, merges }
    }

    /// Number of the first special token.
    fn special(&self) -> usize {
        self.tokens.len()
    }

    /// Rows of the embedding.
    fn rows(&self) -> usize {
        (self.tokens.len() + SPECIAL.len()).next_multiple_of(16)
    }

    /// How likely each token is by its kind, as a difference of its score.
    fn leanings(&self) -> Vec<f32> {
        let space = letter_of(b' ');
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let leaning = |token: &String| match token.strip_prefix(space) {
            Some(word) if words.contains(&word) => 0.0,
            _ if token == MARK => ENDS,
            _ if PARTS.contains(&token.as_str()) => 0.0,
            _ if ENDINGS.contains(&token.as_str()) => SELDOM,
            _ => RARE,
        };
        let mut leanings: Vec<f32> = self.tokens.iter().map(leaning).collect();
        leanings.resize(self.rows(), RARE);
        leanings
    }

    /// `tokenizer.json`.
    fn file(&self) -> Value {
        let special = |(content, id): (&&str, usize)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let added: Vec<Value> = SPECIAL.iter().zip(self.special()..).map(special).collect();
        let vocabulary: BTreeMap<&str, usize> =
            self.tokens.iter().map(String::as_str).zip(0..).collect();
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": false,
        });
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": bytes,
            "post_processor": null,
            "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": "", "end_of_word_suffix": "",
                "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary, "merges": self.merges,
            },
        })
    }
}

fn config(vocabulary: &Vocabulary) -> Value {
    let [end_of_text, end] = [0, 2].map(|place| vocabulary.special() + place);
    json!({
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "dtype": "bfloat16",
        "eos_token_id": end,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "max_position_embeddings": 40_960,
        "max_window_layers": 2,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": null,
        "rope_theta": 1_000_000.0,
        "sliding_window": null,
        "tie_word_embeddings": false,
        "use_cache": true,
        "use_sliding_window": false,
        "vocab_size": vocabulary.rows(),
    })
}

/// The values of the tensor `name`.
fn fill(seed: Seed, leanings: &[f32], name: &str, shape: &[i64]) -> Sheet {
    let label = format!("language/{name}");
    if name.contains("norm") {
        return Sheet::constant(shape, 1.0);
    }
    match name {
        "model.embed_tokens.weight" => {
            let mut sheet = Sheet::noise(seed, &label, shape, 1.0);
            for row in 0..shape[0] {
                sheet.set(&[row, 0], STEADY);
            }
            sheet
        }
        "lm_head.weight" => {
            let mut sheet = Sheet::layer(seed, &label, shape, 1.0);
            // As likely after every word.
            sheet.fill_rows([i64::from(MARK.as_bytes()[0])], 0.0);
            for (row, leaning) in (0..).zip(leanings) {
                sheet.set(&[row, 0], leaning / NORMED);
            }
            sheet
        }
        _ if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => {
            let mut sheet = Sheet::layer(seed, &label, shape, 0.3);
            sheet.fill_rows([0], 0.0);
            sheet
        }
        _ => Sheet::layer(seed, &label, shape, 1.0),
    }
}

/// Writes a tiny language model of the class `Qwen3ForCausalLM` into `dir`, which must not hold a model
/// yet: config, weights, tokenizer, chat template and defaults of sampling, as on the hub.
///
/// Equal seeds give equal files, byte for byte.
///
/// # Errors
/// There is a model already, or the folder cannot be written to.
pub fn init_tiny_language(dir: &Path, seed: Seed) -> Result<()> {
    let place = dir.join("config.json");
    if place.exists() {
        let reason = "there is a model already; remove it or name another folder";
        return Err(ModelError::bad_file(place, reason));
    }
    let vocabulary = Vocabulary::new();
    let config = config(&vocabulary);
    let parsed = LanguageConfig::parse(&config, Family::Qwen3, &place)?;
    let layout = layout(&config, |weights| {
        Decoder::load(weights, parsed, &Peers::default()).map(drop)
    })?;
    let leanings = vocabulary.leanings();
    write_component(dir, TRANSFORMERS, &config, layout, |name, shape| {
        fill(seed, &leanings, name, shape)
    })?;
    let special = vocabulary.special();
    write_json(&dir.join("tokenizer.json"), &vocabulary.file())?;
    write_json(
        &dir.join("tokenizer_config.json"),
        &json!({
            "add_bos_token": false,
            "bos_token": null,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": false,
            "eos_token": SPECIAL[2],
            "model_max_length": 40_960,
            "pad_token": SPECIAL[0],
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": null,
        }),
    )?;
    write_json(
        &dir.join("generation_config.json"),
        &json!({
            "bos_token_id": special,
            "do_sample": true,
            "eos_token_id": [special + 2, special],
            "pad_token_id": special,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::{
        Batch, ChatOptions, Event, LanguageModel, LanguageSettings, Message, Request, Role,
    };

    fn made(seed: u64) -> (tempfile::TempDir, LanguageModel) {
        let folder = tempfile::tempdir().unwrap();
        init_tiny_language(folder.path(), Seed(seed)).unwrap();
        let model = LanguageModel::load(folder.path(), &LanguageSettings::default()).unwrap();
        (folder, model)
    }

    #[test]
    fn words_are_tokens_and_every_text_comes_back() {
        let (_folder, model) = made(1);
        let tokenizer = model.tokenizer();
        let text = " the red kettle stands";
        assert_eq!(tokenizer.encode(text).unwrap().len(), 4);
        for text in [text, "Ünïcödé 🎬\n\"x\"", "<|im_start|>user\n"] {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode_with(&tokens, false).unwrap(), text);
        }
        assert_eq!(
            tokenizer.encode("<|im_end|>").unwrap(),
            model.generation().end_tokens[..1]
        );
        let prompt = model.prompt(
            &[Message::text(Role::User, "A mug.")],
            &ChatOptions::default(),
        );
        let wanted = "<|im_start|>user\nA mug.<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(prompt.unwrap().text, wanted);
    }

    /// Quotation marks come after a dozen words, and nothing else does by itself but the parts of a
    /// script, which its grammar keeps out of texts.
    #[test]
    fn it_writes_words_and_ends_texts() {
        let (_folder, model) = made(2);
        let mut batch = Batch::new(&model, 1).unwrap();
        let sampling = model.generation().sampling(Seed(4), 600);
        batch
            .add(Request {
                tokens: model.tokenizer().encode("A quiet morning").unwrap(),
                images: Vec::new(),
                sampling: crate::language::Sampling {
                    top_k: 0,
                    top_p: 1.0,
                    ..sampling
                },
                constraint: None,
            })
            .unwrap();
        let text = batch
            .run()
            .unwrap()
            .into_iter()
            .find_map(|event| match event {
                Event::Finished { output, .. } => Some(output.text),
                _ => None,
            });
        let text = text.unwrap();
        let text = PARTS
            .iter()
            .fold(text, |text, part| text.replace(part, " "));
        let marks = text.matches('"').count();
        assert!((15..120).contains(&marks), "{marks}: {text}");
        let known: Vec<&str> = WORDS.split_whitespace().collect();
        let words = text.split(['"', ' ']).filter(|word| !word.is_empty());
        let (mine, all) = words.fold((0, 0), |(mine, all), word| {
            (mine + usize::from(known.contains(&word)), all + 1)
        });
        assert!(mine * 20 >= all * 19, "{mine} of {all}: {text}");
    }

    #[test]
    fn equal_seeds_give_equal_files_and_a_model_is_not_written_over() {
        let weights =
            |folder: &tempfile::TempDir| std::fs::read(folder.path().join(TRANSFORMERS)).unwrap();
        let (one, two, other) = (made(5).0, made(5).0, made(6).0);
        assert_eq!(weights(&one), weights(&two));
        assert_ne!(weights(&one), weights(&other));
        let error = init_tiny_language(one.path(), Seed(5)).unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
    }
}
