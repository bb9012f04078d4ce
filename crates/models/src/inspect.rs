//! What a folder of checkpoints is made of, from headers only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use storyloom_nn::checkpoint::{Checkpoint, is_hidden};
use storyloom_nn::error::{ModelError, Result};

/// Folders in folders are looked at this deep.
const DEPTH: usize = 4;

/// One component of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Component {
    /// Its folder, relative to the folder looked at.
    pub path: PathBuf,
    /// The class its config names.
    pub class: Option<String>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in them.
    pub parameters: u64,
    /// Size of the tensors in the files.
    pub bytes: u64,
    /// Number of tensors of each element type.
    pub dtypes: BTreeMap<String, usize>,
    /// Names of tensors that are no weights and that no loader uses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
    /// What is wrong with it, if anything is.
    pub problem: Option<String>,
}

/// Every component in `folder`, in the order of their paths.
///
/// # Errors
/// The folder cannot be read, or there is no component in it. A component that cannot be opened
/// is listed with its problem.
pub fn inspect(folder: &Path) -> Result<Vec<Component>> {
    let mut components = Vec::new();
    walk(folder, folder, DEPTH, &mut components)?;
    if components.is_empty() {
        let reason = "there is no checkpoint in it: no folder has safetensors files";
        return Err(ModelError::bad_file(folder, reason));
    }
    components.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(components)
}

fn walk(root: &Path, folder: &Path, depth: usize, found: &mut Vec<Component>) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| ModelError::io(folder, error))?;
    let mut weights = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| ModelError::io(folder, error))?;
        let path = entry.path();
        if is_hidden(&entry.file_name()) {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                walk(root, &path, depth - 1, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|ending| ending == "safetensors")
        {
            weights.push(path);
        }
    }
    if !weights.is_empty() {
        weights.sort();
        let path = folder.strip_prefix(root).unwrap_or(folder).to_owned();
        found.push(component(path, folder, &weights));
    }
    Ok(())
}

fn component(path: PathBuf, folder: &Path, weights: &[PathBuf]) -> Component {
    let checkpoint = if folder.join("config.json").exists() {
        Checkpoint::open(folder).map(|checkpoint| vec![checkpoint])
    } else {
        // Adapters: every file is a set of its own, with equal names in it.
        let open = |file: &PathBuf| {
            Checkpoint::from_files(folder, serde_json::Value::Null, std::slice::from_ref(file))
        };
        weights.iter().map(open).collect()
    };
    let mut component = Component {
        path,
        class: None,
        tensors: 0,
        parameters: 0,
        bytes: 0,
        dtypes: BTreeMap::new(),
        leftovers: Vec::new(),
        problem: None,
    };
    match checkpoint {
        Ok(checkpoints) => checkpoints
            .iter()
            .for_each(|part| add(&mut component, part)),
        Err(error) => component.problem = Some(error.to_string()),
    }
    component
}

fn add(component: &mut Component, checkpoint: &Checkpoint) {
    component.class = checkpoint.class_name().map(str::to_owned);
    let leftovers = checkpoint.leftovers().map(str::to_owned);
    component.leftovers.extend(leftovers);
    for entry in checkpoint.entries().values() {
        component.tensors += 1;
        component.parameters += entry.shape.iter().product::<i64>().unsigned_abs();
        component.bytes += entry.bytes() as u64;
        let dtype = format!("{:?}", entry.kind).to_lowercase();
        *component.dtypes.entry(dtype).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::golden;

    #[test]
    fn components_are_found_and_counted() {
        let components = inspect(&golden("pipeline-t2v")).unwrap();
        let classes: BTreeMap<_, _> = components
            .iter()
            .map(|component| {
                (
                    component.path.display().to_string(),
                    component.class.clone(),
                )
            })
            .collect();
        assert_eq!(
            classes["transformer_2"].as_deref(),
            Some("WanTransformer3DModel")
        );
        assert_eq!(classes["vae"].as_deref(), Some("AutoencoderKLWan"));
        assert!(
            components
                .iter()
                .all(|component| component.problem.is_none())
        );
        assert!(
            components
                .iter()
                .all(|component| component.bytes > component.parameters)
        );
    }

    #[test]
    fn damage_is_told_and_the_rest_is_shown() {
        let work = tempfile::tempdir().unwrap();
        let copy = |name: &str, bytes: &[u8]| {
            let folder = work.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
            std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
        };
        let good = std::fs::read(golden("umt5").join("text_encoder/model.safetensors")).unwrap();
        copy("good", &good);
        copy("truncated", &good[..good.len() / 2]);
        let components = inspect(work.path()).unwrap();
        assert!(components[0].problem.is_none() && components[0].tensors > 0);
        assert!(components[1].problem.is_some());
        assert!(inspect(&work.path().join("nothing")).is_err());
    }
}
