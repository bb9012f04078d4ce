//! Where the checkpoints of StoryMem lie, and what was read of them.

use std::path::{Path, PathBuf};

use storyloom_models::scorer::AestheticHead;
use storyloom_models::tiny::folders;
use storyloom_nn::checkpoint::component_folder;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::loaded::{LoadedFiles, Source};
use storyloom_nn::lora::{AdapterIdentity, adapter_identity};

use super::settings::StoryMemSettings;
use crate::method::wan::adapters::{AdaptedExpert, adapter_file};

/// Where the checkpoints lie.
#[derive(Debug, Clone)]
pub struct StoryMemPaths {
    /// A `WanPipeline` folder, for first shots.
    pub text_to_video: PathBuf,
    /// A `WanImageToVideoPipeline` folder, for all other shots; `None` makes every shot from text
    /// alone.
    pub image_to_video: Option<PathBuf>,
    /// Folder with `backbone_high_noise.safetensors` and `backbone_low_noise.safetensors`.
    pub lora: Option<PathBuf>,
    /// A CLIP vision tower with projection; `None` tells no keyframes apart.
    pub clip: Option<PathBuf>,
    /// The [predictor](AestheticHead) that says how good a frame is; `None` asks the
    /// [rule](storyloom_models::scorer::SharpnessExposure) without a network.
    pub aesthetic: Option<PathBuf>,
}

impl StoryMemPaths {
    /// The pipeline whose VAE, text encoder and tokenizer serve both.
    pub fn shared(&self) -> &Path {
        self.image_to_video
            .as_deref()
            .unwrap_or(&self.text_to_video)
    }
}

/// The folders below `models.dir`: `t2v`, `i2v`, `clip`, and `lora` or where the user has it. Quality is
/// that of the rule.
pub fn storymem_paths(dir: &Path, lora: Option<PathBuf>) -> StoryMemPaths {
    StoryMemPaths {
        text_to_video: dir.join(folders::TEXT_TO_VIDEO),
        image_to_video: Some(dir.join(folders::IMAGE_TO_VIDEO)),
        lora,
        clip: Some(dir.join(folders::CLIP)),
        aesthetic: None,
    }
}

/// The adapters of the image-to-video experts, by the names that they have in records.
pub(super) fn adapters(
    paths: &StoryMemPaths,
    settings: &StoryMemSettings,
) -> Result<Vec<(&'static str, AdapterIdentity)>> {
    let (Some(lora), Some(pipeline)) = (&paths.lora, &paths.image_to_video) else {
        return Ok(Vec::new());
    };
    let is_there = |expert: AdaptedExpert| component_folder(pipeline, expert.component()).is_dir();
    let is_only = !is_there(AdaptedExpert::Low);
    let identity = |expert: AdaptedExpert| {
        let file = adapter_file(lora, expert, is_only)?;
        Ok((expert.name(), adapter_identity(&file, settings.lora)?))
    };
    AdaptedExpert::ALL
        .into_iter()
        .filter(|expert| is_there(*expert))
        .map(identity)
        .collect()
}

/// Every component and the adapters, as they are now.
pub(super) fn loaded(
    paths: &StoryMemPaths,
    adapters: &[(&str, AdapterIdentity)],
) -> Result<LoadedFiles> {
    let mut parts = Vec::new();
    for (pipeline, folder) in [
        ("t2v", Some(&paths.text_to_video)),
        ("i2v", paths.image_to_video.as_ref()),
    ] {
        let Some(folder) = folder else { continue };
        for part in ["transformer", "transformer_2", "vae", "text_encoder"] {
            let component = component_folder(folder, part);
            if component.is_dir() {
                parts.push((format!("{pipeline}/{part}"), Source::Folder(component)));
            }
        }
    }
    if let Some(clip) = &paths.clip {
        parts.push(("clip".to_owned(), Source::Folder(clip.clone())));
    }
    if let Some(folder) = &paths.aesthetic {
        parts.extend(AestheticHead::parts(folder));
    }
    for (name, adapter) in adapters {
        parts.push((format!("lora/{name}"), Source::File(adapter.file.clone())));
    }
    LoadedFiles::read(parts)
}

/// What to say where the pipeline for pictures is needed after all.
pub(super) fn no_image_to_video() -> ModelError {
    let reason = "no i2v checkpoint is loaded, so that no shot can continue the one before; set \
                  storymem.continuation = \"none\", or put i2v into models.dir";
    ModelError::bad_file("i2v", reason)
}
