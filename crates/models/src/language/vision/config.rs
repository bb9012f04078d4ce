//! What `config.json` says about the vision tower of Qwen2.5-VL.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use storyloom_nn::error::{ModelError, Result};

/// Shape of the vision tower, and the tokens around pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Hidden width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Attention heads.
    pub heads: i64,
    /// Channels of a picture.
    pub channels: i64,
    /// Side of a patch in pixels.
    pub patch: i64,
    /// Frames of a patch; a still picture is repeated.
    pub frames: i64,
    /// Side of the square of patches that becomes one token.
    pub merge: i64,
    /// Side of an attention window in pixels.
    pub window: i64,
    /// Width of the results: that of the language model.
    pub out_size: i64,
    /// Blocks whose attention is over the whole picture.
    pub full_blocks: Vec<i64>,
    /// The token that stands for each part of a picture.
    pub image_token: u32,
}

#[derive(Debug, Deserialize)]
struct Raw {
    depth: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_heads: i64,
    #[serde(alias = "in_chans")]
    in_channels: Option<i64>,
    #[serde(alias = "spatial_patch_size")]
    patch_size: Option<i64>,
    temporal_patch_size: Option<i64>,
    spatial_merge_size: Option<i64>,
    window_size: Option<i64>,
    out_hidden_size: i64,
    fullatt_block_indexes: Vec<i64>,
    hidden_act: Option<String>,
}

impl VisionConfig {
    /// Epsilon of the norms.
    pub const NORM_EPS: f64 = 1e-6;
    /// Base of the rotary frequencies.
    pub const THETA: f64 = 10_000.0;

    pub(in crate::language) fn parse(json: &Value, path: &Path) -> Result<Self> {
        let bad = |reason: String| ModelError::bad_file(path, reason);
        let vision = json.get("vision_config").cloned().unwrap_or(Value::Null);
        let raw = remove_twice_named(vision);
        let raw: Raw =
            serde_json::from_value(raw).map_err(|error| bad(format!("vision_config: {error}")))?;
        let image_token = json.get("image_token_id").and_then(Value::as_u64);
        let image_token = image_token.and_then(|token| u32::try_from(token).ok());
        let config = Self {
            depth: raw.depth,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            heads: raw.num_heads,
            channels: raw.in_channels.unwrap_or(3),
            patch: raw.patch_size.unwrap_or(14),
            frames: raw.temporal_patch_size.unwrap_or(2),
            merge: raw.spatial_merge_size.unwrap_or(2),
            window: raw.window_size.unwrap_or(112),
            out_size: raw.out_hidden_size,
            full_blocks: raw.fullatt_block_indexes,
            image_token: image_token.ok_or_else(|| bad("image_token_id is missing".to_owned()))?,
        };
        config.check(raw.hidden_act.as_deref()).map_err(bad)?;
        Ok(config)
    }

    fn check(&self, act: Option<&str>) -> std::result::Result<(), String> {
        if act.is_some_and(|act| act != "silu") {
            return Err(format!("vision_config: hidden_act {act:?} is not silu"));
        }
        let sizes = [
            self.hidden_size,
            self.intermediate_size,
            self.heads,
            self.channels,
            self.patch,
            self.frames,
            self.merge,
            self.out_size,
        ];
        if sizes.iter().any(|&size| size < 1) || self.window < self.merge * self.patch {
            return Err("vision_config: a size is 0 or less, or the window too small".to_owned());
        }
        if self.hidden_size % (4 * self.heads) != 0 {
            let Self {
                hidden_size, heads, ..
            } = self;
            return Err(format!(
                "vision_config: {hidden_size} does not make {heads} heads"
            ));
        }
        Ok(())
    }

    /// Side in pixels of what becomes one token.
    pub fn cell(&self) -> i64 {
        self.patch * self.merge
    }

    /// Tokens that a picture of `grid` patches (frames, rows, columns) becomes.
    pub fn tokens(&self, grid: [i64; 3]) -> i64 {
        grid.iter().product::<i64>() / (self.merge * self.merge)
    }
}

/// Published configs name some fields twice, in an old and a new spelling.
fn remove_twice_named(mut json: Value) -> Value {
    if let Some(fields) = json.as_object_mut() {
        for (new, old) in [
            ("in_channels", "in_chans"),
            ("patch_size", "spatial_patch_size"),
        ] {
            if fields.contains_key(new) {
                fields.remove(old);
            }
        }
    }
    json
}
