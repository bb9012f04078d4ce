//! Writing the trained networks as a set of checkpoints in the layout of the hub.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use storyloom_models::onestory;
use storyloom_models::tiny::hub::{DIFFUSION, PipelineFiles, TRANSFORMERS, link_files, write_json};
use storyloom_models::tiny::{folders, write_preprocessor};
use storyloom_nn::tch::{Kind, Tensor};
use storyloom_nn::tensor_file::write_tensors;

use super::Run;
use crate::error::{Result, TrainError};
use crate::params::{self, Tensors};
use crate::shape::SCORED;
use crate::stages::StageName;
use crate::stages::flow::{clips, parts, text_encoder, widened};
use crate::stages::scorer::{self, vision_tower};
use crate::words::Words;

/// What is exported of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What samples in few steps without guidance.
    Fast,
    /// What that was made from: more steps, with guidance.
    Guided,
    /// The same, and memory as adapters of the text-to-video model.
    Lora,
}

/// What is exported of the stages of OneStory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneStoryForm {
    /// What samples in few steps without guidance.
    Fast,
    /// What that was made from: more steps, with guidance.
    Guided,
}

/// What is said to want a stage that has not begun.
const WANTS: &str = "export";

impl Run {
    /// Writes the set of checkpoints in this form.
    pub fn export(&self, folder: &Path, form: Form) -> Result<()> {
        let tokenizer = self.folder.join("tokenizer");
        let words = Words::write(&tokenizer)?;
        let codec = self.codec()?;
        let shape = &self.preset.shape;
        let average = |stage| self.average(stage, WANTS);
        let image_shape = shape.transformer_json(true);
        let (text_to_video, image_to_video, adapters) = match form {
            Form::Fast => {
                let fast = [StageName::FastClips, StageName::FastMemory].map(average);
                let [clips, memory] = fast;
                (clips?, memory?, None)
            }
            Form::Guided => (
                average(StageName::Clips)?,
                average(StageName::Memory)?,
                None,
            ),
            Form::Lora => {
                let channels = shape.transformer(true)?.in_channels;
                let clips = average(StageName::Clips)?;
                let base = widened(&clips, channels)?;
                (clips, base, Some(average(StageName::MemoryLora)?))
            }
        };
        let statistics = [codec.statistics().mean, codec.statistics().std];
        let scorer = scorer::finished(self, WANTS)?;
        let set = Parts {
            vae: (
                shape.vae_json(&statistics),
                params::shallow(codec.tensors()),
            ),
            text: (
                shape.text_json(words.rows()),
                text_encoder(&clips::finished(self, WANTS)?),
            ),
            text_to_video: (shape.transformer_json(false), text_to_video),
            image_to_video: (image_shape, image_to_video),
            adapters,
            clip: (shape.clip_json(), scorer),
            flow_shift: self.preset.fast.1.shift,
            card: self.card()?,
        };
        write_set(folder, &set, &tokenizer)
    }
}

impl Run {
    /// Writes the pipeline of OneStory into `folder`, which may hold a set but not that pipeline: what the
    /// set has already of it is linked. Weights that were trained here are in f16.
    ///
    /// # Errors
    /// The stage has not begun, there is such a pipeline already, or a file cannot be written.
    pub fn export_onestory(&self, folder: &Path, form: OneStoryForm) -> Result<()> {
        let stage = match form {
            OneStoryForm::Fast => StageName::FastOneStory,
            OneStoryForm::Guided => StageName::OneStory,
        };
        let trained = self.average(stage, WANTS)?;
        let root = folder.join(folders::ONESTORY);
        if root.exists() {
            let reason = "there is a checkpoint already; remove it or name another folder";
            return Err(TrainError::bad_file(&root, reason));
        }
        let shape = &self.preset.shape;
        PipelineFiles {
            takes_pictures: true,
            boundary: None,
            flow_shift: self.preset.fast.1.shift,
        }
        .write(&root)?;
        let half = |part: &str, below: &str, config: &Value| -> Result<()> {
            let folder = root.join(part);
            write_json(&folder.join("config.json"), config)?;
            write_as(Kind::Half, &folder.join(DIFFUSION), &trained, below)
        };
        let transformer = shape.transformer_json(true);
        half("transformer", parts::TRANSFORMER, &transformer)?;
        half(onestory::FOLDER, parts::ONESTORY, &shape.onestory_json())?;
        self.write_fixed(folder, &root)?;
        let card = root.join("README.md");
        fs::write(&card, self.onestory_card()?).map_err(|error| TrainError::io(&card, error))
    }

