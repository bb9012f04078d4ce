//! What a checkpoint for OneStory is made of, and what of it is missing.
//!
//! Only names and headers are looked at, so that everything that is wrong can be told at once,
//! before anything is loaded.

use std::path::Path;

use storyloom_models::onestory::{FOLDER, OneStoryConfig};
use storyloom_models::tiny::folders;
use storyloom_models::wan::WanConfig;
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::lora::LoraSettings;
use storyloom_story::onestory::Selector;

use super::paths::OneStoryPaths;
use super::settings::Backend;
use crate::method::wan;
use crate::method::wan::adapters::AdaptedExpert;
use crate::method::wan::parts::{Part, Published, component, problem_of, tokenizer};

/// Every part that is needed of the checkpoint at `paths`, with what gives the scores.
pub fn onestory_parts(
    paths: &OneStoryPaths,
    (backend, selector): (Backend, Selector),
    lora: LoraSettings,
) -> Vec<Part> {
    let folder = &paths.pipeline;
    let part = |name: &str, purpose| component(folders::ONESTORY, folder, name, purpose);
    let mut parts = vec![
        part("transformer", "Wan 2.1 image to video"),
        part("vae", "pictures to latents and back"),
        part("text_encoder", "what prompts mean"),
        tokenizer(folders::ONESTORY, folder),
    ];
    let config = WanConfig::read(&paths.transformer());
    if config.is_ok_and(|config| config.image_dim.is_some()) {
        parts.push(part("image_encoder", "CLIP ViT-H/14, sees the first image"));
    }
    if backend == Backend::OneStory {
        parts.push(memory(paths));
    }
    if selector == Selector::Clip {
        parts.extend(label_parts(paths));
    }
    if let Some(folder) = &paths.lora {
        let (place, problem) = wan::parts::adapter(folder, AdaptedExpert::High, true, lora);
        parts.push(Part {
            name: "lora".to_owned(),
            purpose: "an adapter of the transformer",
            place,
            problem,
        });
    }
    parts
}

/// The parts that OneStory adds to a pipeline of Wan.
fn memory(paths: &OneStoryPaths) -> Part {
    let purpose = "chooses frames, and makes context tokens of them";
    let mut part = component(folders::ONESTORY, &paths.pipeline, FOLDER, purpose);
    if part.problem.is_none() {
        let config = Checkpoint::open(&part.place).and_then(|found| OneStoryConfig::of(&found));
        part.problem = config.err().map(|error| error.to_string());
    }
    part
}

/// The networks that labels are computed by.
fn label_parts(paths: &OneStoryPaths) -> Vec<Part> {
    let labels = paths.labels();
    let components = labels.components().into_iter();
    let parts = components.map(|(name, folder)| Part {
        name: format!("{}/{name}", folders::ONESTORY_LABELS),
        purpose: match name {
            "dino" => "DINOv2, compares frames with frames",
            _ => "CLIP, compares captions with frames",
        },
        place: folder.to_owned(),
        problem: problem_of(folder),
    });
    parts.collect()
}

/// What a person should know who has a checkpoint below `dir` in which something is missing.
pub fn advice(dir: &Path, parts: &[Part]) -> Vec<String> {
    let published = Published {
        holds: folders::ONESTORY,
        pipelines: &[(folders::ONESTORY, "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")],
    };
    let mut lines = wan::parts::advice(dir, parts, &published);
    let memory = format!("{}/{FOLDER}", folders::ONESTORY);
    let lacks_memory =
        |part: &Part| part.name == memory && part.problem.is_some() && !part.place.is_dir();
    if parts.iter().any(lacks_memory) {
        lines.push(format!(
            "the weights of OneStory are not published: {} is made by training (storyloom train onestory), or \
             with random weights by: storyloom model init-tiny DIR --method onestory; a plain pipeline of Wan goes \
             with onestory.backend = \"{}\" or \"{}\"",
            dir.join(&memory).display(),
            Backend::Wan14bUntrained.name(),
            Backend::Wan13bFun.name()
        ));
    }
    let is_wrong_label =
        |part: &Part| part.name.starts_with(folders::ONESTORY_LABELS) && part.problem.is_some();
    if parts.iter().any(is_wrong_label) {
        lines.push(format!(
            "onestory.selector = \"clip\" takes {0}/clip, a CLIPModel with its tokenizer (openai/clip-vit-large-patch14), and \
             {0}/dino, a Dinov2Model (facebook/dinov2-base)",
            dir.join(folders::ONESTORY_LABELS).display()
        ));
    }
    lines.push("docs/checkpoints.md says where to get every part and where it lies".to_owned());
    lines
}
