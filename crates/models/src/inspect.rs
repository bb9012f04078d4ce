//! What a folder of checkpoints, or a single file, is made of, from headers only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use storyloom_nn::checkpoint::{Checkpoint, SingleFilePart, is_hidden};
use storyloom_nn::error::{ModelError, Result};

use crate::flux::FluxConfig;

/// Folders in folders are looked at this deep.
const DEPTH: usize = 4;

/// One component of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Component {
    /// Its folder, relative to the folder looked at; of a part of a single file the file, and behind it the
    /// part's class if the file has several.
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

/// Every component in `folder`, in the order of their paths, or every part of a single file.
///
/// # Errors
/// The folder or file cannot be read, or there is no component in it. A component that cannot be opened
/// is listed with its problem.
pub fn inspect(folder: &Path) -> Result<Vec<Component>> {
    if folder.is_file() {
        let name = PathBuf::from(folder.file_name().unwrap_or_default());
        let parts = Checkpoint::parts_of_single_file(folder)?;
        return Ok(match parts.as_slice() {
            [] => vec![loose_files(name, folder, &[folder.to_owned()])],
            _ => parts_of(&name, folder, &parts),
        });
    }
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
    if weights.is_empty() {
        return Ok(());
    }
    weights.sort();
    let path = folder.strip_prefix(root).unwrap_or(folder);
    if folder.join("config.json").exists() {
        found.push(opened(path.to_owned(), [Checkpoint::open(folder)]));
        return Ok(());
    }
    let mut others = Vec::new();
    for file in weights {
        match Checkpoint::parts_of_single_file(&file) {
            Ok(parts) if !parts.is_empty() => {
                let name = file.strip_prefix(root).unwrap_or(&file);
                found.extend(parts_of(name, &file, &parts));
            }
            _ => others.push(file),
        }
    }
    if !others.is_empty() {
        found.push(loose_files(path.to_owned(), folder, &others));
    }
    Ok(())
}

/// The parts of a single file.
fn parts_of(name: &Path, file: &Path, parts: &[SingleFilePart]) -> Vec<Component> {
    let component = |part: &SingleFilePart| {
        let path = match parts.len() {
            1 => name.to_owned(),
            _ => name.join(part.class()),
        };
        opened(path, [Checkpoint::open_single_file(file, *part)])
    };
    parts.iter().map(component).collect()
}

/// Adapters: every file is a set of its own, with equal names in it.
fn loose_files(path: PathBuf, folder: &Path, files: &[PathBuf]) -> Component {
    let open = |file: &PathBuf| {
        Checkpoint::from_files(folder, serde_json::Value::Null, std::slice::from_ref(file))
    };
    opened(path, files.iter().map(open))
}

/// What was opened, or what is wrong with it.
fn opened(path: PathBuf, checkpoints: impl IntoIterator<Item = Result<Checkpoint>>) -> Component {
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
    let checkpoints: Result<Vec<_>> = checkpoints.into_iter().collect();
    match checkpoints {
        Ok(checkpoints) => checkpoints
            .iter()
            .for_each(|part| add(&mut component, part)),
        Err(error) => component.problem = Some(error.to_string()),
    }
    component
}

fn add(component: &mut Component, checkpoint: &Checkpoint) {
    component.class = checkpoint.class_name().map(str::to_owned);
    // Relatives of FLUX.1 have its class, and work otherwise.
    if component.class.as_deref() == Some(FluxConfig::CLASS) {
        component.problem = FluxConfig::of(checkpoint)
            .err()
            .map(|error| error.to_string());
    }
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
    use storyloom_nn::tensor_file::write_tensors;
    use storyloom_nn::testing::flux::{FluxSizes, made_of, numbered, original_transformer};
    use storyloom_nn::testing::golden;
    use tch::{Device, Kind, Tensor};

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
    fn parts_of_single_files_are_told_apart() {
        let sizes = FluxSizes {
            width: 128,
            head: 128,
            doubles: 1,
            singles: 1,
            ..FluxSizes::TINY
        };
        let diffusers = numbered(&sizes.shapes());
        let parameters: i64 = diffusers.values().map(|it| it.numel() as i64).sum();
        let original = made_of(&original_transformer(sizes), &diffusers);
        let work = tempfile::tempdir().unwrap();
        let write = |name: &str, prefix: &str, others: &[&str]| {
            let file = work.path().join(name);
            let mut named: Vec<(String, &Tensor)> = original
                .iter()
                .map(|(name, it)| (format!("{prefix}{name}"), it))
                .collect();
            let one = Tensor::ones([1], (Kind::Float, Device::Cpu));
            named.extend(others.iter().map(|name| ((*name).to_owned(), &one)));
            let views: Vec<_> = named
                .iter()
                .map(|(name, it)| (name.as_str(), *it))
                .collect();
            write_tensors(&file, &views).unwrap();
            file
        };
        let alone = write("flux1-dev.safetensors", "", &[]);
        let clip = "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight";
        write("all.safetensors", "model.diffusion_model.", &[clip]);
        write(
            "chroma.safetensors",
            "",
            &["distilled_guidance_layer.norms.0.scale"],
        );
        let single = inspect(&alone).unwrap();
        let classes = |components: &[Component]| {
            let line = |it: &Component| (it.path.display().to_string(), it.class.clone());
            components.iter().map(line).collect::<Vec<_>>()
        };
        let flux = || Some("FluxTransformer2DModel".to_owned());
        assert_eq!(
            classes(&single),
            [("flux1-dev.safetensors".to_owned(), flux())]
        );
        assert_eq!(single[0].parameters, parameters as u64);
        assert_eq!(single[0].tensors, diffusers.len());
        let all = inspect(work.path()).unwrap();
        assert_eq!(
            classes(&all),
            [
                (
                    "all.safetensors/CLIPTextModel".to_owned(),
                    Some("CLIPTextModel".to_owned())
                ),
                ("all.safetensors/FluxTransformer2DModel".to_owned(), flux()),
                ("chroma.safetensors".to_owned(), None),
                ("flux1-dev.safetensors".to_owned(), flux()),
            ]
        );
        assert!(all[2].problem.as_ref().unwrap().contains("Chroma"));
    }

    #[test]
    fn relatives_of_flux_are_named() {
        let work = tempfile::tempdir().unwrap();
        for (name, config) in [
            ("dev", r#"{"_class_name": "FluxTransformer2DModel"}"#),
            (
                "fill",
                r#"{"_class_name": "FluxTransformer2DModel", "in_channels": 384, "out_channels": 64}"#,
            ),
        ] {
            let folder = work.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("config.json"), config).unwrap();
            let ones = Tensor::ones([2], (Kind::Float, Device::Cpu));
            let file = folder.join("model.safetensors");
            write_tensors(&file, &[("x_embedder.bias", &ones)]).unwrap();
        }
        let components = inspect(work.path()).unwrap();
        assert_eq!(components[0].problem, None);
        assert_eq!(components[0].parameters, 2);
        let problem = components[1].problem.as_ref().unwrap();
        assert!(problem.contains("Fill"), "{problem}");
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
