//! A set of tiny checkpoints for StoryMem: two pipelines of Wan2.2 with two experts each, adapters, and
//! what selects keyframes.

use std::path::Path;

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;
use tch::Kind;

use super::hub::{PipelineFiles, link_files};
use super::pipeline::{write_shared, write_transformer};
use super::{clip, folders, lora, write_clip, write_sheets};
use crate::scorer::AestheticHead;

/// Writes the set into `dir`, which must not hold one yet.
pub(super) fn init(dir: &Path, seed: Seed) -> Result<()> {
    let first = dir.join(folders::TEXT_TO_VIDEO);
    if first.exists() {
        let reason = "there is a checkpoint already; remove it or name another folder";
        return Err(ModelError::bad_file(first, reason));
    }
    write_pipeline(&first, seed, &Folder::TEXT_TO_VIDEO)?;
    write_shared(&first, seed)?;
    let second = dir.join(folders::IMAGE_TO_VIDEO);
    write_pipeline(&second, seed, &Folder::IMAGE_TO_VIDEO)?;
    for component in ["vae", "text_encoder", "tokenizer"] {
        link_files(&first.join(component), &second.join(component))?;
    }
    let lora = dir.join(folders::LORA);
    for expert in ["high_noise", "low_noise"] {
        let file = lora.join(format!("backbone_{expert}.safetensors"));
        write_sheets(&file, &lora::tensors(seed, expert), Kind::Float)?;
    }
    let clip = dir.join(folders::CLIP);
    write_clip(&clip, seed)?;
    let predictor = dir.join(folders::AESTHETIC);
    link_files(&clip, &predictor.join(AestheticHead::CLIP))?;
    let head = predictor.join(AestheticHead::HEAD);
    write_sheets(&head, &clip::predictor(seed), Kind::Float)
}

/// What distinguishes the two pipelines.
struct Folder {
    name: &'static str,
    in_channels: i64,
    files: PipelineFiles,
}

impl Folder {
    const TEXT_TO_VIDEO: Self = Self {
        name: "t2v",
        in_channels: 16,
        files: PipelineFiles {
            takes_pictures: false,
            boundary: Some(0.875),
            flow_shift: 12.0,
        },
    };
    const IMAGE_TO_VIDEO: Self = Self {
        name: "i2v",
        in_channels: 36,
        files: PipelineFiles {
            takes_pictures: true,
            boundary: Some(0.9),
            flow_shift: 5.0,
        },
    };
}

/// What belongs to one pipeline alone: index, scheduler and the two experts.
fn write_pipeline(root: &Path, seed: Seed, pipeline: &Folder) -> Result<()> {
    pipeline.files.write(root)?;
    for component in ["transformer", "transformer_2"] {
        write_transformer(root, seed, (pipeline.name, component), pipeline.in_channels)?;
    }
    Ok(())
}
