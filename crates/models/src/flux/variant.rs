//! What the published models of FLUX.1 differ in beside their weights (specification `flux`, section 2).

use std::path::Path;

use storyloom_nn::error::{ModelError, Result};

use super::FluxConfig;

/// A published model, or one that is used like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FluxVariant {
    /// FLUX.1-dev and what has its shape: guidance is an input.
    Dev,
    /// FLUX.1-Kontext-dev: dev's shape, and pictures as conditions.
    Kontext,
    /// FLUX.1-schnell: distilled to few steps, without guidance.
    Schnell,
}

impl FluxVariant {
    /// The variant of a pipeline folder: dev and Kontext have one shape, and only `model_index.json` tells them
    /// apart.
    ///
    /// # Errors
    /// `model_index.json` cannot be read or is of another class.
    pub fn of_pipeline(folder: &Path, config: &FluxConfig) -> Result<Self> {
        let path = folder.join("model_index.json");
        let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
        let index: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| ModelError::bad_file(&path, error.to_string()))?;
        match (index["_class_name"].as_str(), config.guidance_embeds) {
            (Some("FluxPipeline"), true) => Ok(Self::Dev),
            (Some("FluxPipeline"), false) => Ok(Self::Schnell),
            (Some("FluxKontextPipeline"), true) => Ok(Self::Kontext),
            (class, _) => {
                let class = class.unwrap_or("an unknown class");
                let reason = format!("this is a pipeline of {class}, which is not supported");
                Err(ModelError::bad_file(&path, reason))
            }
        }
    }

    /// Steps where nothing is asked for.
    pub fn steps(self) -> usize {
        match self {
            Self::Dev | Self::Kontext => 28,
            Self::Schnell => 4,
        }
    }

    /// The guidance scale where none is asked for; `None`: it is no input.
    pub fn guidance(self) -> Option<f32> {
        match self {
            Self::Dev => Some(3.5),
            Self::Kontext => Some(2.5),
            Self::Schnell => None,
        }
    }

    /// Rows that a prompt is padded to.
    pub fn text_rows(self) -> usize {
        match self {
            Self::Dev | Self::Kontext => 512,
            Self::Schnell => 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_tell_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let of = |class: &str, model: &str| {
            let index = format!(r#"{{"_class_name": "{class}"}}"#);
            std::fs::write(folder.path().join("model_index.json"), index).unwrap();
            FluxVariant::of_pipeline(folder.path(), &FluxConfig::named(model).unwrap())
        };
        let dev = of("FluxPipeline", "dev").unwrap();
        let kontext = of("FluxKontextPipeline", "dev").unwrap();
        let schnell = of("FluxPipeline", "schnell").unwrap();
        assert_eq!(
            [dev, kontext, schnell].map(|variant| (variant.steps(), variant.text_rows())),
            [(28, 512), (28, 512), (4, 256)]
        );
        assert_eq!(
            [dev, kontext, schnell].map(FluxVariant::guidance),
            [Some(3.5), Some(2.5), None]
        );
        for class in ["FluxFillPipeline", "FluxPriorReduxPipeline"] {
            let error = of(class, "dev").unwrap_err().to_string();
            assert!(error.contains(class), "{error}");
        }
        assert!(of("FluxKontextPipeline", "schnell").is_err());
    }
}
