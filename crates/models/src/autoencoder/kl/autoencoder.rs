//! Encoding and decoding of pictures.

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use tch::{Device, Kind, Tensor};

use super::config::AutoencoderKlConfig;
use super::decoder::Decoder;
use super::encoder::Encoder;

/// The autoencoder of pictures. Weights are f32 or bf16; the published ones leave the range of f16.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: AutoencoderKlConfig,
    encoder: Encoder,
    decoder: Decoder,
    device: Device,
}

/// The posterior of a batch of pictures, f32.
#[derive(Debug)]
pub struct Moments {
    /// Its mode, `[batch, latent, h, w]`.
    pub mean: Tensor,
    /// Logarithm of its variance, the same shape, clamped to [-30, 20].
    pub log_variance: Tensor,
}

impl Moments {
    /// A sample of the posterior for standard normal `noise` of the shape of the mean.
    ///
    /// # Errors
    /// Noise of another shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let (found, wanted) = (noise.size(), self.mean.size());
        if found != wanted {
            let reason = format!("{wanted:?} is needed, found {found:?}");
            return Err(ModelError::input("noise", reason));
        }
        let deviation = self.log_variance.f_mul_scalar(0.5)?.f_exp()?;
        let noise = noise
            .f_to_device(self.mean.device())?
            .f_to_kind(Kind::Float)?;
        Ok(deviation.f_mul(&noise)?.f_add(&self.mean)?)
    }
}

