//! What `config.json` says about a language model, in the spellings of the hub.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};

use super::rotary::RotaryConfig;
use super::vision::VisionConfig;

/// The families of checkpoints that are one network here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3 with one feed-forward layer a block.
    Qwen3,
    /// Qwen3 with a mixture of experts.
    Qwen3Moe,
    /// LLaMA and LLaMA-2.
    Llama,
    /// Qwen2.5-VL: Qwen2.5 and a vision tower.
    Qwen25Vl,
}

impl Family {
    /// The classes of transformers, as `architectures` names them.
    pub const CLASSES: [(&'static str, Self); 5] = [
        ("Qwen2ForCausalLM", Self::Qwen2),
        ("Qwen3ForCausalLM", Self::Qwen3),
        ("Qwen3MoeForCausalLM", Self::Qwen3Moe),
        ("LlamaForCausalLM", Self::Llama),
        ("Qwen2_5_VLForConditionalGeneration", Self::Qwen25Vl),
    ];

    /// The family of a class of transformers.
    pub fn of_class(class: &str) -> Option<Self> {
        let mut classes = Self::CLASSES.iter();
        classes.find_map(|&(name, family)| (name == class).then_some(family))
    }

    fn has_head_norms(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Qwen3Moe)
    }
}

/// A mixture of experts in place of the feed-forward layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertConfig {
    /// Experts of a block.
    pub count: i64,
    /// Experts that a token is sent to.
    pub chosen: i64,
    /// Hidden width of an expert.
    pub width: i64,
    /// Whether the weights of the chosen experts are made to sum to one.
    pub normalised: bool,
    /// Blocks that keep a plain feed-forward layer.
    pub plain_blocks: Vec<i64>,
    /// Every how many blocks there are experts.
    pub every: i64,
}

impl ExpertConfig {
    /// Whether block `index` has experts.
    pub fn in_block(&self, index: i64) -> bool {
        !self.plain_blocks.contains(&index) && (index + 1) % self.every.max(1) == 0
    }
}

/// Shape of a decoder-only language model.
#[derive(Debug, Clone, PartialEq)]
pub struct LanguageConfig {
    /// Which kind of checkpoint it is.
    pub family: Family,
    /// Entries of the vocabulary: rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Hidden width of a plain feed-forward layer.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub blocks: i64,
    /// Heads that ask.
    pub heads: i64,
    /// Heads that are asked; each serves `heads / key_heads` of those that ask.
    pub key_heads: i64,
    /// Channels of a head.
    pub head_dim: i64,
    /// Epsilon of all norms.
    pub norm_eps: f64,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: i64,
    /// Rotary positions.
    pub rotary: RotaryConfig,
    /// Whether queries, keys and values have a bias.
    pub input_bias: bool,
    /// Whether the product after the attention has a bias.
    pub output_bias: bool,
    /// Whether feed-forward layers have biases.
    pub feed_bias: bool,
    /// Whether queries and keys are normalised, head by head.
    pub head_norms: bool,
    /// Experts, if there are any.
    pub experts: Option<ExpertConfig>,
    /// The vision tower and the tokens that stand for pictures, if there is one.
    pub vision: Option<VisionConfig>,
    /// Tokens that end a text, unless `generation_config.json` says otherwise.
    pub end_tokens: Vec<u32>,
}

/// The fields of `config.json` that a text model has, in old and new spellings.
#[derive(Debug, Deserialize)]
struct RawText {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    max_position_embeddings: Option<i64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    num_experts: Option<i64>,
    num_local_experts: Option<i64>,
    num_experts_per_tok: Option<i64>,
    moe_intermediate_size: Option<i64>,
    norm_topk_prob: Option<bool>,
    mlp_only_layers: Option<Vec<i64>>,
    decoder_sparse_step: Option<i64>,
    tie_word_embeddings: Option<bool>,
    eos_token_id: Option<Value>,
}

impl LanguageConfig {
    /// Reads `config.json` of an opened folder.
    ///
    /// # Errors
    /// The class is none of [`Family::CLASSES`], a field is missing, or the config asks for
    /// something that this network does not compute; the message names it.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let path = checkpoint.folder().join("config.json");
        let classes = Family::CLASSES.map(|(name, _)| name);
        checkpoint.expect_class(&classes)?;
        let family = checkpoint.class_name().and_then(Family::of_class);
        let Some(family) = family else {
            return Err(ModelError::bad_file(path, "no class of a language model"));
        };
        Self::parse(checkpoint.raw_config(), family, &path)
    }

    /// The config of a model of `family` from the content of its file at `path`.
    pub fn parse(json: &Value, family: Family, path: &Path) -> Result<Self> {
        let bad = |reason: String| ModelError::bad_file(path, reason);
        // Qwen2.5-VL: published files are flat, newer ones keep the text's fields by themselves.
        let text = json.get("text_config").unwrap_or(json);
        let raw: RawText =
            serde_json::from_value(text.clone()).map_err(|error| bad(error.to_string()))?;
        let config = Self::from_raw(&raw, json, family, path)?;
        config.check().map_err(bad)?;
        Ok(config)
    }

    fn from_raw(raw: &RawText, json: &Value, family: Family, path: &Path) -> Result<Self> {
        let bad = |reason: &str| ModelError::bad_file(path, reason);
        refuse_what_is_not_there(raw).map_err(|reason| bad(&reason))?;
        let key_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        let head_dim = raw
            .head_dim
            .unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1));
        let qwen2 = matches!(family, Family::Qwen2 | Family::Qwen25Vl);
        let biased = raw.attention_bias.unwrap_or(false);
        let rotary = RotaryConfig::parse(
            raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()),
            raw.rope_theta,
            head_dim,
        );
        let tied = json.get("tie_word_embeddings").and_then(Value::as_bool);
        let vision = match family {
            Family::Qwen25Vl => Some(VisionConfig::parse(json, path)?),
            _ => None,
        };
        let ends = raw.eos_token_id.as_ref().or(json.get("eos_token_id"));
        Ok(Self {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            blocks: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            key_heads,
            head_dim,
            norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            tied: tied.or(raw.tie_word_embeddings).unwrap_or(false),
            max_positions: raw.max_position_embeddings.unwrap_or(32_768),
            rotary: rotary.map_err(|reason| bad(&reason))?,
            input_bias: qwen2 || biased,
            output_bias: !qwen2 && biased,
            feed_bias: raw.mlp_bias.unwrap_or(false),
            head_norms: family.has_head_norms(),
            experts: match family {
                Family::Qwen3Moe => Some(experts(raw).map_err(bad)?),
                _ => None,
            },
            vision,
            end_tokens: ends.map(token_list).unwrap_or_default(),
        })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.blocks),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.key_heads),
            ("head_dim", self.head_dim),
        ];
        if let Some((name, value)) = positive.iter().find(|(_, value)| *value < 1) {
            return Err(format!("{name} is {value}"));
        }
        if self.heads % self.key_heads != 0 || self.head_dim % 2 != 0 {
            let Self {
                heads,
                key_heads,
                head_dim,
                ..
            } = self;
            return Err(format!(
                "{heads} heads of {head_dim} channels cannot share {key_heads} key heads"
            ));
        }
        if let Some(experts) = &self.experts
            && !(1..=experts.count).contains(&experts.chosen)
        {
            return Err(format!("{} of {} experts", experts.chosen, experts.count));
        }
        Ok(())
    }
}

