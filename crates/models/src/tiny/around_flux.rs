//! The parts of a tiny FLUX pipeline that stand around its transformer: both text encoders with their
//! tokenizers, and the autoencoder of pictures.

use std::path::Path;

use storyloom_nn::error::Result;
use storyloom_story::Seed;

use super::hub::{DIFFUSION, TRANSFORMERS, create_dir};
use super::{clip_text, layout, parse, picture_autoencoder, text, write_component};
use crate::autoencoder::AutoencoderKl;
use crate::text::clip::ClipText;
use crate::text::{PositionTables, T5Config, T5Encoder};

/// Writes `tokenizer`, `text_encoder`, `tokenizer_2`, `text_encoder_2` and `vae` below `root`, in the layout of
/// the hub. Equal seeds give equal files.
///
/// # Errors
/// Files that cannot be written.
pub fn write_around_transformer(root: &Path, seed: Seed) -> Result<()> {
    write_clip(root, seed)?;
    write_t5(root, seed)?;
    write_autoencoder(&root.join("vae"), seed)
}

/// CLIP, of which the transformer takes the pooled vector.
fn write_clip(root: &Path, seed: Seed) -> Result<()> {
    let folder = root.join("text_encoder");
    let rows = clip_text::write_tokenizer(&root.join("tokenizer"), &text::words())?;
    let config = clip_text::config(rows);
    let parsed = parse(&folder, &config)?;
    let layout = layout(&config, |weights| {
        ClipText::load(weights, parsed, false).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| clip_text::fill(seed, name, shape);
    write_component(&folder, TRANSFORMERS, &config, layout, fill)
}

/// T5, whose rows the transformer attends to.
fn write_t5(root: &Path, seed: Seed) -> Result<()> {
    const NAME: &str = "text_encoder_2";
    let (folder, tokenizer) = (root.join(NAME), root.join("tokenizer_2"));
    create_dir(&tokenizer)?;
    let config = text::t5_config(text::write_tokenizer(&tokenizer, &text::words())?);
    let parsed = T5Config {
        tables: PositionTables::FirstLayer,
        ..parse(&folder, &config)?
    };
    let layout = layout(&config, |weights| {
        T5Encoder::load(weights, parsed).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| text::fill_as(seed, NAME, name, shape);
    write_component(&folder, TRANSFORMERS, &config, layout, fill)
}

fn write_autoencoder(folder: &Path, seed: Seed) -> Result<()> {
    let config = picture_autoencoder::config();
    let parsed = parse(folder, &config)?;
    let layout = layout(&config, |weights| {
        AutoencoderKl::load(weights, parsed).map(drop)
    })?;
    let fill = |name: &str, shape: &[i64]| picture_autoencoder::fill(seed, name, shape);
    write_component(folder, DIFFUSION, &config, layout, fill)
}

#[cfg(test)]
mod tests {
    use storyloom_nn::checkpoint::Target;
    use tch::{Kind, Tensor};

    use super::*;
    use crate::text::FluxPrompts;

    fn made() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write_around_transformer(folder.path(), Seed(3)).unwrap();
        folder
    }

    #[test]
    fn both_text_encoders_tell_prompts_apart() {
        let folder = made();
        let prompts = FluxPrompts::open(folder.path(), 32, Target::CPU_F32).unwrap();
        let [boat, house] = ["a red boat", "an old house in the snow"]
            .map(|prompt| prompts.encode(prompt, None).unwrap());
        assert_eq!(
            (boat.rows.size(), boat.pooled.size()),
            (vec![1, 32, 64], vec![1, 48])
        );
        let mean = |tensor: Tensor| tensor.abs().mean(Kind::Float).double_value(&[]);
        assert!(mean(boat.rows - house.rows) > 0.05);
        assert!(mean(boat.pooled - house.pooled) > 0.05);
    }

    /// Colours survive the way through the latents, which are about 1 where the transformer sees them.
    #[test]
    fn the_autoencoder_keeps_colours() {
        let folder = made();
        let vae = AutoencoderKl::open(&folder.path().join("vae"), Target::CPU_F32).unwrap();
        for colour in [[0.0_f32, 0.0, 0.0], [0.6, -0.6, 0.2], [-0.5, 0.4, -0.9]] {
            let picture = Tensor::from_slice(&colour).view([1, 3, 1, 1]);
            let picture = picture.expand([1, 3, 64, 48], false).contiguous();
            let latents = vae.normalize(&vae.encode(&picture).unwrap()).unwrap();
            assert_eq!(latents.size(), [1, 16, 8, 6]);
            assert!(latents.abs().max().double_value(&[]) < 6.0, "{colour:?}");
            let decoded = vae.decode(&vae.denormalize(&latents).unwrap()).unwrap();
            // The zeros around a picture darken its edge.
            let inside = decoded.narrow(2, 16, 32).narrow(3, 16, 16);
            let mean = inside.mean_dim([0, 2, 3].as_slice(), false, Kind::Float);
            for (channel, value) in colour.iter().enumerate() {
                let found = mean.double_value(&[channel as i64]);
                assert!(
                    (found - f64::from(*value)).abs() < 0.25,
                    "{colour:?}: {mean}"
                );
            }
        }
    }
}
