//! Which files of a folder have the weights of a component.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::read::read_json;
use crate::error::{ModelError, Result};

/// Names of weight files, as diffusers and transformers write them.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// Files that are listed where the right ones are missing.
const SHOWN: usize = 8;

/// The safetensors files of a component folder, from its index where it is sharded; those of a
/// variant, such as `model.fp16.safetensors`, where there are no others and only one variant.
pub(super) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for stem in STEMS {
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        if index.exists() {
            return shards(folder, &index);
        }
        let single = folder.join(format!("{stem}.safetensors"));
        if single.exists() {
            return Ok(vec![single]);
        }
    }
    let names = file_names(folder)?;
    let variants: BTreeSet<(usize, &str)> = names.iter().filter_map(|it| variant_of(it)).collect();
    match Vec::from_iter(variants).as_slice() {
        [(stem, variant)] => of_variant(folder, &names, STEMS[*stem], variant),
        [] => Err(ModelError::bad_file(folder, nothing_here(&names))),
        several => {
            let list: Vec<&str> = several.iter().map(|(_, variant)| *variant).collect();
            let reason = format!(
                "no model.safetensors here, but several variants ({}); leave one of them, or rename \
                 the files of one so that they have no variant in their names",
                list.join(", ")
            );
            Err(ModelError::bad_file(folder, reason))
        }
    }
}

