//! `vae/config.json`.

use std::path::Path;

use serde::Deserialize;
use storyloom_story::LatentGrid;

use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};

/// Shape of the autoencoder; the defaults are those of Wan 2.1.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Width of the first encoder stage.
    pub base_dim: i64,
    /// Width of the last decoder stage; `base_dim` if absent.
    pub decoder_base_dim: Option<i64>,
    /// Latent channels.
    pub z_dim: i64,
    /// Width of each stage as a multiple of the base.
    pub dim_mult: Vec<i64>,
    /// Residual blocks per encoder stage; decoder stages have one more.
    pub num_res_blocks: i64,
    /// Attention inside stages; none of the published models has any.
    pub attn_scales: Vec<f64>,
    /// Whether each stage but the last halves time.
    pub temperal_downsample: Vec<bool>,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f64>,
    /// Standard deviation of each latent channel.
    pub latents_std: Vec<f64>,
    /// Wan 2.2: stages with averaging and duplicating shortcuts.
    pub is_residual: bool,
    /// Channels that enter the encoder, after patching.
    pub in_channels: i64,
    /// Channels that leave the decoder, before patching is undone.
    pub out_channels: i64,
    /// Wan 2.2: pixels per side of a patch.
    pub patch_size: Option<i64>,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            base_dim: 96,
            decoder_base_dim: None,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            attn_scales: Vec::new(),
            temperal_downsample: vec![false, true, true],
            latents_mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134,
                -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
            ],
            latents_std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526,
                2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
            ],
            is_residual: false,
            in_channels: 3,
            out_channels: 3,
            patch_size: None,
        }
    }
}

impl VaeConfig {
    /// Reads and checks the config of a VAE folder.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&["AutoencoderKLWan"])?;
        let config: Self = checkpoint.config()?;
        config.check().map_err(|reason| {
            ModelError::bad_file(checkpoint.folder().join("config.json"), reason)
        })?;
        Ok(config)
    }

    /// Reads a `config.json` alone.
    pub fn read_file(path: &Path) -> Result<Self> {
        Self::of(&Checkpoint::of_config(path)?)
    }

    fn check(&self) -> Result<(), String> {
        if self.dim_mult.is_empty() || self.temperal_downsample.len() + 1 != self.dim_mult.len() {
            return Err("temperal_downsample must be one shorter than dim_mult".to_owned());
        }
        if !self.attn_scales.is_empty() {
            return Err("attn_scales is not empty; no published Wan VAE has any".to_owned());
        }
        /// More than any size of pictures has halvings.
        const STAGES: usize = 16;
        if self.dim_mult.len() > STAGES {
            return Err(format!("dim_mult has more than {STAGES} stages"));
        }
        let z_dim = self.z_dim;
        if self.latents_mean.len() as i64 != z_dim || self.latents_std.len() as i64 != z_dim {
            return Err(format!(
                "latents_mean and latents_std must have z_dim = {z_dim} values"
            ));
        }
        let smallest = [self.base_dim, z_dim, self.in_channels, self.out_channels];
        if smallest
            .iter()
            .chain(&self.dim_mult)
            .chain(&self.patch_size)
            .any(|&value| value < 1)
        {
            return Err("widths, channels and patch size must be positive".to_owned());
        }
        Ok(())
    }

    /// How it divides videos, with tokens of `patch` latents along a side: one halving of the sides
    /// per stage but the last, times its own patch, and one of time where the config says so.
    pub fn latent_grid(&self, patch: i64) -> LatentGrid {
        let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX).max(1);
        let halvings = self.dim_mult.len().saturating_sub(1);
        let of_time = self.temperal_downsample.iter().filter(|&&halves| halves);
        LatentGrid {
            pixels: number(self.patch_size.unwrap_or(1)).saturating_mul(1 << halvings),
            frames: 1 << of_time.count(),
            channels: number(self.z_dim),
            patch: number(patch),
        }
    }

    /// Frames per latent frame after the first.
    pub(super) fn temporal_factor(&self) -> i64 {
        i64::from(self.latent_grid(1).frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::WanConfig;

    /// The autoencoders of Wan 2.1 and 2.2, and what their transformers say of them without them.
    #[test]
    fn published_autoencoders_have_the_grids_of_their_names() {
        assert_eq!(VaeConfig::default().latent_grid(2), LatentGrid::WAN_2_1);
        // `vae/config.json` of Wan2.2-TI2V-5B.
        let of_2_2 = VaeConfig {
            z_dim: 48,
            patch_size: Some(2),
            ..VaeConfig::default()
        };
        assert_eq!(of_2_2.latent_grid(2), LatentGrid::WAN_2_2);
        for (name, grid) in [
            ("t2v-a14b", LatentGrid::WAN_2_1),
            ("i2v-a14b", LatentGrid::WAN_2_1),
            ("ti2v-5b", LatentGrid::WAN_2_2),
        ] {
            assert_eq!(
                WanConfig::named(name).unwrap().latent_grid(),
                grid,
                "{name}"
            );
        }
        let faster = VaeConfig {
            dim_mult: vec![1, 2, 4],
            temperal_downsample: vec![false, true],
            ..VaeConfig::default()
        };
        let grid = faster.latent_grid(1);
        assert_eq!((grid.pixels, grid.frames, grid.token_side()), (4, 2, 4));
    }

    #[test]
    fn a_config_of_endless_stages_is_refused() {
        let config = VaeConfig {
            dim_mult: vec![1; 80],
            temperal_downsample: vec![true; 79],
            ..VaeConfig::default()
        };
        assert!(config.check().unwrap_err().contains("16 stages"));
    }

    /// Specification `wan22`: 8 pixels and 4 frames in version 2.1, 16 pixels in version 2.2.
    #[test]
    fn factors_of_the_published_models() {
        let factors = |config: &VaeConfig| {
            let LatentGrid { pixels, frames, .. } = config.latent_grid(1);
            (pixels, frames)
        };
        let old = VaeConfig::default();
        assert_eq!(factors(&old), (8, 4));
        let new = VaeConfig {
            patch_size: Some(2),
            ..VaeConfig::default()
        };
        assert_eq!(factors(&new), (16, 4));
    }

    #[test]
    fn a_shape_that_no_autoencoder_has_is_refused_with_its_reason() {
        assert_eq!(VaeConfig::default().check(), Ok(()));
        for (text, wanted) in [
            ("{\"dim_mult\": []}", "one shorter than dim_mult"),
            (
                "{\"temperal_downsample\": [true]}",
                "one shorter than dim_mult",
            ),
            ("{\"attn_scales\": [0.5]}", "attn_scales is not empty"),
            ("{\"z_dim\": 48}", "must have z_dim = 48 values"),
            ("{\"latents_std\": [1.0]}", "must have z_dim = 16 values"),
            ("{\"base_dim\": 0}", "must be positive"),
            ("{\"patch_size\": 0}", "must be positive"),
        ] {
            let config: VaeConfig = serde_json::from_str(text).unwrap();
            let said = config.check().unwrap_err();
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }
}
