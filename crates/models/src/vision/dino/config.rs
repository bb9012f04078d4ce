//! The shape of a tower, from `config.json`.

use serde::Deserialize;

use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::Activation;

use crate::config_check::{at_least_one, heads_divide};

/// Shape of a DINOv2 tower; the defaults are those of transformers' `Dinov2Config`, ViT-B/14 for pictures of 224
/// pixels. Published towers have position embeddings for 518 pixels.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct DinoConfig {
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Number of layers.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Hidden width of the feed-forward layers, as a multiple of `hidden_size`.
    pub mlp_ratio: f64,
    /// Activation of the feed-forward layers, unless these are gated.
    pub hidden_act: Activation,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// Side of the square whose patches have position embeddings of their own, in pixels.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
    /// Colour channels; 3.
    pub num_channels: i64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the feed-forward layers are gated by SiLU (ViT-g).
    pub use_swiglu_ffn: bool,
}

impl Default for DinoConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            num_channels: 3,
            qkv_bias: true,
            use_swiglu_ffn: false,
        }
    }
}

impl DinoConfig {
    /// The class of transformers, in `architectures` of a config.
    pub const CLASS: &str = "Dinov2Model";

    /// Reads the config of a checkpoint.
    ///
    /// # Errors
    /// It is of another class, or no tower has this shape.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&[Self::CLASS])?;
        let bad =
            |reason: String| ModelError::bad_file(checkpoint.folder().join("config.json"), reason);
        let config: Self = serde_json::from_value(checkpoint.raw_config().clone())
            .map_err(|error| bad(error.to_string()))?;
        config.check().map_err(bad)?;
        Ok(config)
    }

    /// Patches along a side of the square that has position embeddings of its own.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }

    /// Hidden width of a feed-forward layer. Of a gated one it is two thirds of the multiple, rounded up to
    /// a multiple of 8.
    pub fn inner(&self) -> i64 {
        let inner = (self.hidden_size as f64 * self.mlp_ratio) as i64;
        match self.use_swiglu_ffn {
            false => inner,
            true => ((inner as f64 * 2.0 / 3.0) as i64 + 7) / 8 * 8,
        }
    }

    fn check(&self) -> Result<(), String> {
        at_least_one(&[
            ("hidden_size", self.hidden_size),
            ("hidden_size * mlp_ratio", self.inner()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> DinoConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_shape_that_no_tower_has_is_refused_by_its_key() {
        assert_eq!(DinoConfig::default().check(), Ok(()));
        for (text, wanted) in [
            ("{\"hidden_size\": 0}", "hidden_size = 0 must be at least 1"),
            ("{\"mlp_ratio\": 0}", "hidden_size * mlp_ratio = 0"),
            ("{\"patch_size\": 0}", "patch_size = 0 must be at least 1"),
            ("{\"image_size\": 13}", "image_size / patch_size = 0"),
            ("{\"num_attention_heads\": 7}", "hidden_size = 768"),
        ] {
            let said = parsed(text).check().unwrap_err();
            assert!(said.starts_with(wanted), "{text}: {said}");
        }
    }

    /// Widths of the published ViT-B/14 and of ViT-g/14, whose files have `weights_out` of 4096 columns.
    #[test]
    fn feed_forward_layers_are_as_wide_as_the_published_ones() {
        let base = parsed("{\"image_size\": 518}");
        assert_eq!((base.inner(), base.grid()), (3072, 37));
        let giant = parsed("{\"hidden_size\": 1536, \"mlp_ratio\": 4, \"use_swiglu_ffn\": true}");
        assert_eq!(giant.inner(), 4096);
    }
}
