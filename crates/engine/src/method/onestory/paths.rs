//! Where the checkpoint of OneStory lies, and what was read of it.

use std::path::{Path, PathBuf};

use storyloom_models::onestory::FOLDER;
use storyloom_models::tiny::folders;
use storyloom_nn::checkpoint::component_folder;
use storyloom_nn::error::Result;
use storyloom_nn::loaded::{LoadedFiles, Source};
use storyloom_nn::lora::{AdapterIdentity, LoraSettings, adapter_identity};

use super::settings::Backend;
use crate::method::wan::adapters::{AdaptedExpert, adapter_file};

/// Where the checkpoint lies.
#[derive(Debug, Clone)]
pub struct OneStoryPaths {
    /// A `WanImageToVideoPipeline` folder with one transformer, and the parts of OneStory in `onestory/`.
    pub pipeline: PathBuf,
    /// Folder with an adapter of the transformer.
    pub lora: Option<PathBuf>,
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
    backend: Backend,
    lora: Option<&AdapterIdentity>,
) -> Result<LoadedFiles> {
    let mut components = vec!["transformer", "vae", "text_encoder", "image_encoder"];
    if backend == Backend::OneStory {
        components.push(FOLDER);
    }
    let lora = lora.map(|lora| ("lora".to_owned(), Source::File(lora.file.clone())));
    LoadedFiles::read(sources(paths, &components).chain(lora))
}

/// What decides the scores of a history.
pub(super) fn loaded_for_scores(paths: &OneStoryPaths) -> Result<LoadedFiles> {
    LoadedFiles::read(sources(paths, &["text_encoder", FOLDER]))
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
