//! The shape of a text tower, from `config.json`.

use serde::Deserialize;
use serde_json::Value;

use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::Activation;

use crate::config_check::{at_least_one, heads_divide};
use crate::vision::clip::{LayerShape, shared_width};

/// Shape of a CLIP text tower; the defaults are those of transformers (`CLIPTextConfig`), of ViT-B/32.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Hidden width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Width of the projected embedding.
    pub projection_dim: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Tokens of a text at most.
    pub max_position_embeddings: i64,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// The token whose row is the text's; 2, which old files have, stands for the largest id of the text.
    pub eos_token_id: i64,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49_407,
        }
    }
}

impl ClipTextConfig {
    /// Reads the config of a text tower, or the `text_config` inside that of a whole CLIP.
    ///
    /// # Errors
    /// Another class, and values that are not implemented, by their key.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&["CLIPTextModelWithProjection", "CLIPTextModel", "CLIPModel"])?;
        let raw = checkpoint.raw_config();
        let parsed = Self::parse(raw, raw.get("text_config"));
        parsed
            .map_err(|reason| ModelError::bad_file(checkpoint.folder().join("config.json"), reason))
    }

    /// Reads `whole`, or `nested` inside it.
    fn parse(whole: &Value, nested: Option<&Value>) -> Result<Self, String> {
        let own = nested.unwrap_or(whole);
        if let Some(name) = own.get("hidden_act") {
            Activation::deserialize(name)
                .map_err(|error| format!("hidden_act = {name} is not implemented: {error}"))?;
        }
        let mut config: Self =
            serde_json::from_value(own.clone()).map_err(|error| error.to_string())?;
        if let Some(width) = shared_width(whole, nested) {
            config.projection_dim = width;
        }
        config.check()?;
        Ok(config)
    }

    /// The shape of one layer.
    pub(super) fn layer(&self) -> LayerShape {
        LayerShape {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            eps: self.layer_norm_eps,
        }
    }

    fn check(&self) -> Result<(), String> {
        at_least_one(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        heads_divide(self.hidden_size, self.num_attention_heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_that_no_tower_has_are_refused_by_their_key() {
        for (config, wanted) in [
            (json!({"vocab_size": 0}), "vocab_size = 0 must be"),
            (
                json!({"max_position_embeddings": -1}),
                "max_position_embeddings = -1",
            ),
            (
                json!({"num_attention_heads": 7}),
                "hidden_size = 512 is not divided by 7 heads",
            ),
            (
                json!({"hidden_act": "mish"}),
                "hidden_act = \"mish\" is not implemented",
            ),
        ] {
            let error = ClipTextConfig::parse(&config, None).unwrap_err();
            assert!(error.starts_with(wanted), "{config}: {error}");
        }
    }

    #[test]
    fn a_whole_clip_states_the_shared_width_beside_its_towers() {
        let whole = json!({"projection_dim": 768, "text_config": {"hidden_size": 64, "projection_dim": 512}});
        let config = ClipTextConfig::parse(&whole, whole.get("text_config")).unwrap();
        assert_eq!((config.hidden_size, config.projection_dim), (64, 768));
        let alone = ClipTextConfig::parse(&json!({"projection_dim": 1280}), None).unwrap();
        assert_eq!(alone.projection_dim, 1280);
        assert_eq!(
            ClipTextConfig::parse(&json!({}), None),
            Ok(ClipTextConfig::default())
        );
    }
}
