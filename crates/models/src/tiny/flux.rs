//! A tiny pipeline of FLUX.1-dev's kind: its transformer and its scheduler, and the parts around them.

use std::path::Path;

use serde_json::{Value, json};
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;

use super::around_flux::write_around_transformer;
use super::hub::{DIFFUSERS, DIFFUSION, write_json};
use super::sheet::Sheet;
use super::{clip_text, layout, parse, text, write_component};
use crate::flux::{FluxConfig, FluxTransformer};

/// Writes a complete `FluxPipeline` into `dir`, which must not hold one yet.
///
/// The weights of the transformer are random, and keep the size of activations: what it makes are patterns, not
/// pictures. Equal seeds give equal files, byte for byte.
pub fn init_tiny_flux(dir: &Path, seed: Seed) -> Result<()> {
    let folder = dir.join("transformer");
    if folder.exists() {
        let reason = "there is a checkpoint already; remove it or name another folder";
        return Err(ModelError::bad_file(folder, reason));
    }
    let config = config();
    let parsed: FluxConfig = parse(&folder, &config)?;
    let layout = layout(&config, |weights| {
        FluxTransformer::load(weights, parsed).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| fill(seed, name, shape);
    write_component(&folder, DIFFUSION, &config, layout, fill)?;
    write_json(&dir.join("scheduler/scheduler_config.json"), &scheduler())?;
    write_json(&dir.join("model_index.json"), &model_index())?;
    write_around_transformer(dir, seed)
}

fn model_index() -> Value {
    json!({
        "_class_name": "FluxPipeline",
        "_diffusers_version": DIFFUSERS,
        "feature_extractor": [null, null],
        "image_encoder": [null, null],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", FluxConfig::CLASS],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

/// `transformer/config.json`.
fn config() -> Value {
    json!({
        "_class_name": FluxConfig::CLASS,
        "_diffusers_version": DIFFUSERS,
        "attention_head_dim": 16,
        "axes_dims_rope": [4, 6, 6],
        "guidance_embeds": true,
        "in_channels": 64,
        "joint_attention_dim": text::WIDTH,
        "num_attention_heads": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "out_channels": null,
        "patch_size": 1,
        "pooled_projection_dim": clip_text::WIDTH,
    })
}

/// `scheduler/scheduler_config.json`, that of FLUX.1-dev.
fn scheduler() -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": DIFFUSERS,
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": true,
    })
}

/// The values of a tensor. Shifts, scales and gates are small, so that no block outweighs the others.
fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("flux/{name}");
    let noise = |std: f32| Sheet::noise(seed, &label, shape, std);
    if shape.len() > 1 {
        let is_modulation = name.contains("norm") && name.contains("linear");
        let gain = if is_modulation { 0.3 } else { 1.0 };
        return Sheet::layer(seed, &label, shape, gain);
    }
    match name.ends_with("weight") {
        true => noise(0.02).plus(&Sheet::constant(shape, 1.0)),
        false => noise(0.02),
    }
}

#[cfg(test)]
mod tests {
    use storyloom_nn::checkpoint::Target;
    use storyloom_nn::image::to_rounded_picture;
    use tch::{Kind, Tensor};

    use super::*;
    use crate::autoencoder::AutoencoderKl;
    use crate::flux::{FluxGuidance, FluxPicture, FluxSampler, FluxVariant, flux_noise, unpack};
    use crate::sampler::FlowConfig;
    use crate::text::FluxPrompts;

    const CPU: Target = Target::CPU_F32;

    /// The latent of a picture of 64 x 64 pixels for a prompt, from the folder alone.
    fn sampled(folder: &Path, prompt: &str) -> Tensor {
        let model = FluxTransformer::open(&folder.join("transformer"), CPU).unwrap();
        let variant = FluxVariant::of_pipeline(folder, model.config()).unwrap();
        let scheduler = folder.join("scheduler/scheduler_config.json");
        let prompts = FluxPrompts::open(folder, 32, CPU).unwrap();
        let grid = [4, 4];
        let picture = FluxPicture {
            grid,
            text: &prompts.encode(prompt, None).unwrap(),
            negative: None,
            conditions: &[],
            guidance: FluxGuidance::embedded(variant.guidance()),
        };
        let scheduler = FlowConfig::read(&scheduler).unwrap();
        let schedule = scheduler.schedule(4, 16).unwrap();
        let sampler = FluxSampler::new(&model, schedule, &picture).unwrap();
        let noise = flux_noise(Seed(5), model.config().in_channels, grid).unwrap();
        let tokens = sampler.run(&noise, 0, |_, _| Ok(())).unwrap();
        unpack(&tokens, grid).unwrap()
    }

    #[test]
    fn a_prompt_becomes_a_picture() {
        let folder = tempfile::tempdir().unwrap();
        init_tiny_flux(folder.path(), Seed(3)).unwrap();
        let [boat, house] =
            ["a red boat", "an old house in the snow"].map(|prompt| sampled(folder.path(), prompt));
        let size = |tensor: &Tensor| tensor.square().mean(Kind::Float).sqrt().double_value(&[]);
        assert!((0.1..10.0).contains(&size(&boat)), "{}", size(&boat));
        assert!(size(&(&boat - house)) > 1e-3);
        let vae = AutoencoderKl::open(&folder.path().join("vae"), CPU).unwrap();
        let pixels = vae.decode(&vae.denormalize(&boat).unwrap()).unwrap();
        let picture = to_rounded_picture(&pixels.select(0, 0)).unwrap();
        assert_eq!(picture.dimensions(), (64, 64));
    }

    #[test]
    fn equal_seeds_give_equal_files_and_nothing_is_overwritten() {
        let written = [1, 1, 2].map(|seed| {
            let folder = tempfile::tempdir().unwrap();
            init_tiny_flux(folder.path(), Seed(seed)).unwrap();
            assert!(init_tiny_flux(folder.path(), Seed(seed)).is_err());
            std::fs::read(folder.path().join("transformer").join(DIFFUSION)).unwrap()
        });
        assert_eq!(written[0], written[1]);
        assert_ne!(written[0], written[2]);
    }

    /// Every part that the index names is there.
    #[test]
    fn the_pipeline_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        init_tiny_flux(folder.path(), Seed(1)).unwrap();
        let index = std::fs::read(folder.path().join("model_index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let parts = index.as_object().unwrap().iter();
        for (part, _) in parts.filter(|(_, class)| class[0].is_string()) {
            assert!(folder.path().join(part).is_dir(), "{part}");
        }
    }
}
