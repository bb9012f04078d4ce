//! Paths among the settings, and where relative ones count from.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf, absolute};

use super::options::{Config, PlannerKind};

/// The options whose values are paths.
const PATHS: [&str; 9] = [
    "inputs.folder",
    "models.dir",
    "lora.dir",
    "memory.path",
    "simulated.costs",
    "planner.model",
    "planner.key_file",
    "planner.prompts",
    "metrics.token_file",
];

/// Where relative paths count from, for messages.
pub const RULE: &str = "a relative path in a config file counts from the folder of that file, and \
                        one of --set or of the environment from the current folder";

/// Largest config file, cost table or key file that is read, in bytes: one may be named that has no end.
pub const LARGEST: u64 = 16 << 20;

/// Says that a path of a setting leads to nothing, and how such paths are meant.
pub fn missing(key: &str, path: &str) -> String {
    format!("{key} = {path:?}: there is no such file or folder; {RULE}")
}

/// Makes every path absolute, so that it means the same in all programs and records. `from_file`
/// are the options that were last set by the config file.
///
/// What is there only if it counts from the current folder, as in earlier versions, is taken from
/// there; the warnings say so.
pub fn settle(
    config: &mut Config,
    file: Option<&Path>,
    from_file: &BTreeSet<String>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in PATHS {
        let Some(value) = relative(config, key) else {
            continue;
        };
        let here = absolute(&value).unwrap_or_else(|_| value.clone());
        let folder = file.and_then(Path::parent);
        let path = match folder.filter(|_| from_file.contains(key)) {
            Some(folder) => {
                let beside = beside(folder, &value);
                if !beside.exists() && here.exists() {
                    warnings.push(format!(
                        "{key} = {value:?} is not beside the config file, but in the current \
                         folder, where it is taken from; {RULE}"
                    ));
                    here
                } else {
                    beside
                }
            }
            None => here,
        };
        // A name that is no UTF-8 text stays as it was written.
        if let (Some(text), Some(option)) = (path.to_str(), config.option(key)) {
            // Texts take any text.
            let _ = option.update_text(text);
        }
    }
    warnings
}

/// The value of a path option, if it is a relative path.
fn relative(config: &mut Config, key: &str) -> Option<PathBuf> {
    let is_path = match key {
        "simulated.costs" => config.simulated.costs != crate::costs::BUILT_IN,
        // The name of a model elsewhere is none.
        "planner.model" => config.planner.backend == PlannerKind::Native,
        _ => true,
    };
    let value = config.option(key)?.to_toml();
    let value = value
        .as_str()
        .filter(|value| is_path && !value.is_empty())?;
    let value = Path::new(value);
    value.is_relative().then(|| value.to_owned())
}

/// `value` from `folder`, without the `..` in it where the shorter path leads to the same.
fn beside(folder: &Path, value: &Path) -> PathBuf {
    let joined = folder.join(value);
    let long = absolute(&joined).unwrap_or(joined);
    let mut short = PathBuf::new();
    for part in long.components() {
        match part {
            Component::ParentDir => drop(short.pop()),
            part => short.push(part),
        }
    }
    // A link to a folder has another parent than its name says.
    match (long.canonicalize(), short.canonicalize()) {
        (Ok(one), Ok(other)) if one == other => short,
        (Err(_), Err(_)) => short,
        _ => long,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_layers;

    /// The settings of a config file in `folder`, and the warnings.
    fn settled(folder: &Path, text: &str, sets: &[&str]) -> (Config, Vec<String>) {
        let file = folder.join("c.toml");
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let (mut config, from_file) = load_layers(Some(("c.toml", text)), [], &sets).unwrap();
        let warnings = settle(&mut config, Some(&file), &from_file);
        (config, warnings)
    }

    #[test]
    fn paths_count_from_the_layer_that_names_them() {
        let root = tempfile::tempdir().unwrap();
        let configs = root.path().join("configs");
        std::fs::create_dir_all(&configs).unwrap();
        std::fs::create_dir_all(root.path().join("models/tiny")).unwrap();
        let text = "[models]\ndir = \"../models/tiny\"\n[lora]\ndir = \"lora\"\n\
                    [simulated]\ncosts = \"built-in\"\n[planner]\nmodel = \"Qwen/Qwen3-8B\"";
        let (config, warnings) = settled(&configs, text, &[]);
        let expected = |path: &str| root.path().join(path).display().to_string();
        assert_eq!(config.models.dir, expected("models/tiny"));
        assert_eq!(config.lora.dir, expected("configs/lora"));
        assert_eq!(config.simulated.costs, "built-in");
        assert_eq!(config.planner.model, "Qwen/Qwen3-8B");
        assert_eq!(config.planner.prompts, "");
        assert_eq!(warnings, Vec::<String>::new());

        let (config, _) = settled(&configs, text, &["models.dir=x", "planner.backend=native"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(config.models.dir, here.join("x").display().to_string());
        assert_eq!(config.planner.model, expected("configs/Qwen/Qwen3-8B"));
    }

    #[test]
    fn what_is_only_in_the_current_folder_still_works() {
        let root = tempfile::tempdir().unwrap();
        // Tests run in the folder of their crate.
        let (config, warnings) = settled(root.path(), "[models]\ndir = \"src\"", &[]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(config.models.dir, here.join("src").display().to_string());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("models.dir") && warnings[0].contains(RULE));
        std::fs::create_dir(root.path().join("src")).unwrap();
        let (config, warnings) = settled(root.path(), "[models]\ndir = \"src\"", &[]);
        assert_eq!(
            config.models.dir,
            root.path().join("src").display().to_string()
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn every_path_is_an_option() {
        let mut config = Config::default();
        for key in PATHS {
            assert!(config.option(key).is_some(), "{key}");
        }
    }
}
