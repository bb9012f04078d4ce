//! Where the components of a pipeline lie.

use std::path::{Path, PathBuf};

/// Folders of the original Wan layout, by their name in diffusers.
const ORIGINAL_FOLDERS: [(&str, &str); 3] = [
    ("transformer", "high_noise_model"),
    ("transformer_2", "low_noise_model"),
    ("tokenizer", "google/umt5-xxl"),
];

/// The folder of `component` in a pipeline: that of the layout of diffusers, or else the one of the
/// original Wan layouts, if it is there.
pub fn component_folder(pipeline: &Path, component: &str) -> PathBuf {
    let folder = pipeline.join(component);
    if folder.is_dir() {
        return folder;
    }
    let original = ORIGINAL_FOLDERS
        .iter()
        .find(|(name, _)| *name == component)
        .map(|(_, original)| pipeline.join(original));
    let original = original.filter(|original| original.is_dir());
    // The only transformer of an original pipeline of Wan 2.1 lies in the folder of the pipeline itself.
    let is_root = component == "transformer" && pipeline.join("config.json").is_file();
    original
        .or_else(|| is_root.then(|| pipeline.to_owned()))
        .unwrap_or(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_diffusers_goes_first() {
        let pipeline = tempfile::tempdir().unwrap();
        let place = |component| {
            let folder = component_folder(pipeline.path(), component);
            let inside = folder.strip_prefix(pipeline.path()).unwrap();
            inside.display().to_string()
        };
        assert_eq!(place("transformer"), "transformer");
        std::fs::write(pipeline.path().join("config.json"), "{}").unwrap();
        assert_eq!(place("transformer"), "");
        assert_eq!(place("vae"), "vae");
        std::fs::create_dir_all(pipeline.path().join("high_noise_model")).unwrap();
        std::fs::create_dir_all(pipeline.path().join("google/umt5-xxl")).unwrap();
        assert_eq!(place("transformer"), "high_noise_model");
        assert_eq!(place("tokenizer"), "google/umt5-xxl");
        assert_eq!(
            (place("transformer_2"), place("vae")),
            ("transformer_2".into(), "vae".into())
        );
        std::fs::create_dir(pipeline.path().join("transformer")).unwrap();
        assert_eq!(place("transformer"), "transformer");
    }
}
