//! The parts of a pipeline on disk, and what of them is missing.
//!
//! Only names and headers are looked at, so that everything that is wrong can be told at once,
//! before anything is loaded.

use std::path::{Path, PathBuf};

use storyloom_nn::checkpoint::{Checkpoint, component_folder};
use storyloom_nn::lora::{LoraSettings, check_adapter};

use super::adapters::{AdaptedExpert, adapter_file};

/// A part of a set of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name below the folder of the set.
    pub name: String,
    /// What it is for.
    pub purpose: &'static str,
    /// Where it lies, or should.
    pub place: PathBuf,
    /// What is wrong with it, if anything is.
    pub problem: Option<String>,
}

/// A component of a pipeline.
pub(in crate::method) fn component(
    pipeline: &str,
    folder: &Path,
    name: &str,
    purpose: &'static str,
) -> Part {
    let place = component_folder(folder, name);
    Part {
        name: format!("{pipeline}/{name}"),
        purpose,
        problem: problem_of(&place),
        place,
    }
}

/// What keeps a component from being opened.
pub(in crate::method) fn problem_of(folder: &Path) -> Option<String> {
    match folder.is_dir() {
        true => Checkpoint::open(folder)
            .err()
            .map(|error| error.to_string()),
        false => Some(format!("there is no folder {}", folder.display())),
    }
}

/// Its tokenizer.
pub(in crate::method) fn tokenizer(pipeline: &str, folder: &Path) -> Part {
    let place = component_folder(folder, "tokenizer");
    let file = place.join("tokenizer.json");
    Part {
        name: format!("{pipeline}/tokenizer"),
        purpose: "words to numbers",
        problem: (!file.is_file()).then(|| format!("there is no file {}", file.display())),
        place,
    }
}

/// The adapter of an expert in `folder`; `is_only` where the pipeline has no other expert.
pub(in crate::method) fn adapter(
    folder: &Path,
    expert: AdaptedExpert,
    is_only: bool,
    settings: LoraSettings,
) -> (PathBuf, Option<String>) {
    let file = adapter_file(folder, expert, is_only);
    match file.and_then(|file| check_adapter(&file, settings).map(|()| file)) {
        Ok(file) => (file, None),
        Err(error) => (folder.to_owned(), Some(error.to_string())),
    }
}

/// A folder of pipelines, and where they are published.
pub(in crate::method) struct Published<'a> {
    /// What the folder holds, in words.
    pub(in crate::method) holds: &'a str,
    /// The pipelines by the names of their folders, and the repositories that they are published in.
    pub(in crate::method) pipelines: &'a [(&'a str, &'a str)],
}

/// What a person should know who has a set at `dir` in which some of `parts` are missing.
pub(in crate::method) fn advice(dir: &Path, parts: &[Part], published: &Published) -> Vec<String> {
    let mut lines = Vec::new();
    if !dir.is_dir() {
        let here = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        lines.push(format!(
            "there is no folder {}; models.dir is relative to the current folder",
            here.display()
        ));
    }
    if looks_like_pipeline(dir) {
        lines.push(format!(
            "{} is a pipeline itself; models.dir is the folder above it, which holds {}",
            dir.display(),
            published.holds
        ));
    }
    for (pipeline, repository) in published.pipelines {
        let folder = dir.join(pipeline);
        let prefix = format!("{pipeline}/");
        let is_broken = |part: &&Part| part.name.starts_with(&prefix) && part.problem.is_some();
        if !parts.iter().any(|part| is_broken(&part)) {
            continue;
        }
        lines.extend(of_original_layout(&folder, repository));
        if !folder.exists() {
            lines.extend(other_names(dir, pipeline));
        }
    }
    lines
}

/// What to tell of a folder in the layout of the original release.
fn of_original_layout(folder: &Path, repository: &str) -> Option<String> {
    let pickles = pickles_in(folder);
    let has_experts = ["high_noise_model", "low_noise_model"]
        .iter()
        .any(|name| folder.join(name).is_dir());
    if !has_experts && pickles.is_empty() {
        return None;
    }
    let pickles = match pickles.is_empty() {
        true => String::new(),
        false => format!(" (its pickles {} are not read)", pickles.join(", ")),
    };
    Some(format!(
        "{} is in the original layout of Wan{pickles}; its experts can be used as they are, the rest \
         comes from {repository}, the same model in the layout of diffusers",
        folder.display()
    ))
}

/// Files that only Python can read, and only by running what is in them.
fn pickles_in(folder: &Path) -> Vec<String> {
    let is_pickle = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| ["pth", "pt", "ckpt", "bin"].contains(&ending))
    };
    let mut names: Vec<String> = entries(folder)
        .into_iter()
        .filter(is_pickle)
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

fn looks_like_pipeline(folder: &Path) -> bool {
    ["model_index.json", "transformer", "high_noise_model"]
        .iter()
        .any(|name| folder.join(name).exists())
}

/// Folders beside the wanted one that look as if they were it.
fn other_names(dir: &Path, pipeline: &str) -> Option<String> {
    let looks_so = |path: &PathBuf| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().to_lowercase());
        path.is_dir() && name.is_some_and(|name| name.contains(pipeline))
    };
    let found = entries(dir).into_iter().find(looks_so)?;
    Some(format!(
        "{} may be what is wanted: call it {pipeline}, or make a link of that name",
        found.display()
    ))
}

/// What is in a folder; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}
