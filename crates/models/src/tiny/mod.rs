//! Complete tiny checkpoints in the layout of the hub, made from a seed.
//!
//! For tests, benchmarks and a first run without downloads: every file is where the real
//! checkpoints have it, diffusers and PEFT read them as they are, and the whole way of a story
//! works on a CPU in seconds. The weights are random, but arranged so that the pictures are
//! smooth fields of colour that depend on the prompt, the seed and the memory.

mod around_flux;
mod autoencoder;
mod clip;
mod clip_text;
mod flux;
pub mod hub;
mod labels;
mod language;
mod lora;
mod onestory;
mod picture_autoencoder;
mod pipeline;
mod sheet;
mod storymem;
mod text;
mod transformer;

use std::path::Path;

use serde_json::Value;
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::write_tensors;
use storyloom_story::{Method, Seed};
use tch::{Kind, Tensor};

pub use self::around_flux::write_around_transformer;
pub use self::flux::init_tiny_flux;
use self::hub::{TRANSFORMERS, create_dir, parent, write_json};
pub use self::language::init_tiny_language;
use self::sheet::Sheet;
pub use self::text::write_tokenizer;

/// Where the parts of a set of checkpoints lie, below its folder.
pub mod folders {
    /// Text to video: a complete `WanPipeline`.
    pub const TEXT_TO_VIDEO: &str = "t2v";
    /// Image to video: a complete `WanImageToVideoPipeline`.
    pub const IMAGE_TO_VIDEO: &str = "i2v";
    /// The adapters `backbone_high_noise.safetensors` and `backbone_low_noise.safetensors`.
    pub const LORA: &str = "lora";
    /// The vision tower that selects keyframes.
    pub const CLIP: &str = "clip";
    /// The predictor that says how good a frame is: a vision tower `clip` and `head.safetensors`.
    pub const AESTHETIC: &str = "aesthetic";
    /// OneStory: a complete `WanImageToVideoPipeline` with one transformer, and the parts of OneStory in it.
    pub const ONESTORY: &str = "onestory";
    /// What `onestory.selector = "clip"` compares captions and frames with: CLIP in `clip`, DINOv2 in `dino`.
    pub const ONESTORY_LABELS: &str = "onestory_labels";
}

/// Writes a set of tiny checkpoints for `method` into `dir`, which must not hold one yet.
///
/// Equal seeds give equal files, byte for byte. Text encoder, tokenizer and VAE of the two
/// pipelines are the same files (hard links where the file system has them).
pub fn init_tiny(dir: &Path, method: Method, seed: Seed) -> Result<()> {
    match method {
        Method::StoryMem => storymem::init(dir, seed),
        Method::OneStory => onestory::init(dir, seed),
        method => Err(ModelError::input(
            format!("method {method}"),
            "there are no tiny checkpoints for it yet",
        )),
    }
}

/// Writes the vision tower of a set: its embedding follows the colours of a picture.
fn write_clip(folder: &Path, seed: Seed) -> Result<()> {
    let fill = |name: &str, shape: &[i64]| clip::fill(seed, name, shape);
    write_component(folder, TRANSFORMERS, &clip::config(), clip::layout(), fill)?;
    write_preprocessor(folder, clip::SIDE)
}

/// Writes `preprocessor_config.json` of a vision tower in `folder` that sees squares of `side`
/// pixels.
pub fn write_preprocessor(folder: &Path, side: i64) -> Result<()> {
    write_json(
        &folder.join("preprocessor_config.json"),
        &clip::preprocessor(side),
    )
}

fn parse<T: serde::de::DeserializeOwned>(folder: &Path, config: &Value) -> Result<T> {
    serde_json::from_value(config.clone())
        .map_err(|error| ModelError::bad_file(folder.join("config.json"), error.to_string()))
}

/// Every tensor a model asks for: it is loaded from a checkpoint without any.
fn layout(
    config: &Value,
    load: impl FnOnce(&Weights) -> Result<()>,
) -> Result<Vec<(String, Vec<i64>)>> {
    let empty = Checkpoint::from_files(Path::new("tiny"), config.clone(), &[])?;
    let weights = empty.weights(Target::CPU_F32);
    load(&weights)?;
    Ok(weights.asked_for())
}

