//! How the networks of a pipeline of Wan divide videos, as their checkpoint says.

use std::path::Path;

use storyloom_models::autoencoder::VaeConfig;
use storyloom_models::wan::WanConfig;
use storyloom_nn::checkpoint::component_folder;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::LatentGrid;

/// Pixels and frames of a latent by `vae/config.json`, and latents of a token by the `config.json` of
/// the transformer. No weights are opened.
///
/// # Errors
/// One of the two cannot be read, or is not what it should be.
pub fn latent_grid(pipeline: &Path) -> Result<LatentGrid> {
    let vae = VaeConfig::read_file(&pipeline.join("vae").join("config.json"))?;
    let path = component_folder(pipeline, "transformer").join("config.json");
    let transformer = WanConfig::read_file(&path)?;
    match transformer.patch_size {
        [1, rows, columns] if rows == columns => Ok(vae.latent_grid(rows)),
        other => {
            let reason = format!("patch_size = {other:?}, but only [1, n, n] is known");
            Err(ModelError::bad_file(path, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn write(pipeline: &Path, vae: &str, patch: &str) {
        for (part, config) in [
            (
                "vae",
                format!(r#"{{"_class_name": "AutoencoderKLWan"{vae}}}"#),
            ),
            (
                "transformer",
                format!(r#"{{"_class_name": "WanTransformer3DModel", "patch_size": {patch}}}"#),
            ),
        ] {
            let folder = pipeline.join(part);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("config.json"), config).unwrap();
        }
    }

    /// Both configs alone: no weights lie beside them.
    #[test]
    fn the_grid_is_that_of_the_configs() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = folder.path().join("i2v");
        assert!(latent_grid(&pipeline).is_err(), "nothing is there");
        write(&pipeline, "", "[1, 2, 2]");
        assert_eq!(latent_grid(&pipeline).unwrap(), LatentGrid::WAN_2_1);
        let halves_once = r#", "dim_mult": [1, 2], "temperal_downsample": [true]"#;
        write(&pipeline, halves_once, "[1, 4, 4]");
        let found = latent_grid(&pipeline).unwrap();
        let expected = LatentGrid {
            pixels: 2,
            frames: 2,
            channels: 16,
            patch: 4,
        };
        assert_eq!(found, expected);
        write(&pipeline, "", "[1, 2, 4]");
        let error = latent_grid(&pipeline).unwrap_err().to_string();
        assert!(error.contains("[1, 2, 4]"), "{error}");
    }
}