    /// Writes what OneStory takes from the set as it is, as a link to what `set` has of it.
    fn write_fixed(&self, set: &Path, root: &Path) -> Result<()> {
        let shape = &self.preset.shape;
        let (codec, words) = (self.codec()?, self.words()?);
        let there = |part: &str| set.join(folders::IMAGE_TO_VIDEO).join(part).exists();
        let shared = ["vae", "text_encoder", "tokenizer"];
        let (linked, written): (Vec<&str>, Vec<&str>) =
            shared.into_iter().partition(|part| there(part));
        for part in linked {
            let link = root.join(part);
            let target = Path::new("..").join(folders::IMAGE_TO_VIDEO).join(part);
            symlink(target, &link).map_err(|error| TrainError::io(&link, error))?;
        }
        for part in written {
            let folder = root.join(part);
            match part {
                "vae" => {
                    let statistics = [codec.statistics().mean, codec.statistics().std];
                    let config = shape.vae_json(&statistics);
                    component(&folder, DIFFUSION, &config, codec.tensors(), "")?;
                }
                "text_encoder" => {
                    let config = shape.text_json(words.rows());
                    let tensors = clips::encoder(self, WANTS)?;
                    component(&folder, TRANSFORMERS, &config, &tensors, parts::TEXT)?;
                }
                _ => link_files(&self.folder.join("tokenizer"), &folder)?,
            }
        }
        let clip = set.join(folders::CLIP);
        if clip.exists() {
            return Ok(());
        }
        let tower = vision_tower(&scorer::finished(self, WANTS)?);
        component(&clip, TRANSFORMERS, &shape.clip_json(), &tower, "")?;
        Ok(write_preprocessor(&clip, SCORED)?)
    }
}

/// What a set is made of.
#[derive(Debug)]
pub struct Parts {
    /// Autoencoder.
    pub vae: (Value, Tensors),
    /// Text encoder, names below [`parts::TEXT`].
    pub text: (Value, Tensors),
    /// Text to video, names below [`parts::TRANSFORMER`].
    pub text_to_video: (Value, Tensors),
    /// Memory pictures and text to video, likewise.
    pub image_to_video: (Value, Tensors),
    /// Adapters of the latter by their published names, if memory is in them.
    pub adapters: Option<Tensors>,
    /// The vision tower, as it is trained.
    pub clip: (Value, Tensors),
    /// Flow shift of the samplers.
    pub flow_shift: f64,
    /// The model card.
    pub card: String,
}

/// Writes a set into `folder`, which must not hold one yet. Weights are in bf16; text encoder,
/// tokenizer and autoencoder of the two pipelines are the same files.
pub fn write_set(folder: &Path, set: &Parts, tokenizer: &Path) -> Result<()> {
    let first = folder.join(folders::TEXT_TO_VIDEO);
    if first.exists() {
        let reason = "there is a checkpoint already; remove it or name another folder";
        return Err(TrainError::bad_file(&first, reason));
    }
    let second = folder.join(folders::IMAGE_TO_VIDEO);
    for (root, (config, tensors), takes_pictures) in [
        (&first, &set.text_to_video, false),
        (&second, &set.image_to_video, true),
    ] {
        let files = PipelineFiles {
            takes_pictures,
            boundary: None,
            flow_shift: set.flow_shift,
        };
        files.write(root)?;
        let part = root.join("transformer");
        component(&part, DIFFUSION, config, tensors, parts::TRANSFORMER)?;
    }
    let (config, tensors) = &set.vae;
    component(&first.join("vae"), DIFFUSION, config, tensors, "")?;
    let (config, tensors) = &set.text;
    let text = first.join("text_encoder");
    component(&text, TRANSFORMERS, config, tensors, parts::TEXT)?;
    link_files(tokenizer, &first.join("tokenizer"))?;
    for shared in ["vae", "text_encoder", "tokenizer"] {
        link_files(&first.join(shared), &second.join(shared))?;
    }
    if let Some(adapters) = &set.adapters {
        let lora = folder.join(folders::LORA);
        fs::create_dir_all(&lora).map_err(|error| TrainError::io(&lora, error))?;
        write_rounded(&lora.join("backbone_high_noise.safetensors"), adapters, "")?;
    }
    let (config, tensors) = &set.clip;
    let clip = folder.join(folders::CLIP);
    component(&clip, TRANSFORMERS, config, &vision_tower(tensors), "")?;
    write_preprocessor(&clip, SCORED)?;
    let card = folder.join("README.md");
    fs::write(&card, &set.card).map_err(|error| TrainError::io(&card, error))
}

fn component(
    folder: &Path,
    file: &str,
    config: &Value,
    tensors: &Tensors,
    below: &str,
) -> Result<()> {
    write_json(&folder.join("config.json"), config)?;
    write_rounded(&folder.join(file), tensors, below)
}

/// Writes the tensors whose names begin with `below`, without that, in bf16.
fn write_rounded(path: &Path, tensors: &Tensors, below: &str) -> Result<()> {
    write_as(Kind::BFloat16, path, tensors, below)
}

/// The same as numbers of `kind`.
fn write_as(kind: Kind, path: &Path, tensors: &Tensors, below: &str) -> Result<()> {
    let prefix = if below.is_empty() {
        String::new()
    } else {
        format!("{below}.")
    };
    let mut rounded: Vec<(&str, Tensor)> = Vec::new();
    for (name, tensor) in tensors {
        if let Some(name) = name.strip_prefix(&prefix) {
            rounded.push((name, tensor.f_detach()?.f_to_kind(kind)?));
        }
    }
    let views: Vec<(&str, &Tensor)> = rounded.iter().map(|(name, t)| (*name, t)).collect();
    Ok(write_tensors(path, &views)?)
}
