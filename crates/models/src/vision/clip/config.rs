//! The shape of a vision tower, from `config.json`.

use serde::Deserialize;
use serde_json::Value;

use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::Activation;

use super::layer::LayerShape;
use crate::config_check::{at_least_one, heads_divide};

/// Shape of a CLIP vision tower; the defaults are those of transformers, ViT-B/32.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
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
    /// Colour channels; 3.
    pub num_channels: i64,
    /// Side of the square input, in pixels.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// Reads the config of a vision tower, or the `vision_config` inside that of a whole CLIP.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&[
            "CLIPVisionModelWithProjection",
            "CLIPVisionModel",
            "CLIPModel",
        ])?;
        let raw = checkpoint.raw_config();
        let nested = raw.get("vision_config");
        let bad =
            |reason: String| ModelError::bad_file(checkpoint.folder().join("config.json"), reason);
        let mut config: Self = serde_json::from_value(nested.unwrap_or(raw).clone())
            .map_err(|error| bad(error.to_string()))?;
        if let Some(width) = shared_width(raw, nested) {
            config.projection_dim = width;
        }
        config.check().map_err(bad)?;
        Ok(config)
    }

    /// Patches along a side.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
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

    /// Tokens of a picture: the class token and one per patch.
    pub fn tokens(&self) -> i64 {
        1 + self.grid() * self.grid()
    }

    fn check(&self) -> Result<(), String> {
        at_least_one(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_channels", self.num_channels),
            ("patch_size", self.patch_size),
            (
                "image_size / patch_size",
                self.image_size / self.patch_size.max(1),
            ),
        ])?;
        heads_divide(self.hidden_size, self.num_attention_heads)
    }
}

/// The width of the shared space, which a `whole` CLIP states beside its towers; `nested` is the config of one of
/// them inside it, if it is one.
pub(crate) fn shared_width(whole: &Value, nested: Option<&Value>) -> Option<i64> {
    nested?;
    whole.get("projection_dim")?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_no_tower_has_is_refused_by_its_key() {
        assert_eq!(ClipVisionConfig::default().check(), Ok(()));
        for (text, wanted) in [
            ("{\"hidden_size\": 0}", "hidden_size = 0 must be at least 1"),
            ("{\"patch_size\": 0}", "patch_size = 0 must be at least 1"),
            ("{\"image_size\": 16}", "image_size / patch_size = 0"),
            ("{\"num_hidden_layers\": -1}", "num_hidden_layers = -1"),
            (
                "{\"num_attention_heads\": 7}",
                "hidden_size = 768 is not divided by 7 heads",
            ),
        ] {
            let config: ClipVisionConfig = serde_json::from_str(text).unwrap();
            let said = config.check().unwrap_err();
            assert!(said.starts_with(wanted), "{text}: {said}");
        }
    }

    #[test]
    fn pictures_of_the_published_tower_are_fifty_tokens() {
        let config = ClipVisionConfig::default();
        assert_eq!((config.grid(), config.tokens()), (7, 50));
    }
}
