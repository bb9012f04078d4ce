//! The parts of a pipeline of Wan, each written once for all sets that have it.

use std::path::Path;

use storyloom_nn::error::Result;
use storyloom_story::Seed;

use super::hub::{DIFFUSION, TRANSFORMERS, create_dir};
use super::{autoencoder, layout, parse, text, transformer, write_component};
use crate::autoencoder::AutoencoderKlWan;
use crate::text::T5Encoder;
use crate::wan::WanTransformer;

/// Writes the transformer `component` of the pipeline `name` into its folder below `root`.
pub(super) fn write_transformer(
    root: &Path,
    seed: Seed,
    (name, component): (&str, &str),
    in_channels: i64,
) -> Result<()> {
    let config = transformer::config(in_channels);
    let parsed = parse(&root.join(component), &config)?;
    let layout = layout(&config, |weights| {
        WanTransformer::load(weights, parsed).map(drop)
    })?;
    let expert = format!("{name}/{component}");
    let fill = |name: &str, shape: &[i64]| transformer::fill(seed, &expert, name, shape);
    write_component(&root.join(component), DIFFUSION, &config, layout, fill)
}

/// Writes VAE, text encoder and tokenizer into their folders below `root`.
pub(super) fn write_shared(root: &Path, seed: Seed) -> Result<()> {
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
        T5Encoder::load(weights, parsed).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| text::fill(seed, name, shape);
    write_component(&folder, TRANSFORMERS, &config, text_layout, fill)
}