/// What would change the results and is not computed here.
fn refuse_what_is_not_there(raw: &RawText) -> std::result::Result<(), String> {
    let act = raw.hidden_act.as_deref().unwrap_or("silu");
    if act != "silu" {
        return Err(format!("hidden_act {act:?} is not silu"));
    }
    let types = raw.layer_types.as_deref().unwrap_or_default();
    let slides = match types.is_empty() {
        true => raw.use_sliding_window == Some(true),
        false => types.iter().any(|kind| kind != "full_attention"),
    };
    if slides {
        let reason = "attention in sliding windows is not supported; \
                      set use_sliding_window to false if texts stay shorter than the window";
        return Err(reason.to_owned());
    }
    Ok(())
}

fn experts(raw: &RawText) -> std::result::Result<ExpertConfig, &'static str> {
    Ok(ExpertConfig {
        count: raw
            .num_experts
            .or(raw.num_local_experts)
            .ok_or("num_experts is missing")?,
        chosen: raw
            .num_experts_per_tok
            .ok_or("num_experts_per_tok is missing")?,
        width: raw
            .moe_intermediate_size
            .ok_or("moe_intermediate_size is missing")?,
        normalised: raw.norm_topk_prob.unwrap_or(false),
        plain_blocks: raw.mlp_only_layers.clone().unwrap_or_default(),
        every: raw.decoder_sparse_step.unwrap_or(1),
    })
}

/// One token or a list of them.
pub(super) fn token_list(value: &Value) -> Vec<u32> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(token).collect(),
        one => token(one).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: Value, family: Family) -> Result<LanguageConfig> {
        LanguageConfig::parse(&json, family, Path::new("config.json"))
    }

    fn small() -> Value {
        serde_json::json!({
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6, "eos_token_id": [3, 4], "tie_word_embeddings": true,
        })
    }

    #[test]
    fn families_differ_in_biases_and_norms() {
        let qwen2 = parse(small(), Family::Qwen2).unwrap();
        assert!(qwen2.input_bias && !qwen2.output_bias && !qwen2.head_norms && qwen2.tied);
        assert_eq!((qwen2.head_dim, qwen2.end_tokens), (8, vec![3, 4]));
        let qwen3 = parse(small(), Family::Qwen3).unwrap();
        assert!(!qwen3.input_bias && qwen3.head_norms);
        let llama = parse(small(), Family::Llama).unwrap();
        assert!(!llama.input_bias && !llama.head_norms);
    }

    #[test]
    fn experts_are_in_the_blocks_that_the_config_says() {
        let mut json = small();
        assert!(parse(json.clone(), Family::Qwen3Moe).is_err());
        for (key, value) in [
            ("num_experts", 8),
            ("num_experts_per_tok", 2),
            ("moe_intermediate_size", 16),
            ("decoder_sparse_step", 2),
        ] {
            json[key] = value.into();
        }
        json["mlp_only_layers"] = serde_json::json!([3]);
        let experts = parse(json.clone(), Family::Qwen3Moe)
            .unwrap()
            .experts
            .unwrap();
        let blocks: Vec<i64> = (0..6).filter(|&index| experts.in_block(index)).collect();
        assert_eq!(blocks, [1, 5]);
        json["num_experts_per_tok"] = 9.into();
        assert!(parse(json, Family::Qwen3Moe).is_err());
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (key, value, word) in [
            ("hidden_act", Value::from("gelu"), "hidden_act"),
            ("use_sliding_window", Value::from(true), "sliding"),
            (
                "layer_types",
                serde_json::json!(["sliding_attention"]),
                "sliding",
            ),
            (
                "rope_scaling",
                serde_json::json!({"type": "dynamic", "factor": 2.0}),
                "dynamic",
            ),
            ("num_key_value_heads", Value::from(3), "key heads"),
            ("vocab_size", Value::from(0), "vocab_size"),
        ] {
            let mut json = small();
            json[key] = value;
            let error = parse(json, Family::Qwen2).unwrap_err().to_string();
            assert!(error.contains(word), "{key}: {error}");
        }
    }
}
