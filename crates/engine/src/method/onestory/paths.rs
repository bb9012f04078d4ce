//! Where the checkpoint of OneStory lies, and what was read of it.

use std::path::{Path, PathBuf};

use storyloom_models::onestory::FOLDER;
use storyloom_models::tiny::folders;
use storyloom_nn::checkpoint::component_folder;
use storyloom_nn::error::Result;
use storyloom_nn::loaded::{LoadedFiles, Source};
use storyloom_nn::lora::{AdapterIdentity, LoraSettings, adapter_identity};
use storyloom_story::onestory::Selector;

use super::settings::{Backend, OneStorySettings};
use crate::method::wan::adapters::{AdaptedExpert, adapter_file};

/// Where the checkpoint lies.
#[derive(Debug, Clone)]
pub struct OneStoryPaths {
    /// A `WanImageToVideoPipeline` folder with one transformer, and the parts of OneStory in `onestory/`.
    pub pipeline: PathBuf,
    /// Folder with an adapter of the transformer.
    pub lora: Option<PathBuf>,
    /// Folder with the networks that labels are computed by, for `selector = "clip"`.
    pub label_networks: PathBuf,
}

/// Where the networks lie that labels are computed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelFolders {
    /// CLIP's text tower with its projection.
    pub(super) text: PathBuf,
    /// CLIP's vision tower with its projection; the same folder where one checkpoint has both.
    pub(super) image: PathBuf,
    /// The tokenizer of captions.
    pub(super) tokenizer: PathBuf,
    /// DINOv2.
    pub(super) dino: PathBuf,
}

impl LabelFolders {
    /// The components by their names below the folder of all of them, each once.
    pub(super) fn components(&self) -> Vec<(&'static str, &Path)> {
        let clip: &[(&'static str, &Path)] = match self.text == self.image {
            true => &[("clip", &self.text)],
            false => &[
                ("clip/text_encoder", &self.text),
                ("clip/image_encoder", &self.image),
            ],
        };
        [clip, &[("dino", &self.dino)]].concat()
    }
}

impl OneStoryPaths {
    /// The folder of selector and patchifiers.
    pub fn memory(&self) -> PathBuf {
        self.pipeline.join(FOLDER)
    }

    /// The folder of the transformer, in either layout.
    pub fn transformer(&self) -> PathBuf {
        component_folder(&self.pipeline, "transformer")
    }

    /// The networks that labels are computed by: `clip` is a whole CLIP with its tokenizer, or has the folders
    /// `text_encoder`, `image_encoder` and `tokenizer`.
    pub(super) fn labels(&self) -> LabelFolders {
        let clip = self.label_networks.join("clip");
        let part = |name: &str| match clip.join("config.json").exists() {
            true => clip.clone(),
            false => clip.join(name),
        };
        LabelFolders {
            text: part("text_encoder"),
            image: part("image_encoder"),
            tokenizer: part("tokenizer"),
            dino: self.label_networks.join("dino"),
        }
    }

    /// The folder of the vision tower, which transformers with an image branch need.
    pub fn image_encoder(&self) -> PathBuf {
        self.pipeline.join("image_encoder")
    }
}

/// The pipeline `onestory` below `models.dir`, and the adapter, if the user has one.
pub fn onestory_paths(dir: &Path, lora: Option<PathBuf>) -> OneStoryPaths {
    OneStoryPaths {
        pipeline: dir.join(folders::ONESTORY),
        lora,
        label_networks: dir.join(folders::ONESTORY_LABELS),
    }
}

/// The adapter of the transformer.
pub(super) fn lora(
    paths: &OneStoryPaths,
    settings: LoraSettings,
) -> Result<Option<AdapterIdentity>> {
    let adapter = paths.lora.as_deref().map(|folder| {
        let file = adapter_file(folder, AdaptedExpert::High, true)?;
        adapter_identity(&file, settings)
    });
    adapter.transpose()
}

/// Every component and the adapter, as they are now.
pub(super) fn loaded(
    paths: &OneStoryPaths,
    settings: &OneStorySettings,
    lora: Option<&AdapterIdentity>,
) -> Result<LoadedFiles> {
    let mut components = vec!["transformer", "vae", "text_encoder", "image_encoder"];
    if settings.backend == Backend::OneStory {
        components.push(FOLDER);
    }
    let labels = match settings.selector {
        Selector::Clip => label_sources(paths),
        _ => Vec::new(),
    };
    let lora = lora.map(|lora| ("lora".to_owned(), Source::File(lora.file.clone())));
    LoadedFiles::read(sources(paths, &components).chain(labels).chain(lora))
}

/// What decides the scores of a history.
pub(super) fn loaded_for_scores(paths: &OneStoryPaths, selector: Selector) -> Result<LoadedFiles> {
    match selector {
        Selector::Clip => LoadedFiles::read(label_sources(paths)),
        _ => LoadedFiles::read(sources(paths, &["text_encoder", FOLDER])),
    }
}

/// The networks that labels are computed by, by their names in records.
fn label_sources(paths: &OneStoryPaths) -> Vec<(String, Source)> {
    let labels = paths.labels();
    let components = labels.components().into_iter();
    let sources = components.map(|(name, folder)| {
        let name = format!("{}/{name}", folders::ONESTORY_LABELS);
        (name, Source::Folder(folder.to_owned()))
    });
    sources.collect()
}

/// Those of the components that are there, by their names in records.
fn sources<'a>(
    paths: &'a OneStoryPaths,
    components: &'a [&str],
) -> impl Iterator<Item = (String, Source)> + 'a {
    let folders = components
        .iter()
        .map(|name| (*name, component_folder(&paths.pipeline, name)));
    let there = folders.filter(|(_, folder)| folder.is_dir());
    there.map(|(name, folder)| {
        let name = format!("{}/{name}", folders::ONESTORY);
        (name, Source::Folder(folder))
    })
}
