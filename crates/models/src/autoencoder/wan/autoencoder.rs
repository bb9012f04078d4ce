//! Encoding and decoding of clips.

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::StreamCache;
use storyloom_nn::shard::Peers;
use tch::{Device, Kind, Tensor};

use super::config::VaeConfig;
use super::decoder::Decoder;
use super::encoder::Encoder;

/// Latent frames that are decoded together when the caller does not say; two were no faster on the
/// CPU and took half as much memory again.
pub const DECODE_CHUNK: i64 = 1;

/// The causal video autoencoder; always computes in f32, as both references do.
#[derive(Debug)]
pub struct AutoencoderKlWan {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    device: Device,
}

impl AutoencoderKlWan {
    /// Loads a VAE folder. Missing and unknown tensors are an error that lists them.
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = VaeConfig::of(&checkpoint)?;
        let weights = checkpoint.weights(Target {
            kind: Kind::Float,
            device,
        });
        let vae = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(vae)
    }

    /// Takes the tensors of both halves from `weights`.
    pub fn load(weights: &Weights, config: VaeConfig) -> Result<Self> {
        Ok(Self {
            encoder: Encoder::load(weights, &config)?,
            decoder: Decoder::load(weights, &config)?,
            device: weights.target().device,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The mode of the posterior, `[1, z, 1 + (frames - 1) / 4, height / 8, width / 8]` f32 (the
    /// divisors are those of Wan 2.1), not normalised.
    ///
    /// `video` is `[1, 3, frames, height, width]` in [-1, 1]; frames are `4n + 1`. Memory grows
    /// with the frame size, not with the clip: after the first frame, four go through at a time.
    pub fn encode(&self, video: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let video = self.checked_video(video)?;
        let frames = video.size()[2];
        let step = self.config.temporal_factor();
        let mut cache = StreamCache::default();
        let mut latents = Vec::new();
        let mut start = 0;
        while start < frames {
            let length = if start == 0 { 1 } else { step };
            cache.begin_chunk();
            let chunk = self.patchify(&video.f_narrow(2, start, length)?)?;
            let moments = self.encoder.forward(&chunk, &mut cache)?;
            latents.push(moments.f_narrow(1, 0, self.config.z_dim)?);
            start += length;
        }
        Ok(Tensor::f_cat(&latents, 2)?)
    }

    /// Mean and log-variance of the posterior, `[1, 2z, t, h, w]` f32, for training: as
    /// [`encode`](Self::encode), with the whole clip in one piece.
    pub fn moments(&self, video: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let video = self.checked_video(video)?;
        let mut cache = StreamCache::default();
        cache.begin_chunk();
        self.encoder.forward(&self.patchify(&video)?, &mut cache)
    }

    /// The pixels of `[1, z, t, h, w]`, for training: as [`decode`](Self::decode), with the whole
    /// clip in one piece and nothing clamped.
    pub fn reconstruct(&self, latents: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let mut cache = StreamCache::default();
        cache.begin_chunk();
        self.unpatchify(&self.decoder.forward(latents, &mut cache)?)
    }

    /// `[1, z, t, h, w]`, not normalised, to `[1, 3, 1 + 4 (t - 1), 8h, 8w]` f32 clamped to
    /// [-1, 1].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let mut chunks = Vec::new();
        self.decode_stream(latents, DECODE_CHUNK, &mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })?;
        Ok(Tensor::f_cat(&chunks, 2)?)
    }

    /// Decodes the first latent frame, then `chunk` at a time, and hands each piece `[1, 3, frames, …]` on.
    ///
    /// The pieces laid together are the result of [`AutoencoderKlWan::decode`] for every `chunk`;
    /// memory is bounded by the chunk, not by the clip.
    pub fn decode_stream(
        &self,
        latents: &Tensor,
        chunk: i64,
        each: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        self.decode_shared(latents, chunk, &Peers::default(), each)
    }

    /// As [`decode_stream`](Self::decode_stream), with the rows of the picture divided among
    /// `ranks`, all of which call it with the same latents and are handed the same pieces.
    ///
    /// Convolutions ask the neighbours for the row beyond the edge, so that there are no seams and
    /// the result is that of one rank.
    pub fn decode_shared(
        &self,
        latents: &Tensor,
        chunk: i64,
        ranks: &Peers,
        each: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let _guard = gradients::guard();
        let size = latents.size();
        let z_dim = self.config.z_dim;
        if size.len() != 5 || size[0] != 1 || size[1] != z_dim || size.contains(&0) {
            let reason = format!("[1, {z_dim}, t, h, w] is needed, found {size:?}");
            return Err(ModelError::input("latents", reason));
        }
        let latents = latents.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        // Fewer rows than ranks: everybody does it all.
        let alone = Peers::default();
        let ranks = if size[3] < ranks.part().of {
            &alone
        } else {
            ranks
        };
        let latents = ranks.strip(&latents, 3)?;
        let mut cache = StreamCache::of_strip(ranks.clone());
        let mut start = 0;
        while start < size[2] {
            // The first latent frame is one frame, the others four each: alone, it leaves the
            // later chunks even, which is what the convolutions are fastest at.
            let length = match start {
                0 => 1,
                _ => chunk.max(1).min(size[2] - start),
            };
            cache.begin_chunk();
            let pixels = self
                .decoder
                .forward(&latents.f_narrow(2, start, length)?, &mut cache)?;
            let pixels = self.unpatchify(&pixels)?.f_clamp_(-1.0, 1.0)?;
            each(ranks.join(&pixels, 3)?)?;
            start += length;
        }
        Ok(())
    }

    /// `(latents - mean) / std` per channel, in f32.
    pub fn normalize(&self, latents: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.statistics(latents.device())?;
        Ok(latents.f_to_kind(Kind::Float)?.f_sub(&mean)?.f_div_(&std)?)
    }

    /// `latents * std + mean` per channel, in f32.
    pub fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.statistics(latents.device())?;
        Ok(latents.f_to_kind(Kind::Float)?.f_mul(&std)?.f_add_(&mean)?)
    }

    /// Mean and deviation, shaped for `[.., z, t, h, w]`.
    fn statistics(&self, device: Device) -> Result<(Tensor, Tensor)> {
        let column = |values: &[f64]| -> Result<Tensor> {
            let column = Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?;
            Ok(column.f_view([-1, 1, 1, 1])?.f_to_device(device)?)
        };
        Ok((
            column(&self.config.latents_mean)?,
            column(&self.config.latents_std)?,
        ))
    }

    fn checked_video(&self, video: &Tensor) -> Result<Tensor> {
        let size = video.size();
        let wrong = |reason: String| Err(ModelError::input("video", reason));
        let &[1, 3, frames, height, width] = size.as_slice() else {
            return wrong(format!(
                "[1, 3, frames, height, width] is needed, found {size:?}"
            ));
        };
        let step = self.config.temporal_factor();
        if frames % step != 1 % step {
            return wrong(format!("{frames} frames are not {step}n + 1"));
        }
        let patch = self.config.patch_size.unwrap_or(1);
        if height < 1 || width < 1 || height % patch != 0 || width % patch != 0 {
            return wrong(format!(
                "{height}x{width} pixels are not patches of {patch}"
            ));
        }
        Ok(video.f_to_device(self.device)?.f_to_kind(Kind::Float)?)
    }

    /// Moves the pixels of a patch to channels, columns slower than rows.
    fn patchify(&self, video: &Tensor) -> Result<Tensor> {
        let Some(patch) = self.config.patch_size.filter(|&patch| patch > 1) else {
            return Ok(video.shallow_clone());
        };
        let (batch, channels, frames, height, width) = video.size5()?;
        let (rows, columns) = (height / patch, width / patch);
        Ok(video
            .f_reshape([batch, channels, frames, rows, patch, columns, patch])?
            .f_permute([0, 1, 6, 4, 2, 3, 5])?
            .f_reshape([batch, channels * patch * patch, frames, rows, columns])?)
    }

    fn unpatchify(&self, pixels: &Tensor) -> Result<Tensor> {
        let Some(patch) = self.config.patch_size.filter(|&patch| patch > 1) else {
            return Ok(pixels.shallow_clone());
        };
        let (batch, values, frames, rows, columns) = pixels.size5()?;
        let channels = values / (patch * patch);
        Ok(pixels
            .f_reshape([batch, channels, patch, patch, frames, rows, columns])?
            .f_permute([0, 1, 4, 5, 3, 6, 2])?
            .f_reshape([batch, channels, frames, rows * patch, columns * patch])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::{cosines, fill_checkpoint, relative_error, summary};

    const WAN21: &str = r#"{"_class_name": "AutoencoderKLWan", "base_dim": 8, "z_dim": 16}"#;
    const WAN22: &str = r#"{"_class_name": "AutoencoderKLWan", "base_dim": 8,
        "decoder_base_dim": 16, "z_dim": 8, "is_residual": true, "in_channels": 12,
        "out_channels": 12, "patch_size": 2, "latents_mean": [0, 0, 0, 0, 0, 0, 0, 0],
        "latents_std": [1, 1, 1, 1, 1, 1, 1, 1]}"#;

    fn filled(config: &str) -> AutoencoderKlWan {
        let folder = tempfile::tempdir().unwrap();
        let parsed: VaeConfig = serde_json::from_str(config).unwrap();
        fill_checkpoint(folder.path(), config, 0.03, |weights| {
            Encoder::load(weights, &parsed)?;
            Decoder::load(weights, &parsed).map(drop)
        });
        AutoencoderKlWan::open(folder.path(), Device::Cpu).unwrap()
    }

    fn assert_summary(found: &Tensor, at: &[i64], expected: &[f64], total: f64) {
        let (values, sum) = summary(found, at);
        for (value, expected) in values.iter().zip(expected) {
            assert!(
                (value - expected).abs() < 1e-5,
                "{values:?} is not {expected:?}"
            );
        }
        assert!((sum - total).abs() / total < 1e-5, "{sum} is not {total}");
    }

    /// Specification `wan22`, section 8: values computed with diffusers 0.42.1.
    #[test]
    fn files_free_golden_values_of_wan_2_1() {
        let vae = filled(WAN21);
        let pixels = vae.decode(&cosines(&[1, 16, 3, 4, 6], 0.0)).unwrap();
        assert_eq!(pixels.size(), [1, 3, 9, 32, 48]);
        let expected = [0.169_016, 0.264_077, 0.207_416, -0.288_007];
        assert_summary(&pixels, &[0, 1, 1000, 5000], &expected, 15_828.306_6);
        let latents = vae.encode(&cosines(&[1, 3, 9, 32, 48], 0.0)).unwrap();
        assert_eq!(latents.size(), [1, 16, 3, 4, 6]);
        let expected = [-0.041_140, -0.041_126, -0.033_722, -0.011_049];
        assert_summary(&latents, &[0, 1, 200, 1151], &expected, 22.8632);
    }

    /// Specification `wan22`, section 8: values computed with diffusers 0.42.1.
    #[test]
    fn files_free_golden_values_of_wan_2_2() {
        let vae = filled(WAN22);
        let pixels = vae.decode(&cosines(&[1, 8, 3, 2, 3], 0.0)).unwrap();
        assert_eq!(pixels.size(), [1, 3, 9, 32, 48]);
        let expected = [0.091_107, -0.228_027, -0.491_448, 0.628_089];
        assert_summary(&pixels, &[0, 1, 1000, 5000], &expected, 29_185.993_5);
        let latents = vae.encode(&cosines(&[1, 3, 9, 32, 48], 0.0)).unwrap();
        assert_eq!(latents.size(), [1, 8, 3, 2, 3]);
        let expected = [0.017_917, 0.018_204, 0.024_785, -0.005_325];
        assert_summary(&latents, &[0, 1, 50, 143], &expected, 2.1524);
    }

    #[test]
    fn every_chunk_length_decodes_to_the_same_clip() {
        for config in [WAN21, WAN22] {
            let vae = filled(config);
            let z_dim = vae.config().z_dim;
            for frames in [1, 2, 5] {
                let latents = cosines(&[1, z_dim, frames, 3, 2], 0.4);
                let whole = vae.decode(&latents).unwrap();
                assert_eq!(whole.size()[2], 4 * (frames - 1) + 1);
                for chunk in [2, 3, frames] {
                    let mut pieces = Vec::new();
                    let mut keep = |piece: Tensor| {
                        pieces.push(piece);
                        Ok(())
                    };
                    vae.decode_stream(&latents, chunk, &mut keep).unwrap();
                    let streamed = Tensor::cat(&pieces, 2);
                    let error = relative_error(&streamed, &whole);
                    assert!(error < 1e-4, "{z_dim}: {frames} by {chunk}: {error}");
                }
            }
        }
    }

    /// Bit for bit where both end a chunk; elsewhere convolutions add up in another order.
    #[test]
    fn a_longer_clip_begins_like_a_shorter_one() {
        let vae = filled(WAN21);
        let latents = cosines(&[1, 16, 2 + DECODE_CHUNK, 2, 3], 0.2);
        let whole = vae.decode(&latents).unwrap();
        let prefix = |frames| {
            let prefix = vae.decode(&latents.narrow(2, 0, frames)).unwrap();
            (prefix, whole.narrow(2, 0, 4 * frames - 3))
        };
        let (decoded, expected) = prefix(1 + DECODE_CHUNK);
        assert_eq!(decoded, expected);
        let (decoded, expected) = prefix(2);
        assert!(relative_error(&decoded, &expected) < 1e-5);
    }

    #[test]
    fn a_stream_never_holds_more_than_a_chunk() {
        let vae = filled(WAN21);
        let latents = cosines(&[1, 16, 6, 2, 3], 0.2);
        let mut lengths = Vec::new();
        let mut note = |piece: Tensor| {
            lengths.push(piece.size()[2]);
            Ok(())
        };
        vae.decode_stream(&latents, 2, &mut note).unwrap();
        assert_eq!(lengths, [1, 8, 8, 4]);
    }

    #[test]
    fn normalisation_is_undone() {
        let vae = filled(WAN21);
        let latents = cosines(&[1, 16, 2, 2, 3], 0.2);
        let there = vae.normalize(&latents).unwrap();
        assert!(relative_error(&there, &latents) > 0.1);
        assert!(relative_error(&vae.denormalize(&there).unwrap(), &latents) < 1e-6);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let vae = filled(WAN21);
        let options = (Kind::Float, Device::Cpu);
        for size in [[1, 3, 8, 16, 16], [1, 4, 9, 16, 16], [2, 3, 9, 16, 16]] {
            assert!(
                vae.encode(&Tensor::zeros(size, options)).is_err(),
                "{size:?}"
            );
        }
        for size in [[1, 15, 2, 2, 2], [2, 16, 2, 2, 2], [1, 16, 0, 2, 2]] {
            assert!(
                vae.decode(&Tensor::zeros(size, options)).is_err(),
                "{size:?}"
            );
        }
    }
}
