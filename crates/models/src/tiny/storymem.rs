//! A set of tiny checkpoints for StoryMem: two pipelines of Wan2.2 with two experts each, adapters, and
//! what selects keyframes.

use std::path::Path;

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;
use tch::Kind;

use super::hub::{DIFFUSION, PipelineFiles, TRANSFORMERS, create_dir, link_files};
use super::{
    autoencoder, clip, folders, layout, lora, parse, text, transformer, write_clip,
    write_component, write_sheets,
};
use crate::autoencoder::AutoencoderKlWan;
use crate::scorer::AestheticHead;
use crate::text::Umt5Encoder;
use crate::wan::WanTransformer;

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
        let config = transformer::config(pipeline.in_channels);
        let parsed = parse(&root.join(component), &config)?;
        let layout = layout(&config, |weights| {
            WanTransformer::load(weights, parsed).map(drop)
        })?;
        let expert = format!("{}/{component}", pipeline.name);
        let fill = |name: &str, shape: &[i64]| transformer::fill(seed, &expert, name, shape);
        write_component(&root.join(component), DIFFUSION, &config, layout, fill)?;
    }
    Ok(())
}

/// What both pipelines share: VAE, text encoder, tokenizer.
fn write_shared(root: &Path, seed: Seed) -> Result<()> {
    let folder = root.join("vae");
    let config = autoencoder::config();
    let parsed = parse(&folder, &config)?;
    let vae_layout = layout(&config, |weights| {
        AutoencoderKlWan::load(weights, parsed).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| autoencoder::fill(seed, name, shape);
    write_component(&folder, DIFFUSION, &config, vae_layout, fill)?;

    let tokenizer = root.join("tokenizer");
    create_dir(&tokenizer)?;
    let folder = root.join("text_encoder");
    let config = text::config(text::write_tokenizer(&tokenizer, &text::words())?);
    let parsed = parse(&folder, &config)?;
    let text_layout = layout(&config, |weights| {
        Umt5Encoder::load(weights, parsed).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| text::fill(seed, name, shape);
    write_component(&folder, TRANSFORMERS, &config, text_layout, fill)
}
