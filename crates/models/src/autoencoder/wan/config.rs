//! `vae/config.json`.

use serde::Deserialize;

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

    fn check(&self) -> Result<(), String> {
        if self.dim_mult.is_empty() || self.temperal_downsample.len() + 1 != self.dim_mult.len() {
            return Err("temperal_downsample must be one shorter than dim_mult".to_owned());
        }
        if !self.attn_scales.is_empty() {
            return Err("attn_scales is not empty; no published Wan VAE has any".to_owned());
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

    /// Pixels per latent along a side: one halving per stage but the last, times the patch.
    pub fn spatial_factor(&self) -> i64 {
        self.patch_size.unwrap_or(1) << (self.dim_mult.len() - 1)
    }

    /// Frames per latent frame after the first.
    pub fn temporal_factor(&self) -> i64 {
        1 << self
            .temperal_downsample
            .iter()
            .filter(|&&halves| halves)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specification `wan22`: 8 pixels and 4 frames in version 2.1, 16 pixels in version 2.2.
    #[test]
    fn factors_of_the_published_models() {
        let old = VaeConfig::default();
        assert_eq!((old.spatial_factor(), old.temporal_factor()), (8, 4));
        let new = VaeConfig {
            patch_size: Some(2),
            ..VaeConfig::default()
        };
        assert_eq!((new.spatial_factor(), new.temporal_factor()), (16, 4));
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
