//! `config.json` of a FLUX transformer, and what of its relatives is refused.

use std::path::Path;

use serde::Deserialize;
use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::shard::Shard;
use storyloom_parallel::topology::Degrees;

use crate::config_check::at_least_one;

/// Shape of a FLUX.1 transformer (specification `flux`, 1.1), as diffusers writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FluxConfig {
    /// Latent rows and columns of one token; packing is done outside, so that only 1 is known.
    pub patch_size: i64,
    /// Channels of a token of the image.
    pub in_channels: i64,
    /// Channels of a predicted token; `None`: those of the input.
    pub out_channels: Option<i64>,
    /// Blocks that treat image and text apart.
    pub num_layers: i64,
    /// Blocks that treat them as one sequence.
    pub num_single_layers: i64,
    /// Channels of a head.
    pub attention_head_dim: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Channels of a row of text.
    pub joint_attention_dim: i64,
    /// Channels of the pooled text.
    pub pooled_projection_dim: i64,
    /// Whether the guidance scale is an input.
    pub guidance_embeds: bool,
    /// Channels of a head for the kind of picture, the row and the column of a token.
    pub axes_dims_rope: [i64; 3],
}

impl Default for FluxConfig {
    /// The defaults of the reference class, those of FLUX.1-schnell.
    fn default() -> Self {
        Self {
            patch_size: 1,
            in_channels: 64,
            out_channels: None,
            num_layers: 19,
            num_single_layers: 38,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 4096,
            pooled_projection_dim: 768,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
        }
    }
}

impl FluxConfig {
    /// The class of the reference.
    pub const CLASS: &str = "FluxTransformer2DModel";

    /// Width of the sinusoids of time and guidance.
    pub const SINUSOID: i64 = 256;

    /// Hidden channels of a feed-forward layer for each channel of the model.
    pub const EXPANSION: i64 = 4;

    /// Added to variances and mean squares.
    pub const EPS: f64 = 1e-6;

