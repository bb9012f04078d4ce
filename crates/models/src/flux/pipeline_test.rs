//! The whole way from prompts and noise to pixels, compared with diffusers' pipelines on `tests/golden/pipeline-flux`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::testing::{golden, golden_tensors, relative_error};
use tch::Tensor;

use super::*;
use crate::autoencoder::AutoencoderKl;
use crate::sampler::FlowConfig;
use crate::text::{FluxPrompts, FluxText};

const CASE: &str = "pipeline-flux";
/// Tokens along the sides of 48 x 64 pixels.
const GRID: [i64; 2] = [3, 4];

/// The parts of the pipeline, and what the reference made with them.
struct Pipeline {
    prompts: FluxPrompts,
    transformer: FluxTransformer,
    vae: AutoencoderKl,
    recipe: Value,
    io: BTreeMap<String, Tensor>,
}

fn folder() -> PathBuf {
    golden(CASE)
}

fn open() -> Pipeline {
    let recipe = std::fs::read(folder().join("recipe.json")).unwrap();
    let recipe: Value = serde_json::from_slice(&recipe).unwrap();
    let rows = recipe["max_sequence_length"].as_u64().unwrap() as usize;
    let target = Target::CPU_F32;
    Pipeline {
        prompts: FluxPrompts::open(&folder(), rows, target).unwrap(),
        transformer: FluxTransformer::open(&folder().join("transformer"), target).unwrap(),
        vae: AutoencoderKl::open(&folder().join("vae"), target).unwrap(),
        recipe,
        io: golden_tensors(CASE, "io.safetensors"),
    }
}

impl Pipeline {
    fn said(&self, key: &str) -> &str {
        self.recipe[key].as_str().unwrap()
    }

    fn prompt(&self) -> FluxText {
        let second = Some(self.said("prompt_2"));
        self.prompts.encode(self.said("prompt"), second).unwrap()
    }

    /// Samples a picture, and compares its latents and its pixels in [0, 1] with those of `names`.
    fn makes(&self, picture: &FluxPicture, names: [&str; 2]) {
        let steps = self.recipe["num_inference_steps"].as_u64().unwrap() as usize;
        let scheduler =
            FlowConfig::read(&folder().join("scheduler/scheduler_config.json")).unwrap();
        let schedule = scheduler.schedule(steps, GRID[0] * GRID[1]).unwrap();
        let sampler = FluxSampler::new(&self.transformer, schedule, picture).unwrap();
        let latents = sampler.run(&self.io["latents"], 0, |_, _| Ok(())).unwrap();
        let unpacked = self
            .vae
            .denormalize(&unpack(&latents, GRID).unwrap())
            .unwrap();
        let pixels = self.vae.decode(&unpacked).unwrap() / 2.0 + 0.5;
        for (name, found) in names.into_iter().zip([latents, pixels.clamp(0.0, 1.0)]) {
            let error = relative_error(&found, &self.io[name]);
            assert!(error < 1e-5, "{name}: relative error {error:.2e}");
        }
    }
}

/// Prompts reach both encoders as typed, one each.
#[test]
fn prompts_are_encoded_as_by_the_pipeline() {
    let pipeline = open();
    let text = pipeline.prompt();
    for (name, found) in [
        ("prompt_embeds", &text.rows),
        ("pooled_prompt_embeds", &text.pooled),
    ] {
        let error = relative_error(found, &pipeline.io[name]);
        assert!(error < 1e-5, "{name}: relative error {error:.2e}");
    }
}

#[test]
fn a_picture_of_a_prompt_is_that_of_the_pipeline() {
    let pipeline = open();
    let text = pipeline.prompt();
    let picture = FluxPicture {
        grid: GRID,
        text: &text,
        negative: None,
        conditions: &[],
        guidance: FluxGuidance::embedded(Some(3.5)),
    };
    pipeline.makes(&picture, ["output_latents", "output_pixels"]);
}

/// Kontext: the mode of the picture's latents stands beside the noise; with true guidance.
#[test]
fn a_picture_of_a_picture_is_that_of_the_pipeline() {
    let pipeline = open();
    let text = pipeline.prompt();
    let negative = pipeline
        .prompts
        .encode(pipeline.said("negative_prompt"), None)
        .unwrap();
    let mode = pipeline.vae.encode(&pipeline.io["picture"]).unwrap();
    let condition = FluxCondition {
        tokens: pack(&pipeline.vae.normalize(&mode).unwrap()).unwrap(),
        positions: FluxPositions::grid(1.0, GRID),
        added: None,
    };
    let picture = FluxPicture {
        grid: GRID,
        text: &text,
        negative: Some(&negative),
        conditions: &[condition],
        guidance: FluxGuidance {
            embedded: Some(2.5),
            true_cfg_scale: 2.0,
        },
    };
    pipeline.makes(&picture, ["output_edited_latents", "output_edited_pixels"]);
}