/// Names of the files of a folder, without hidden ones: these are notes of the operating system
/// (`._model.safetensors`) and of download tools.
fn file_names(folder: &Path) -> Result<Vec<String>> {
    let failed = |error| ModelError::io(folder, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !is_hidden(&entry.file_name())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a name begins with a point.
pub fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Which of [`STEMS`] a file is of and its variant: `fp16` of `model.fp16.safetensors`, of
/// `model.safetensors.index.fp16.json` and of `model.fp16.safetensors.index.json`.
fn variant_of(name: &str) -> Option<(usize, &str)> {
    STEMS.iter().enumerate().find_map(|(stem, text)| {
        let rest = name.strip_prefix(text)?.strip_prefix('.')?;
        let index = rest.strip_prefix("safetensors.index.");
        let variant = index
            .and_then(|rest| rest.strip_suffix(".json"))
            .or_else(|| rest.strip_suffix(".safetensors.index.json"))
            .or_else(|| rest.strip_suffix(".safetensors"))?;
        // Shards of older versions have their number behind the variant; their index names them.
        let plain = !variant.is_empty() && !variant.contains('.') && !variant.contains("-of-");
        plain.then_some((stem, variant))
    })
}

fn of_variant(folder: &Path, names: &[String], stem: &str, variant: &str) -> Result<Vec<PathBuf>> {
    tracing::debug!("{}: reads the variant {variant}", folder.display());
    let indexes = [
        format!("{stem}.safetensors.index.{variant}.json"),
        format!("{stem}.{variant}.safetensors.index.json"),
    ];
    match indexes.iter().find(|index| names.contains(index)) {
        Some(index) => shards(folder, &folder.join(index)),
        None => Ok(vec![folder.join(format!("{stem}.{variant}.safetensors"))]),
    }
}

/// What to say of a folder without weights that can be read.
fn nothing_here(names: &[String]) -> String {
    let weights = |name: &&String| {
        let (_, ending) = name.rsplit_once('.').unwrap_or_default();
        let kinds = [
            "safetensors",
            "bin",
            "pt",
            "pth",
            "ckpt",
            "gguf",
            "msgpack",
            "h5",
        ];
        kinds.contains(&ending) || name.contains(".index.")
    };
    let found: Vec<&str> = names.iter().filter(weights).map(String::as_str).collect();
    let wanted =
        "no diffusion_pytorch_model.safetensors or model.safetensors (or .index.json) here";
    if found.is_empty() {
        return format!("{wanted}, and nothing else that looks like weights");
    }
    let mut list = found[..found.len().min(SHOWN)].join(", ");
    if found.len() > SHOWN {
        list.push_str(&format!(" and {} more", found.len() - SHOWN));
    }
    let shards = found
        .iter()
        .any(|name| name.contains("-of-") && name.ends_with(".safetensors"));
    let advice = if shards {
        "these are shards: download their .safetensors.index.json as well"
    } else {
        "download or convert to the safetensors files of this layout"
    };
    format!("{wanted}, only {list}; {advice}")
}

/// The files that an index names.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| ModelError::bad_file(index, "no weight_map in it"))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let plain = |name: &&str| !name.contains(['/', '\\']) && *name != "..";
        let name = file.as_str().filter(plain).ok_or_else(|| {
            ModelError::bad_file(index, format!("{tensor} is not mapped to a file name"))
        })?;
        names.insert(name);
    }
    let missing = names.iter().filter(|name| !folder.join(name).exists());
    let missing: Vec<&str> = missing.copied().collect();
    if !missing.is_empty() {
        let mut list = missing[..missing.len().min(SHOWN)].join(", ");
        if missing.len() > SHOWN {
            list.push_str(&format!(" and {} more", missing.len() - SHOWN));
        }
        let reason = format!(
            "it names {} files, of which {} are not in the folder: {list}; download them",
            names.len(),
            missing.len()
        );
        return Err(ModelError::bad_file(index, reason));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::read::refuse_stand_in;
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        folder
    }

    fn found(folder: &Path) -> Result<Vec<String>, String> {
        let files = weight_files(folder).map_err(|error| error.to_string())?;
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(files.iter().map(name).collect())
    }

    #[test]
    fn the_only_variant_is_read() {
        let here = folder(&["._model.safetensors", "model.fp16.safetensors"]);
        assert_eq!(found(here.path()).unwrap(), ["model.fp16.safetensors"]);
        fs::write(here.path().join("model.safetensors"), "x").unwrap();
        assert_eq!(found(here.path()).unwrap(), ["model.safetensors"]);
        let here = folder(&["diffusion_pytorch_model.bf16.safetensors"]);
        assert_eq!(found(here.path()).unwrap().len(), 1);
    }

    #[test]
    fn the_only_variant_may_be_sharded() {
        for (index, first, second) in [
            (
                "model.safetensors.index.fp16.json",
                "model.fp16-00001-of-00002.safetensors",
                "model.fp16-00002-of-00002.safetensors",
            ),
            (
                "model.fp16.safetensors.index.json",
                "model-00001-of-00002.fp16.safetensors",
                "model-00002-of-00002.fp16.safetensors",
            ),
        ] {
            let here = folder(&[first, second]);
            let map = serde_json::json!({"weight_map": {"a": first, "b": second}});
            fs::write(here.path().join(index), map.to_string()).unwrap();
            assert_eq!(found(here.path()).unwrap(), [first, second]);
            fs::remove_file(here.path().join(second)).unwrap();
            let error = found(here.path()).unwrap_err();
            assert!(error.contains(second) && error.contains(index), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (names, said) in [
            (
                &["model.fp16.safetensors", "model.bf16.safetensors"][..],
                "bf16, fp16",
            ),
            (&["model-00001-of-00002.safetensors"], "index.json as well"),
            (&["pytorch_model.bin"], "only pytorch_model.bin"),
            (&["ours.safetensors"], "only ours.safetensors"),
            (
                &["._model.safetensors", "config.json"],
                "nothing else that looks like weights",
            ),
        ] {
            let error = found(folder(names).path()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_stands_in_the_place_of_a_file_is_told() {
        let path = Path::new("model.safetensors");
        for (bytes, said) in [
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "git-lfs",
            ),
            ("<!DOCTYPE html><html>", "web page"),
            ("/annex/objects/SHA256E-s12--0", "git-annex"),
            ("GGUF\u{3}\0\0\0", "GGUF"),
        ] {
            let error = refuse_stand_in(path, bytes.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(refuse_stand_in(path, b"{\"a\": 1}").is_ok());
        assert!(refuse_stand_in(path, b"").is_ok());
    }
}
