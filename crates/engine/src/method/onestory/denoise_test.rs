//! The loop of OneStory on a story of the composition in Python, `scripts/parity/onestory_pipeline.py`.

use std::collections::BTreeMap;

use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings};
use storyloom_nn::tensor_file::from_host;
use storyloom_nn::testing::{golden, golden_tensors, relative_error};
use storyloom_story::onestory::{Budget, Counts};
use storyloom_story::{MemoryFrame, RgbImage, StoredArray, VideoSpec};

use super::*;
use crate::method::onestory::replicas_test::{inputs, settings};
use crate::method::onestory::{Conditions, OneStoryEngine};
use crate::replica::Replica;

const CASE: &str = "pipeline-onestory";
const VIDEO: VideoSpec = VideoSpec {
    width: 96,
    height: 64,
    frames: 13,
    fps: 8,
};

fn recipe() -> serde_json::Value {
    let recipe = std::fs::read(golden(CASE).join("recipe.json")).unwrap();
    serde_json::from_slice(&recipe).unwrap()
}

/// The networks of other cases as one pipeline.
fn engine(recipe: &serde_json::Value, budget: Budget) -> OneStoryEngine {
    let folder = tempfile::tempdir().unwrap();
    let paths = OneStoryPaths {
        pipeline: folder.path().to_owned(),
        lora: None,
        label_networks: folder.path().join("none"),
    };
    for (part, place) in recipe["parts"].as_object().unwrap() {
        let from = golden(CASE).join(place.as_str().unwrap());
        copy(&from, &folder.path().join(part));
    }
    let mut settings = settings();
    settings.sampler = SamplerSettings {
        kind: SamplerKind::UniPc,
        reference: Reference::Diffusers,
        steps: recipe["steps"].as_u64().unwrap() as usize,
        shift: recipe["shift"].as_f64().unwrap(),
    };
    settings.budget = budget;
    settings.guidance = recipe["guidance"].as_f64().unwrap();
    settings.negative_prompt = Some(recipe["negative_prompt"].as_str().unwrap().to_owned());
    OneStoryEngine::open(&paths, &settings, Replica::alone()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The image that the story begins with.
fn first_image(pixels: &Tensor) -> MemoryFrame {
    let pixels: Vec<u8> = pixels.flatten(0, -1).try_into().unwrap();
    MemoryFrame {
        hash: "of the image".to_owned(),
        image: Some(RgbImage::new(VIDEO.width, VIDEO.height, pixels).unwrap()),
        arrays: [].into(),
    }
}

fn earlier_shot(latents: HostTensor) -> MemoryFrame {
    MemoryFrame {
        hash: "of a shot".to_owned(),
        image: None,
        arrays: [(MemoryFrame::LATENTS.to_owned(), StoredArray::from(latents))].into(),
    }
}

/// The latents that the engine makes of `noise`.
fn sample(engine: &OneStoryEngine, conditions: &ShotConditions, noise: &Tensor) -> HostTensor {
    let walk = &engine.stages.plans;
    let start = LoopStart {
        noise,
        conditions: &walk.loop_conditions(conditions),
        resume: None,
    };
    let latents = engine
        .stages
        .denoise(|networks, team| walk.plan.sample(networks, team, &start, &mut |_| true));
    to_host(&latents.unwrap().squeeze_dim(0)).unwrap()
}

/// What a shot is conditioned on is what the composition has.
fn check(io: &BTreeMap<String, Tensor>, shot: usize, scores: &HostTensor, found: &ShotConditions) {
    let tokens = found.beginning.image.as_ref().unwrap();
    let Some(context) = &found.context else {
        assert_eq!(shot, 0, "shot {shot} sees nothing of its history");
        return close(io, "0.image_tokens", tokens, 1e-5);
    };
    close(io, "image_tokens.black", tokens, 1e-5);
    // Scores are cosines near 0, where differences are large beside them.
    let scores = from_host(scores, Device::Cpu).unwrap();
    close(io, &format!("{shot}.scores"), &scores, 5e-5);
    let seen = context.tokens.squeeze_dim(0);
    close(io, &format!("{shot}.context"), &seen, 1e-5);
    assert!(context.positions.equal(&io[&format!("{shot}.positions")]));
}

fn close(io: &BTreeMap<String, Tensor>, name: &str, found: &Tensor, tolerance: f64) {
    let error = relative_error(found, &io[name]);
    assert!(error <= tolerance, "{name}: relative error {error:.1e}");
}

/// Each shot sees what was sampled here before it, and not what is stored.
#[test]
fn a_story_of_three_shots_is_that_of_the_composition() {
    let (recipe, io) = (recipe(), golden_tensors(CASE, "io.safetensors"));
    let engine = engine(&recipe, Budget::default());
    let mut memory = vec![first_image(&io["0.image"])];
    for (shot, prompt) in recipe["prompts"].as_array().unwrap().iter().enumerate() {
        let mut inputs = inputs(memory.clone());
        inputs.request.video = VIDEO;
        inputs.request.prompt = prompt.as_str().unwrap().to_owned();
        let scores = engine.scores(&inputs).unwrap();
        let (_, conditions) = engine.encode(&inputs, &scores).unwrap();
        let Conditions::Shot(conditions) = conditions else {
            panic!("shot {shot} has scores and no conditions");
        };
        check(&io, shot, &scores, &conditions);
        let latents = sample(&engine, &conditions, &io[&format!("{shot}.noise")]);
        let found = from_host(&latents, Device::Cpu).unwrap();
        close(&io, &format!("{shot}.latents"), &found, 1e-5);
        memory.push(earlier_shot(latents));
    }
    assert_eq!(memory.len(), 4);
}

/// The checkpoint has the patchifiers p4 and p8, which are enough for frames of this size.
#[test]
fn a_patchifier_that_is_not_there_is_missed_by_the_first_shot() {
    let counts = Some(Counts([0, 2, 0, 1]));
    let engine = engine(&recipe(), Budget { units: 1, counts });
    let said = engine.select(&inputs(Vec::new())).unwrap_err().to_string();
    for words in [
        "the story ad",
        "p16",
        "has p4, p8",
        "onestory.frames_per_kernel",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