/// Writes a component folder: config and bf16 weights.
fn write_component(
    folder: &Path,
    file: &str,
    config: &Value,
    mut layout: Vec<(String, Vec<i64>)>,
    fill: impl Fn(&str, &[i64]) -> Sheet,
) -> Result<()> {
    write_json(&folder.join("config.json"), config)?;
    layout.sort();
    let sheets: Vec<(String, Sheet)> = layout
        .into_iter()
        .map(|(name, shape)| {
            let sheet = fill(&name, &shape);
            (name, sheet)
        })
        .collect();
    write_sheets(&folder.join(file), &sheets, Kind::BFloat16)
}

fn write_sheets(path: &Path, sheets: &[(String, Sheet)], kind: Kind) -> Result<()> {
    create_dir(&parent(path))?;
    let tensors = sheets
        .iter()
        .map(|(name, sheet)| Ok((name.as_str(), sheet.tensor(kind)?)))
        .collect::<Result<Vec<_>>>()?;
    let views: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
    write_tensors(path, &views)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use storyloom_nn::tensor_file::read_tensors;
    use tch::Device;

    use super::*;
    use crate::autoencoder::AutoencoderKlWan;
    use crate::onestory::{FOLDER, OneStoryMemory};
    use crate::text::PromptEncoder;
    use crate::vision::clip::ClipVision;
    use crate::wan::{ForwardInputs, WanTransformer};

    fn made(seed: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        init_tiny(folder.path(), Method::StoryMem, Seed(seed)).unwrap();
        folder
    }

    /// blake3 of every file by its path.
    fn digests(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, blake3::Hash>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                digests(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.insert(name, blake3::hash(&std::fs::read(&path).unwrap()));
            }
        }
    }

    #[test]
    fn equal_seeds_give_equal_files_and_others_do_not() {
        let all = [5, 5, 6].map(|seed| {
            let folder = made(seed);
            let mut found = BTreeMap::new();
            digests(folder.path(), folder.path(), &mut found);
            found
        });
        assert_eq!(all[0], all[1]);
        let weights = |name: &Path| name.extension().is_some_and(|e| e == "safetensors");
        for (name, digest) in &all[0] {
            assert_eq!(all[2][name] != *digest, weights(name), "{}", name.display());
        }
        assert_eq!(all[0].len(), 33);
    }

    #[test]
    fn the_set_is_small_and_both_pipelines_are_complete() {
        let folder = made(1);
        for pipeline in [folders::TEXT_TO_VIDEO, folders::IMAGE_TO_VIDEO] {
            let root = folder.path().join(pipeline);
            for (component, in_channels) in [("transformer", 16), ("transformer_2", 16)] {
                let model = WanTransformer::open(&root.join(component), Target::CPU_F32).unwrap();
                let image = if pipeline == "i2v" { 20 } else { 0 };
                assert_eq!(model.config().in_channels, in_channels + image);
            }
            AutoencoderKlWan::open(&root.join("vae"), Device::Cpu).unwrap();
            PromptEncoder::open(&root, Target::CPU_F32).unwrap();
            let index = std::fs::read(root.join("model_index.json")).unwrap();
            let index: Value = serde_json::from_slice(&index).unwrap();
            for (component, class) in index.as_object().unwrap() {
                if class[0].is_string() {
                    assert!(root.join(component).is_dir(), "{component}");
                }
            }
        }
        ClipVision::open(&folder.path().join("clip"), Target::CPU_F32).unwrap();
        let error = init_tiny(folder.path(), Method::StoryMem, Seed(1)).unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
    }

    /// The names of the published adapters: `blocks.N.target.lora_A.weight` `[rank, inputs]`.
    #[test]
    fn adapters_have_the_published_names() {
        let folder = made(2);
        for expert in ["high_noise", "low_noise"] {
            let file = folder
                .path()
                .join(format!("lora/backbone_{expert}.safetensors"));
            let tensors = read_tensors(&file).unwrap();
            assert_eq!(tensors.len(), 4 * 10 * 2);
            let stem = "base_model.model.blocks.3";
            let down = &tensors[&format!("{stem}.ffn.2.lora_A.weight")];
            let up = &tensors[&format!("{stem}.cross_attn.o.lora_B.weight")];
            assert_eq!((down.size(), up.size()), (vec![4, 192], vec![96, 4]));
        }
    }

    #[test]
    fn the_checkpoint_of_onestory_is_complete_and_its_patchifiers_see_colours_alike() {
        let folder = tempfile::tempdir().unwrap();
        init_tiny(folder.path(), Method::OneStory, Seed(4)).unwrap();
        let root = folder.path().join(folders::ONESTORY);
        let target = Target::CPU_F32;
        let model = WanTransformer::open(&root.join("transformer"), target).unwrap();
        assert_eq!(model.config().in_channels, 36);
        AutoencoderKlWan::open(&root.join("vae"), Device::Cpu).unwrap();
        PromptEncoder::open(&root, target).unwrap();
        let memory = OneStoryMemory::open(&root.join(FOLDER), target).unwrap();
        let colour =
            storyloom_nn::testing::cosines(&[1, 16, 1, 1], 0.4).expand([1, 16, 16, 32], false);
        let tokens: Vec<Tensor> = memory
            .patchifiers
            .kernels()
            .map(|kernel| memory.patchifiers.tokens(kernel, &colour).unwrap())
            .collect();
        assert_eq!(tokens.len(), 4);
        for of_kernel in &tokens {
            // The weights are stored with 8 bits of precision.
            let first = of_kernel.narrow(1, 0, 1);
            let error = storyloom_nn::testing::relative_error(&first, &tokens[0].narrow(1, 0, 1));
            assert!(error < 0.02, "{error}");
        }
        let error = init_tiny(folder.path(), Method::OneStory, Seed(4)).unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
    }

    /// Colours survive the way through the latents, and grey stays grey.
    #[test]
    fn the_autoencoder_keeps_colours() {
        let folder = made(3);
        let vae = AutoencoderKlWan::open(&folder.path().join("t2v/vae"), Device::Cpu).unwrap();
        for colour in [[0.0_f32, 0.0, 0.0], [0.6, -0.6, 0.2], [-0.5, 0.4, -0.7]] {
            let picture = Tensor::from_slice(&colour).view([1, 3, 1, 1, 1]);
            let picture = picture.expand([1, 3, 1, 32, 48], false).contiguous();
            let decoded = vae.decode(&vae.encode(&picture).unwrap()).unwrap();
            let mean = decoded.mean_dim([0, 2, 3, 4].as_slice(), false, Kind::Float);
            for (channel, value) in colour.iter().enumerate() {
                let found = mean.double_value(&[channel as i64]);
                assert!(
                    (found - f64::from(*value)).abs() < 0.35,
                    "{colour:?}: {mean}"
                );
            }
        }
    }

    /// The velocity leads from the noise to a clean latent that depends on the prompt.
    #[test]
    fn prompts_lead_to_different_latents() {
        let folder = made(4);
        let root = folder.path().join("t2v");
        let prompts = PromptEncoder::open(&root, Target::CPU_F32).unwrap();
        let model = WanTransformer::open(&root.join("transformer"), Target::CPU_F32).unwrap();
        let noise = storyloom_nn::noise::gaussian(
            Seed(9),
            storyloom_nn::noise::Stream::Shot,
            &[1, 16, 3, 12, 20],
        );
        let noise = noise.unwrap();
        let clean = ["a red boat", "an old house in the snow"].map(|prompt| {
            let context = model
                .prepare_context(&prompts.encode(prompt).unwrap(), None)
                .unwrap();
            let inputs = ForwardInputs {
                hidden_states: &noise,
                timestep: &Tensor::from_slice(&[999_i64]),
                temporal_positions: None,
                appended: None,
            };
            &noise - model.forward(&inputs, &context).unwrap()
        });
        let mean = |tensor: &Tensor| tensor.mean(Kind::Float).double_value(&[]);
        let difference = mean(&(&clean[0] - &clean[1]).abs());
        assert!(difference > 0.02 && difference < 1.0, "{difference}");
        // Smooth: next to no noise is left, and neighbours are alike.
        let fields = clean[0].narrow(1, 0, 3);
        let steps = fields.narrow(4, 2, 18) - fields.narrow(4, 0, 18);
        assert!(mean(&steps.abs()) < 0.4, "{}", mean(&steps.abs()));
        assert!(mean(&fields.abs()) < 2.5);
    }
}
