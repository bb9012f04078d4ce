//! The two forms of a transformer's `config.json`.

use std::path::Path;

use serde::Deserialize;
use storyloom_parallel::topology::Degrees;
use storyloom_story::{LatentGrid, PartFlops, TransformerShape};

use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::shard::Shard;

use crate::config_check::at_least_one;

/// Shape of a Wan transformer (specification `wan22`, section 1.1), as diffusers writes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct WanConfig {
    /// Latent frames, rows and columns of one token.
    pub patch_size: [i64; 3],
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Channels of a head.
    pub attention_head_dim: i64,
    /// Channels of the input latent, condition included.
    pub in_channels: i64,
    /// Channels of the predicted velocity.
    pub out_channels: i64,
    /// Width of the text encoder.
    pub text_dim: i64,
    /// Width of the timestep sinusoid.
    pub freq_dim: i64,
    /// Hidden width of the feed-forward layers.
    pub ffn_dim: i64,
    /// Number of blocks.
    pub num_layers: i64,
    /// Whether the norm before cross-attention has learned values.
    pub cross_attn_norm: bool,
    /// Epsilon of all norms but those of the image embedder.
    pub eps: f64,
    /// Width of the image encoder (Wan 2.1 image-to-video).
    pub image_dim: Option<i64>,
    /// Width of the added key and value projections; present with `image_dim`.
    pub added_kv_proj_dim: Option<i64>,
    /// Rows of the learned positions of the image tokens (first-and-last-frame models).
    pub pos_embed_seq_len: Option<i64>,
    /// How queries and keys are normalised; only `rms_norm_across_heads` is known.
    pub qk_norm: Option<String>,
}

impl Default for WanConfig {
    /// The defaults of the reference class, those of the 14B model.
    fn default() -> Self {
        Self {
            patch_size: [1, 2, 2],
            num_attention_heads: 40,
            attention_head_dim: 128,
            in_channels: 16,
            out_channels: 16,
            text_dim: 4096,
            freq_dim: 256,
            ffn_dim: 13_824,
            num_layers: 40,
            cross_attn_norm: true,
            eps: 1e-6,
            image_dim: None,
            added_kv_proj_dim: None,
            pos_embed_seq_len: None,
            qk_norm: Some("rms_norm_across_heads".to_owned()),
        }
    }
}

/// What the original Wan code writes; the rest are defaults of its class.
#[derive(Debug, Deserialize)]
struct OriginalConfig {
    model_type: String,
    dim: i64,
    ffn_dim: i64,
    freq_dim: i64,
    in_dim: i64,
    out_dim: i64,
    num_heads: i64,
    num_layers: i64,
    eps: f64,
    text_dim: Option<i64>,
}

