//! `vae/config.json` of pictures.

use serde::Deserialize;
use serde_json::Value;

use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};

use crate::config_check::at_least_one;

/// Shape of the autoencoder; the defaults are those of diffusers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of a picture.
    pub in_channels: i64,
    /// Channels that leave the decoder.
    pub out_channels: i64,
    /// Kind of each encoder stage; `DownEncoderBlock2D` is implemented.
    pub down_block_types: Vec<String>,
    /// Kind of each decoder stage; `UpDecoderBlock2D` is implemented.
    pub up_block_types: Vec<String>,
    /// Width of each encoder stage; the decoder has them the other way round.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks per encoder stage; decoder stages have one more.
    pub layers_per_block: i64,
    /// Activation; `silu` is implemented.
    pub act_fn: String,
    /// Latent channels.
    pub latent_channels: i64,
    /// Groups of the norms.
    pub norm_num_groups: i64,
    /// What latents are multiplied with on their way to the denoiser.
    pub scaling_factor: f64,
    /// What is taken off before; `None`: nothing.
    pub shift_factor: Option<f64>,
    /// Statistics per channel, which no supported pipeline has.
    pub latents_mean: Option<Value>,
    /// Statistics per channel, which no supported pipeline has.
    pub latents_std: Option<Value>,
    /// Whether the moments go through a 1x1 convolution.
    pub use_quant_conv: bool,
    /// Whether latents go through a 1x1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle of both halves has an attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN.to_owned()],
            up_block_types: vec![UP.to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

const DOWN: &str = "DownEncoderBlock2D";
const UP: &str = "UpDecoderBlock2D";

impl AutoencoderKlConfig {
    /// Reads and checks the config of a VAE folder.
    ///
    /// # Errors
    /// Another class, and values that are not implemented, by their key.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&["AutoencoderKL"])?;
        let config: Self = checkpoint.config()?;
        config.check().map_err(|reason| {
            ModelError::bad_file(checkpoint.folder().join("config.json"), reason)
        })?;
        Ok(config)
    }

    /// Pixels along a side of one latent: the stages but the last halve.
    pub fn pixels_per_latent(&self) -> i64 {
        1 << (self.block_out_channels.len() - 1)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.check_values()?;
        self.check_sizes()
    }

    /// Values that the reference knows and this implementation does not.
    fn check_values(&self) -> Result<(), String> {
        let stages = self.block_out_channels.len();
        for (key, kinds, known) in [
            ("down_block_types", &self.down_block_types, DOWN),
            ("up_block_types", &self.up_block_types, UP),
        ] {
            if let Some(other) = kinds.iter().find(|kind| *kind != known) {
                return Err(format!("{key} has {other:?}, and {known} is implemented"));
            }
            if kinds.len() != stages {
                return Err(format!("{key} must be as long as block_out_channels"));
            }
        }
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            let name = &self.act_fn;
            return Err(format!("act_fn = {name:?} is not implemented; silu is"));
        }
        for (key, value) in [
            ("latents_mean", &self.latents_mean),
            ("latents_std", &self.latents_std),
        ] {
            if value.is_some() {
                return Err(format!("{key} is not implemented; it must be null"));
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), String> {
        /// More than any size of pictures has halvings.
        const STAGES: usize = 16;
        if !(1..=STAGES).contains(&self.block_out_channels.len()) {
            return Err(format!("block_out_channels must have 1 to {STAGES} stages"));
        }
        at_least_one(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ])?;
        let groups = self.norm_num_groups;
        let uneven = |width: &&i64| **width < 1 || **width % groups != 0;
        if let Some(width) = self.block_out_channels.iter().find(uneven) {
            return Err(format!(
                "block_out_channels has {width}, which norm_num_groups = {groups} does not divide"
            ));
        }
        if !self.scaling_factor.is_normal() {
            let factor = self.scaling_factor;
            return Err(format!("scaling_factor = {factor} must not be 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_implemented_is_refused_by_its_key() {
        let two = json!({
            "block_out_channels": [32, 64], "down_block_types": [DOWN, DOWN], "up_block_types": [UP, UP],
        });
        let parse = |key: &str, value: Value| {
            let mut config = two.clone();
            config[key] = value;
            serde_json::from_value::<AutoencoderKlConfig>(config).unwrap()
        };
        assert_eq!(parse("act_fn", json!("silu")).check(), Ok(()));
        assert_eq!(parse("act_fn", json!("silu")).pixels_per_latent(), 2);
        for (key, value) in [
            ("act_fn", json!("gelu")),
            ("down_block_types", json!([DOWN, "AttnDownEncoderBlock2D"])),
            ("up_block_types", json!([UP, "AttnUpDecoderBlock2D"])),
            ("up_block_types", json!([UP])),
            ("latents_mean", json!([0.0, 0.0, 0.0, 0.0])),
            ("latents_std", json!([1.0, 1.0, 1.0, 1.0])),
            ("block_out_channels", json!([32, 65])),
            ("block_out_channels", json!([])),
            ("norm_num_groups", json!(0)),
            ("latent_channels", json!(-4)),
            ("scaling_factor", json!(0.0)),
        ] {
            let error = parse(key, value.clone()).check().unwrap_err();
            assert!(error.contains(key), "{key} {value}: {error}");
        }
    }
}
