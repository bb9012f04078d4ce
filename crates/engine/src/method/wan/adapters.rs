//! Which file of a folder is the adapter of which expert.

use std::path::{Path, PathBuf};

use storyloom_nn::error::{ModelError, Result};

/// The expert that an adapter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdaptedExpert {
    /// The high-noise expert, or the only one.
    High,
    /// The low-noise expert.
    Low,
}

impl AdaptedExpert {
    /// Both, in the order in which they work.
    pub const ALL: [Self; 2] = [Self::High, Self::Low];

    /// The name of StoryMem's file, without ending; also the name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "backbone_high_noise",
            Self::Low => "backbone_low_noise",
        }
    }

    /// The folder of the expert in a pipeline.
    pub fn component(self) -> &'static str {
        match self {
            Self::High => "transformer",
            Self::Low => "transformer_2",
        }
    }

    /// Words in the names of published files.
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::High => ["high", "highnoise"],
            Self::Low => ["low", "lownoise"],
        }
    }

    /// Whether a name has the expert's word, and not that of the other.
    fn is_named_in(self, name: &str) -> bool {
        let name = name.to_lowercase();
        let words: Vec<_> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let has = |expert: Self| words.iter().any(|word| expert.words().contains(word));
        let other = match self {
            Self::High => Self::Low,
            Self::Low => Self::High,
        };
        has(self) && !has(other)
    }
}

/// The adapter of `expert` in `folder`: the file of StoryMem's name, else the only safetensors file
/// with the expert's word (`high` or `low`) in its name or in that of its folder; the only one of
/// all, where the pipeline has one expert.
///
/// # Errors
/// There is none, or more than one; the message says what is there.
pub fn adapter_file(folder: &Path, expert: AdaptedExpert, is_only: bool) -> Result<PathBuf> {
    let exact = folder.join(format!("{}.safetensors", expert.name()));
    if exact.exists() {
        return Ok(exact);
    }
    let files = safetensors_below(folder)?;
    let named = |file: &&PathBuf| {
        let inside = file.strip_prefix(folder).unwrap_or(file);
        expert.is_named_in(&inside.to_string_lossy())
    };
    let fitting: Vec<_> = files.iter().filter(named).collect();
    match (fitting.as_slice(), files.as_slice()) {
        ([file], _) => Ok((*file).clone()),
        ([], [file]) if is_only => Ok(file.clone()),
        _ => Err(ModelError::bad_file(
            folder,
            not_one(folder, expert, &files),
        )),
    }
}

fn not_one(folder: &Path, expert: AdaptedExpert, files: &[PathBuf]) -> String {
    let names = files
        .iter()
        .map(|file| file.strip_prefix(folder).unwrap_or(file));
    let names: Vec<_> = names.map(|name| name.display().to_string()).collect();
    let there = match names.is_empty() {
        true => "no safetensors file".to_owned(),
        false => names.join(", "),
    };
    format!(
        "the adapter of the {} expert is not clear: {}.safetensors is looked for, or one file with \
         the word \"{}\" in its name; there is {there}",
        expert.words()[0],
        expert.name(),
        expert.words()[0]
    )
}

/// The safetensors files of a folder and of the folders in it, in order.
fn safetensors_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            files.extend(
                entries(&path)?
                    .into_iter()
                    .filter(|path| is_tensor_file(path)),
            );
        } else if is_tensor_file(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |error| ModelError::io(folder, error);
    let entries = std::fs::read_dir(folder).map_err(io)?;
    entries.map(|entry| Ok(entry.map_err(io)?.path())).collect()
}

/// Files that begin with a dot are what other systems and broken downloads leave behind.
fn is_tensor_file(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    let is_hidden = name.is_none_or(|name| name.starts_with('.'));
    !is_hidden
        && path.is_file()
        && path
            .extension()
            .is_some_and(|ending| ending == "safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    fn found(names: &[&str], expert: AdaptedExpert, is_only: bool) -> Result<String, String> {
        let folder = folder(names);
        let file = adapter_file(folder.path(), expert, is_only).map_err(|e| e.to_string())?;
        Ok(file
            .strip_prefix(folder.path())
            .unwrap()
            .display()
            .to_string())
    }

    #[test]
    fn files_are_found_by_the_names_that_are_published() {
        let storymem = [
            "backbone_high_noise.safetensors",
            "backbone_low_noise.safetensors",
        ];
        let lightning = [
            "T2V-A14B-lora_HIGH_fp16.safetensors",
            "T2V-A14B-lora_LOW_fp16.safetensors",
        ];
        let peft = [
            "high_noise/adapter_model.safetensors",
            "low_noise/adapter_model.safetensors",
        ];
        for names in [storymem, lightning, peft] {
            for (expert, name) in AdaptedExpert::ALL.into_iter().zip(names) {
                assert_eq!(found(&names, expert, false), Ok(name.to_owned()));
            }
        }
        let hidden = ["._my_high.safetensors", "my_high.safetensors"];
        assert_eq!(
            found(&hidden, AdaptedExpert::High, false),
            Ok("my_high.safetensors".into())
        );
        let only = ["pytorch_lora_weights.safetensors"];
        assert_eq!(found(&only, AdaptedExpert::High, true), Ok(only[0].into()));
    }

    #[test]
    fn doubt_is_an_error_that_says_what_is_there() {
        let only = ["slow_motion.safetensors"];
        let error = found(&only, AdaptedExpert::Low, false).unwrap_err();
        assert!(
            error.contains("there is slow_motion.safetensors"),
            "{error}"
        );
        let two = ["a_high.safetensors", "b_high.safetensors"];
        let error = found(&two, AdaptedExpert::High, false).unwrap_err();
        assert!(
            error.contains("a_high.safetensors, b_high.safetensors"),
            "{error}"
        );
        let error = found(&[], AdaptedExpert::High, true).unwrap_err();
        assert!(error.contains("no safetensors file"), "{error}");
    }
}