impl WanConfig {
    /// Reads the config of a transformer folder in either layout and checks it.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&["WanTransformer3DModel", "WanModel"])?;
        let config = if checkpoint.raw_config().get("dim").is_some() {
            Self::of_original(checkpoint)?
        } else {
            checkpoint.config()?
        };
        config.check().map_err(|reason| {
            ModelError::bad_file(checkpoint.folder().join("config.json"), reason)
        })?;
        Ok(config)
    }

    /// Names that [`named`](Self::named) knows.
    pub const NAMES: [&str; 5] = ["t2v-a14b", "i2v-a14b", "ti2v-5b", "t2v-1.3b", "tiny"];

    /// The shape of a published transformer of Wan 2.1 or 2.2 (specification `wan22`, section
    /// 1.1), or a tiny one.
    pub fn named(name: &str) -> Option<Self> {
        let all = Self::default();
        Some(match name {
            "t2v-a14b" => all,
            "i2v-a14b" => Self {
                in_channels: 36,
                ..all
            },
            "ti2v-5b" => Self {
                num_attention_heads: 24,
                num_layers: 30,
                ffn_dim: 14_336,
                in_channels: 48,
                out_channels: 48,
                ..all
            },
            "t2v-1.3b" => Self {
                num_attention_heads: 12,
                num_layers: 30,
                ffn_dim: 8960,
                ..all
            },
            "tiny" => Self {
                num_attention_heads: 4,
                attention_head_dim: 24,
                num_layers: 2,
                ffn_dim: 192,
                text_dim: 32,
                ..all
            },
            _ => return None,
        })
    }

    /// Reads a `config.json` alone, in either layout.
    pub fn read_file(path: &Path) -> Result<Self> {
        Self::of(&Checkpoint::of_config(path)?)
    }

    /// How the published autoencoder with as many channels and this transformer divide videos. Where
    /// the autoencoder is there as well, its own config says it:
    /// [`VaeConfig::latent_grid`](crate::autoencoder::VaeConfig::latent_grid).
    pub fn latent_grid(&self) -> LatentGrid {
        let wan_2_2 = i64::from(LatentGrid::WAN_2_2.channels);
        let published = match self.out_channels == wan_2_2 {
            true => LatentGrid::WAN_2_2,
            false => LatentGrid::WAN_2_1,
        };
        LatentGrid {
            channels: number(self.out_channels),
            patch: number(self.patch_size[1]),
            ..published
        }
    }

    /// Latent frames, rows and columns of a clip of frames, height and width in pixels, by the
    /// [published](Self::latent_grid) autoencoder.
    pub fn latent(&self, clip: [i64; 3]) -> [i64; 3] {
        self.latent_grid()
            .latent_clip(clip.map(number))
            .map(i64::from)
    }

    /// As [`of`](Self::of), of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::of(&Checkpoint::open(folder)?)
    }

    fn of_original(checkpoint: &Checkpoint) -> Result<Self> {
        let original: OriginalConfig = checkpoint.config()?;
        let dim = original.dim;
        // The text width is not written; the stored weight knows it where a model departs from it.
        let text = checkpoint
            .entries()
            .get("condition_embedder.text_embedder.linear_1.weight");
        let stored_text_dim = text.and_then(|entry| entry.shape.get(1)).copied();
        // Only the image-to-video models of 2.1 have an image branch, and 2.2 has the same type.
        let image = checkpoint
            .entries()
            .get("condition_embedder.image_embedder.norm1.weight");
        let image_dim = image.and_then(|entry| entry.shape.first()).copied();
        let positions = checkpoint
            .entries()
            .get("condition_embedder.image_embedder.pos_embed");
        tracing::debug!(
            model_type = original.model_type,
            dim,
            "config in the original layout"
        );
        Ok(Self {
            num_attention_heads: original.num_heads,
            attention_head_dim: dim / original.num_heads.max(1),
            in_channels: original.in_dim,
            out_channels: original.out_dim,
            text_dim: original.text_dim.or(stored_text_dim).unwrap_or(4096),
            freq_dim: original.freq_dim,
            ffn_dim: original.ffn_dim,
            num_layers: original.num_layers,
            eps: original.eps,
            image_dim,
            added_kv_proj_dim: image_dim.map(|_| dim),
            pos_embed_seq_len: positions.and_then(|entry| entry.shape.get(1)).copied(),
            ..Self::default()
        })
    }

    /// Checks that heads and channels can be divided as `shard` wants.
    pub fn check_shard(&self, shard: &Shard) -> Result<()> {
        let (tensor, sequence) = (shard.tensor.part().of, shard.sequence.part().of);
        let degrees = Degrees {
            tensor: tensor as usize,
            sequence: sequence as usize,
            cfg: 1,
        };
        let (heads, ffn) = (self.num_attention_heads as usize, self.ffn_dim as usize);
        degrees
            .check_model("this transformer", heads, ffn)
            .map_err(|error| ModelError::input("topology", error.to_string()))
    }

    /// Width of the residual stream.
    pub fn width(&self) -> i64 {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Tokens of a latent `[frames, height, width]`.
    pub fn tokens(&self, latent: [i64; 3]) -> i64 {
        self.grid(latent).iter().product()
    }

    /// Token grid of a latent `[frames, height, width]`; what does not fill a patch is dropped,
    /// as a strided convolution does.
    pub fn grid(&self, latent: [i64; 3]) -> [i64; 3] {
        std::array::from_fn(|axis| latent[axis] / self.patch_size[axis])
    }

    /// What decides the work of a forward, with `text_rows` rows of text.
    pub fn shape(&self, text_rows: u32) -> TransformerShape {
        TransformerShape {
            blocks: number(self.num_layers),
            width: number(self.width()),
            feed_forward: number(self.ffn_dim),
            text_rows,
        }
    }

    /// Floating-point operations of one forward of one sample with prepared text.
    pub fn forward_flops(&self, latent: [i64; 3], text_rows: u32) -> f64 {
        self.part_flops(latent, text_rows).sum()
    }

    /// The same by the parts of the blocks; only products and attentions count.
    pub fn part_flops(&self, latent: [i64; 3], text_rows: u32) -> PartFlops {
        self.shape(text_rows).part_flops(self.tokens(latent) as f64)
    }

    fn check(&self) -> Result<(), String> {
        at_least_one(&[
            (
                "patch_size",
                self.patch_size.iter().copied().min().unwrap_or(0),
            ),
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("text_dim", self.text_dim),
            ("freq_dim", self.freq_dim),
            ("ffn_dim", self.ffn_dim),
        ])?;
        if self.attention_head_dim < 6 || self.attention_head_dim % 2 != 0 {
            let dim = self.attention_head_dim;
            return Err(format!(
                "attention_head_dim = {dim} must be even and at least 6"
            ));
        }
        if self.qk_norm.as_deref() != Some("rms_norm_across_heads") {
            return Err(format!(
                "qk_norm = {:?} is not rms_norm_across_heads",
                self.qk_norm
            ));
        }
        Ok(())
    }
}

/// Beyond all sizes there are where it is no number of anything.
fn number(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specification `wan22` 1.1 and 6.1.
    #[test]
    fn published_models_by_their_names() {
        for (name, clip, tokens, petaflops) in [
            ("t2v-a14b", [81, 480, 832], 32_760, 1.678),
            ("i2v-a14b", [81, 720, 1280], 75_600, 6.523),
            ("ti2v-5b", [121, 704, 1280], 27_280, 0.517),
            ("t2v-1.3b", [81, 480, 832], 32_760, 0.283),
        ] {
            let config = WanConfig::named(name).unwrap();
            let latent = config.latent(clip);
            assert_eq!(config.tokens(latent), tokens, "{name}");
            let found = config.forward_flops(latent, 512) / 1e15;
            assert!((found / petaflops - 1.0).abs() < 0.01, "{name}: {found}");
        }
        for name in WanConfig::NAMES {
            WanConfig::named(name).unwrap().check().unwrap();
        }
        assert_eq!(WanConfig::named("a14b"), None);
    }

    /// Specification `wan22` 6.1, and StoryMem 7 for the memory-free shot.
    #[test]
    fn tokens_and_flops_of_the_full_size() {
        let config = WanConfig::default();
        assert_eq!(config.width(), 5120);
        assert_eq!(config.tokens([21, 60, 104]), 32_760);
        assert_eq!(config.tokens([21, 90, 160]), 75_600);
        let petaflops = config.forward_flops([21, 60, 104], 512) / 1e15;
        assert!((petaflops - 1.678).abs() < 0.01, "{petaflops}");
        let with_memory = config.forward_flops([31, 60, 104], 512) / 1e15;
        assert!((with_memory - 3.09).abs() < 0.02, "{with_memory}");
    }
}