impl AutoencoderKl {
    /// Loads a VAE folder, or the autoencoder of a single file of FLUX. Missing and unknown tensors are an error
    /// that lists them, and f16 is refused.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        if target.kind == Kind::Half {
            let reason = "the autoencoder leaves the range of f16; use bf16 or f32";
            return Err(ModelError::input("dtype", reason));
        }
        let checkpoint = Checkpoint::open_part(folder, SingleFilePart::FluxAutoencoder)?;
        let config = AutoencoderKlConfig::of(&checkpoint)?;
        let weights = checkpoint.weights(target);
        let vae = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(vae)
    }

    /// Takes the tensors of both halves from `weights`.
    ///
    /// # Errors
    /// Values of the config that are not implemented, and tensors of another shape.
    pub fn load(weights: &Weights, config: AutoencoderKlConfig) -> Result<Self> {
        let checked = config.check();
        checked.map_err(|reason| ModelError::input("config of the autoencoder", reason))?;
        Ok(Self {
            encoder: Encoder::load(weights, &config)?,
            decoder: Decoder::load(weights, &config)?,
            device: weights.target().device,
            config,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The posterior of `pictures` `[batch, 3, height, width]` in [-1, 1], whose sides have at least one latent:
    /// `[batch, latent, height / 8, width / 8]` twice (the divisors are those of SDXL and FLUX, rounded down).
    ///
    /// Pictures go through one at a time, so that memory does not grow with the batch. Whole on one rank.
    pub fn moments(&self, pictures: &Tensor) -> Result<Moments> {
        let least = self.config.pixels_per_latent();
        let moments = self.each(
            "pictures",
            pictures,
            [self.config.in_channels, least],
            |picture| self.encoder.forward(picture),
        )?;
        let latents = self.config.latent_channels;
        let log_variance = moments.f_narrow(1, latents, latents)?;
        Ok(Moments {
            mean: moments.f_narrow(1, 0, latents)?,
            log_variance: log_variance.f_clamp(-30.0, 20.0)?,
        })
    }

    /// The mode of the posterior, not normalised; see [`moments`](Self::moments).
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        Ok(self.moments(pictures)?.mean)
    }

    /// Latents `[batch, latent, h, w]`, not normalised, to pixels `[batch, 3, 8 h, 8 w]` f32, about [-1, 1] and not
    /// clamped. One picture at a time, as [`moments`](Self::moments).
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.each(
            "latents",
            latents,
            [self.config.latent_channels, 1],
            |one| self.decoder.forward(one),
        )
    }

    /// Latents as the denoiser takes them: `(latents - shift) * scale`, f32.
    pub fn normalize(&self, latents: &Tensor) -> Result<Tensor> {
        let shift = self.config.shift_factor.unwrap_or(0.0);
        Ok(latents
            .f_to_kind(Kind::Float)?
            .f_sub_scalar(shift)?
            .f_mul_scalar(self.config.scaling_factor)?)
    }

    /// The inverse of [`normalize`](Self::normalize): `latents / scale + shift`, f32.
    pub fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        let shift = self.config.shift_factor.unwrap_or(0.0);
        Ok(latents
            .f_to_kind(Kind::Float)?
            .f_div_scalar(self.config.scaling_factor)?
            .f_add_scalar(shift)?)
    }

    /// Runs each of `batch`, which has `channels` and sides of `least` at least, on its own.
    fn each(
        &self,
        what: &str,
        batch: &Tensor,
        [channels, least]: [i64; 2],
        run: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let _guard = gradients::guard();
        let size = batch.size();
        let fits = matches!(*size, [count, own, height, width]
            if count > 0 && own == channels && height >= least && width >= least);
        if !fits {
            let reason = format!(
                "[batch, {channels}, height, width] with sides of {least} at least is needed, found {size:?}"
            );
            return Err(ModelError::input(what, reason));
        }
        let batch = batch.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        let results = (0..size[0]).map(|index| run(&batch.f_narrow(0, index, 1)?));
        Ok(Tensor::f_cat(&results.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};
    use storyloom_nn::tensor_file::{read_tensors, write_tensors};
    use storyloom_nn::testing::vectors::{
        assert_vector, flux_vector, wave, write_vector_checkpoint,
    };
    use storyloom_nn::testing::{layout_counts, relative_error};
    use tempfile::TempDir;

    use super::*;

    /// The config of the tiny autoencoders of the vectors.
    fn config(layers: i64, changes: Value) -> Value {
        let mut config = json!({
            "_class_name": "AutoencoderKL", "block_out_channels": [32, 64], "layers_per_block": layers,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn flux() -> Value {
        let flux = json!({
            "latent_channels": 16, "use_quant_conv": false, "use_post_quant_conv": false,
            "scaling_factor": 0.3611, "shift_factor": 0.1159,
        });
        config(1, flux)
    }

    fn sdxl() -> Value {
        config(2, json!({"latent_channels": 4, "scaling_factor": 0.13025}))
    }

    fn written(config: &Value) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        write_vector_checkpoint(folder.path(), config, |weights| {
            AutoencoderKl::load(weights, serde_json::from_value(config.clone()).unwrap()).map(drop)
        });
        folder
    }

    fn open(config: &Value) -> AutoencoderKl {
        AutoencoderKl::open(written(config).path(), Target::CPU_F32).unwrap()
    }

    /// diffusers `AutoencoderKL` without quantisation layers, with a shift.
    #[test]
    fn the_variant_of_flux_equals_the_reference() {
        let case = flux_vector("modules/cases/ae");
        let folder = written(&flux());
        let tensors = read_tensors(&folder.path().join("model.safetensors")).unwrap();
        assert_eq!(Some(tensors.len() as u64), case["tensors"].as_u64());
        let vae = AutoencoderKl::open(folder.path(), Target::CPU_F32).unwrap();
        let latents = vae.encode(&wave(0.3, 0.5, &[1, 3, 8, 12])).unwrap();
        let latents = vae.normalize(&latents).unwrap();
        assert_vector("latents", &latents, &case["encode"]["latents"], 1e-5);
        let latents = vae.denormalize(&wave(0.3, 1.0, &[1, 16, 4, 6])).unwrap();
        let pixels = vae.decode(&latents).unwrap();
        assert_vector("pixels", &pixels, &case["decode"]["output"], 3e-5);
    }

    /// diffusers `AutoencoderKL` with quantisation layers; specification `moviedreamer`, `modules.vae`.
    #[test]
    fn the_variant_of_sdxl_equals_the_reference() {
        let vae = open(&sdxl());
        let pixels = vae.decode(&wave(0.3, 1.0, &[1, 4, 3, 4])).unwrap();
        let expected = json!({
            "shape": [1, 3, 6, 8], "mean": 0.02118221, "rms": 0.9515165,
            "first": [0.6987725, 0.9522729, 0.7385596, 0.2665946, 0.002869628, 0.07706412, 0.2046693, 0.1486258],
            "last": [-0.1247048, -0.05633124, 0.1447272, 0.01479293, -0.4738986, -0.8883573, -0.782697, -0.297206],
        });
        assert_vector("pixels", &pixels, &expected, 1e-5);
        let latents = vae.encode(&wave(0.3, 1.0, &[1, 3, 10, 12])).unwrap();
        let expected = json!({
            "shape": [1, 4, 5, 6], "mean": -0.3206134, "rms": 1.037497,
            "first": [-2.632044, -2.740237, -1.494063, -0.7304589, -0.8530609, -0.7165304, 1.438823, 2.490551],
            "last": [-0.6493666, -0.5586936, -0.552166, -1.196607, -1.934188, -2.101864, -1.432982, -0.6001196],
        });
        assert_vector("latents", &latents, &expected, 1e-5);
    }

    /// Specification `flux`, section 4.
    #[test]
    fn layouts_have_the_counts_of_the_published_models() {
        let counts = |changes: Value| {
            let mut config = json!({
                "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
                "down_block_types": vec!["DownEncoderBlock2D"; 4],
                "up_block_types": vec!["UpDecoderBlock2D"; 4],
            });
            for (key, value) in changes.as_object().unwrap() {
                config[key] = value.clone();
            }
            let config = serde_json::from_value(config).unwrap();
            layout_counts(|weights| AutoencoderKl::load(weights, config).map(drop))
        };
        let flux = json!({
            "latent_channels": 16, "use_quant_conv": false, "use_post_quant_conv": false,
        });
        assert_eq!(counts(flux), (244, 83_819_683));
        assert_eq!(counts(json!({"latent_channels": 4})), (248, 83_653_863));
    }

    #[test]
    fn a_sample_is_the_mean_and_a_deviation_of_noise() {
        let moments = Moments {
            mean: Tensor::from_slice(&[1.0_f32, -1.0]).view([1, 1, 1, 2]),
            log_variance: Tensor::from_slice(&[0.0_f32, 2.0]).view([1, 1, 1, 2]),
        };
        let noise = Tensor::from_slice(&[0.5_f32, 2.0]).view([1, 1, 1, 2]);
        let sample = Vec::<f32>::try_from(&moments.sample(&noise).unwrap().flatten(0, -1)).unwrap();
        assert_eq!(sample[0], 1.5);
        assert!((sample[1] - (2.0 * 1.0_f32.exp() - 1.0)).abs() < 1e-6);
        let error = moments.sample(&noise.narrow(3, 0, 1)).unwrap_err();
        assert!(error.to_string().contains("noise"), "{error}");
    }

    #[test]
    fn a_batch_is_each_of_its_pictures_alone() {
        let vae = open(&flux());
        let pictures = wave(0.3, 0.5, &[2, 3, 8, 12]);
        let both = vae.encode(&pictures).unwrap();
        let second = vae.encode(&pictures.narrow(0, 1, 1)).unwrap();
        assert!(relative_error(&both.narrow(0, 1, 1), &second) < 1e-6);
        let pixels = vae.decode(&both).unwrap();
        assert_eq!(pixels.size(), [2, 3, 8, 12]);
        let alone = vae.decode(&second).unwrap();
        assert!(relative_error(&pixels.narrow(0, 1, 1), &alone) < 1e-5);
        let there = vae.normalize(&both).unwrap();
        assert!(relative_error(&there, &both) > 0.1);
        assert!(relative_error(&vae.denormalize(&there).unwrap(), &both) < 1e-6);
    }

    /// The attention of files before diffusers 0.18, and its maps as 1x1 convolutions.
    #[test]
    fn earlier_names_and_convolutions_are_the_same_attention() {
        let folder = written(&sdxl());
        let path = folder.path().join("model.safetensors");
        let latents = wave(0.3, 1.0, &[1, 4, 3, 4]);
        let decode = || {
            let vae = AutoencoderKl::open(folder.path(), Target::CPU_F32).unwrap();
            vae.decode(&latents).unwrap()
        };
        let expected = decode();
        let tensors = read_tensors(&path).unwrap();
        let renamed: BTreeMap<String, Tensor> = tensors
            .iter()
            .map(|(name, tensor)| {
                let mut earlier = name.clone();
                for (today, former) in [
                    ("to_q.", "query."),
                    ("to_k.", "key."),
                    ("to_v.", "value."),
                    ("to_out.0.", "proj_attn."),
                ] {
                    earlier = earlier.replace(today, former);
                }
                let is_map = earlier != *name && tensor.dim() == 2;
                let shape = [tensor.size(), vec![1; if is_map { 2 } else { 0 }]].concat();
                (earlier, tensor.copy().view(shape.as_slice()))
            })
            .collect();
        assert!(renamed.contains_key("decoder.mid_block.attentions.0.proj_attn.weight"));
        let views: Vec<(&str, &Tensor)> =
            renamed.iter().map(|(name, t)| (name.as_str(), t)).collect();
        write_tensors(&path, &views).unwrap();
        assert!(relative_error(&decode(), &expected) < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let vae = open(&flux());
        let error = |result: Result<Tensor>| result.unwrap_err().to_string();
        let options = (Kind::Float, Device::Cpu);
        assert!(error(vae.encode(&Tensor::zeros([1, 3, 1, 8], options))).contains("pictures"));
        assert!(error(vae.decode(&Tensor::zeros([1, 4, 2, 2], options))).contains("[batch, 16"));
        let folder = written(&flux());
        let half = Target {
            kind: Kind::Half,
            ..Target::CPU_F32
        };
        let refused = AutoencoderKl::open(folder.path(), half).unwrap_err();
        assert!(refused.to_string().contains("bf16 or f32"), "{refused}");
        // With quantisation layers, the same file is incomplete.
        let mut other = flux();
        other["use_quant_conv"] = json!(true);
        std::fs::write(folder.path().join("config.json"), other.to_string()).unwrap();
        let missing = AutoencoderKl::open(folder.path(), Target::CPU_F32).unwrap_err();
        assert!(
            missing.to_string().contains("quant_conv.weight"),
            "{missing}"
        );
    }
}
