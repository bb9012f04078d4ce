//! A tiny checkpoint for OneStory: one pipeline of Wan that takes an image, and the parts that choose what a
//! shot sees of the shots before it.

use std::path::Path;

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;
use storyloom_story::onestory::Kernel;
use tch::Kind;

use super::hub::{DIFFUSION, PipelineFiles};
use super::pipeline::{write_shared, write_transformer};
use super::sheet::Sheet;
use super::{folders, labels, layout, parse, text, transformer, write_component};
use crate::onestory::{FOLDER, OneStoryConfig, OneStoryMemory, spread_patch};

/// The transformer, by the names that its weights are derived from.
const EXPERT: (&str, &str) = (folders::ONESTORY, "transformer");
const IN_CHANNELS: i64 = 36;

/// Writes the checkpoint into `dir`, which must not hold one yet.
pub(super) fn init(dir: &Path, seed: Seed) -> Result<()> {
    let root = dir.join(folders::ONESTORY);
    if root.exists() {
        let reason = "there is a checkpoint already; remove it or name another folder";
        return Err(ModelError::bad_file(root, reason));
    }
    let files = PipelineFiles {
        takes_pictures: true,
        boundary: None,
        flow_shift: 3.0,
    };
    files.write(&root)?;
    write_transformer(&root, seed, EXPERT, IN_CHANNELS)?;
    write_shared(&root, seed)?;
    write_memory(&root.join(FOLDER), seed)?;
    labels::write(&dir.join(folders::ONESTORY_LABELS), seed)
}

/// Writes selector and patchifiers.
fn write_memory(folder: &Path, seed: Seed) -> Result<()> {
    let config = config();
    let parsed: OneStoryConfig = parse(folder, &config)?;
    let layout = layout(&config, |weights| {
        OneStoryMemory::load(weights, &parsed).map(drop)
    })?;
    let patchifiers = patchifiers(seed, parsed.latent_channels)?;
    let fill = |name: &str, shape: &[i64]| {
        let drawn = patchifiers.iter().find(|(known, _)| known == name);
        drawn.map_or_else(|| fill(seed, name, shape), |(_, sheet)| sheet.clone())
    };
    write_component(folder, DIFFUSION, &config, layout, fill)
}

/// `onestory/config.json`.
fn config() -> serde_json::Value {
    serde_json::json!({
        "_class_name": OneStoryConfig::CLASS,
        "eps": 1e-6,
        "frame_times": 21,
        "head_dim": transformer::HEAD_DIM,
        "kernels": Kernel::ALL,
        "latent_channels": transformer::LATENT,
        "queries": 4,
        "score_norm": "cosine",
        "shot_ages": 16,
        "text_dim": text::WIDTH,
        "vision_width": 32,
        "width": transformer::WIDTH,
    })
}

/// Patchifiers that begin as the patches of the transformer do.
fn patchifiers(seed: Seed, channels: i64) -> Result<Vec<(String, Sheet)>> {
    let expert = format!("{}/{}", EXPERT.0, EXPERT.1);
    let of_transformer = |name: &str, shape: &[i64]| transformer::fill(seed, &expert, name, shape);
    let patch = [transformer::WIDTH, IN_CHANNELS, 1, 2, 2];
    let patch = of_transformer("patch_embedding.weight", &patch).tensor(Kind::Float)?;
    let patch = patch.f_narrow(1, 0, channels)?;
    let bias = of_transformer("patch_embedding.bias", &[transformer::WIDTH]);
    let mut sheets = Vec::new();
    for kernel in Kernel::ALL {
        let weight = Sheet::of(&spread_patch(&patch, kernel)?)?;
        sheets.push((format!("patchifiers.{kernel}.weight"), weight));
        sheets.push((format!("patchifiers.{kernel}.bias"), bias.clone()));
    }
    Ok(sheets)
}

/// The values of every other tensor.
fn fill(seed: Seed, name: &str, shape: &[i64]) -> Sheet {
    let label = format!("onestory/{name}");
    let noise = |std: f32| Sheet::noise(seed, &label, shape, std);
    match name {
        "context_token" => Sheet::constant(shape, 0.0),
        "selector.queries" => noise(1.0),
        "selector.shot_age" | "selector.frame_time" => noise(0.3),
        _ if name.contains("norm") && name.ends_with("weight") => {
            noise(0.02).plus(&Sheet::constant(shape, 1.0))
        }
        _ if name.ends_with("bias") => noise(0.02),
        _ => Sheet::layer(seed, &label, shape, 1.0),
    }
}