    /// Reads the config of a transformer and checks it. ControlNets, IP-adapters and other models with a FLUX in
    /// their names are refused when a checkpoint is opened.
    ///
    /// # Errors
    /// Another class, a shape that is not known, and the models of the same class that work otherwise (Fill, Canny
    /// and Depth control), each by its name.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&[Self::CLASS])?;
        let config: Self = checkpoint.config()?;
        config.check().map_err(|reason| {
            ModelError::bad_file(checkpoint.folder().join("config.json"), reason)
        })?;
        Ok(config)
    }

    /// As [`of`](Self::of), of a folder or a single file.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::of(&Checkpoint::open_part(
            folder,
            SingleFilePart::FluxTransformer,
        )?)
    }

    /// Reads a `config.json` alone.
    pub fn read_file(path: &Path) -> Result<Self> {
        Self::of(&Checkpoint::of_config(path)?)
    }

    /// Names that [`named`](Self::named) knows.
    pub const NAMES: [&str; 3] = ["dev", "schnell", "tiny"];

    /// The shape of FLUX.1-dev (and of Kontext), of FLUX.1-schnell, or a tiny one.
    pub fn named(name: &str) -> Option<Self> {
        let schnell = Self::default();
        let dev = Self {
            guidance_embeds: true,
            ..schnell.clone()
        };
        Some(match name {
            "dev" => dev,
            "schnell" => schnell,
            "tiny" => Self {
                num_layers: 2,
                num_single_layers: 2,
                attention_head_dim: 16,
                num_attention_heads: 4,
                joint_attention_dim: 32,
                pooled_projection_dim: 16,
                axes_dims_rope: [4, 6, 6],
                ..dev
            },
            _ => return None,
        })
    }

    /// Width of the residual streams.
    pub fn width(&self) -> i64 {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Hidden channels of a feed-forward layer.
    pub fn hidden(&self) -> i64 {
        Self::EXPANSION * self.width()
    }

    /// Channels of a predicted token.
    pub fn output_channels(&self) -> i64 {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Checks that heads and hidden channels can be divided as `shard` wants.
    ///
    /// # Errors
    /// They cannot; the message names the degrees that can.
    pub fn check_shard(&self, shard: &Shard) -> Result<()> {
        let degrees = Degrees {
            tensor: shard.tensor.part().of as usize,
            sequence: shard.sequence.part().of as usize,
            cfg: 1,
        };
        let (heads, hidden) = (self.num_attention_heads as usize, self.hidden() as usize);
        degrees
            .check_model("this transformer", heads, hidden)
            .map_err(|error| ModelError::input("topology", error.to_string()))
    }

    /// Floating-point operations of one forward of one sample, two for each multiplication with an addition:
    /// `image_tokens` of noise, condition and memory, and `text_rows`. Only products and attentions count.
    pub fn forward_flops(&self, image_tokens: i64, text_rows: i64) -> f64 {
        let width = self.width() as f64;
        let (image, text) = (image_tokens as f64, text_rows as f64);
        let (all, square) = (image + text, width * width);
        let (doubles, singles) = (self.num_layers as f64, self.num_single_layers as f64);
        let of_block = 24.0 * square * all + 4.0 * width * all * all;
        let modulation = square * (24.0 * doubles + 6.0 * singles + 4.0);
        let embedders = 1.0 + f64::from(u8::from(self.guidance_embeds));
        let sinusoids = 2.0 * embedders * (Self::SINUSOID as f64 * width + square);
        let pooled = 2.0 * (self.pooled_projection_dim as f64 * width + square);
        let channels = (self.in_channels + self.output_channels()) as f64;
        let ends = 2.0 * width * (channels * image + self.joint_attention_dim as f64 * text);
        (doubles + singles) * of_block + modulation + sinusoids + pooled + ends
    }

    fn check(&self) -> Result<(), String> {
        self.check_channels()?;
        at_least_one(&[
            ("attention_head_dim", self.attention_head_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("in_channels", self.in_channels),
            ("joint_attention_dim", self.joint_attention_dim),
            ("pooled_projection_dim", self.pooled_projection_dim),
        ])?;
        let axes = self.axes_dims_rope;
        let is_even = axes.iter().all(|&axis| axis >= 0 && axis % 2 == 0);
        if !is_even || axes.iter().sum::<i64>() != self.attention_head_dim {
            let dim = self.attention_head_dim;
            return Err(format!(
                "axes_dims_rope = {axes:?} must be even and add up to attention_head_dim = {dim}"
            ));
        }
        Ok(())
    }

    /// What goes in must come out: other models of the family are told by their channels.
    fn check_channels(&self) -> Result<(), String> {
        if self.patch_size != 1 {
            let size = self.patch_size;
            return Err(format!("patch_size = {size} is not 1, the only one known"));
        }
        let what = match self.in_channels {
            128 => "FLUX.1 Canny or Depth (control channels beside the noise)",
            384 => "FLUX.1 Fill (picture and mask beside the noise)",
            channels if channels != self.output_channels() => "a model with condition channels",
            _ => return Ok(()),
        };
        let channels = self.in_channels;
        Err(format!(
            "in_channels = {channels} is {what}, which is not supported"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use storyloom_nn::testing::on_ranks;
    use storyloom_nn::testing::vectors::{flux_vector, numbers};

    fn read(config: serde_json::Value) -> Result<FluxConfig> {
        let folder = Path::new("flux");
        FluxConfig::of(&Checkpoint::from_files(folder, config, &[])?)
    }

    fn refusal(changes: serde_json::Value) -> String {
        let mut config = json!({"_class_name": FluxConfig::CLASS});
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        read(config).unwrap_err().to_string()
    }

    #[test]
    fn published_models_by_their_names() {
        for name in FluxConfig::NAMES {
            FluxConfig::named(name).unwrap().check().unwrap();
        }
        assert_eq!(FluxConfig::named("fill"), None);
        // A file without the key has no guidance, and old ones have no axes.
        let old = read(json!({"_class_name": FluxConfig::CLASS, "out_channels": null}));
        assert_eq!(old.unwrap(), FluxConfig::named("schnell").unwrap());
    }

    /// Specification `flux`, 1.1.
    #[test]
    fn relatives_are_refused_by_their_names() {
        for (changes, name) in [
            (
                json!({"in_channels": 128, "out_channels": 64}),
                "Canny or Depth",
            ),
            (json!({"in_channels": 384, "out_channels": 64}), "Fill"),
            (json!({"out_channels": 32}), "condition channels"),
            (json!({"patch_size": 2}), "patch_size"),
            (json!({"axes_dims_rope": [16, 56, 54]}), "axes_dims_rope"),
            (json!({"axes_dims_rope": [15, 57, 56]}), "axes_dims_rope"),
            (json!({"num_attention_heads": 0}), "num_attention_heads"),
            (json!({"num_single_layers": -1}), "num_single_layers"),
            (
                json!({"_class_name": "WanTransformer3DModel"}),
                FluxConfig::CLASS,
            ),
        ] {
            let error = refusal(changes);
            assert!(error.contains(name), "{error}");
        }
    }

    /// Specification `flux`, 7.3: what libtorch's counter says of the real models.
    #[test]
    fn operations_of_the_full_size() {
        let dev = FluxConfig::named("dev").unwrap();
        let cases = flux_vector("flops/transformer");
        for case in numbers(&cases).as_chunks::<3>().0 {
            let [image, text, expected] = *case;
            let found = dev.forward_flops(image as i64, text as i64) / 1e12;
            assert!((found / expected - 1.0).abs() < 1e-8, "{image}: {found}");
        }
    }

    #[test]
    fn degrees_that_do_not_divide_name_those_that_do() {
        let errors = on_ranks(5, |group| {
            let degrees = Degrees {
                tensor: 5,
                ..Degrees::ONE
            };
            let (shard, _) = Shard::join(&group, degrees).unwrap();
            let dev = FluxConfig::named("dev").unwrap();
            dev.check_shard(&shard).unwrap_err().to_string()
        });
        assert!(
            errors[0].contains("1, 2, 3, 4, 6, 8, 12, 24"),
            "{}",
            errors[0]
        );
    }
}
