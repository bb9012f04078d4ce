//! The shape of the parts that OneStory adds.

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::onestory::Kernel;

/// `config.json` of the component. The paper states none of these; the defaults are ours
/// (specification `onestory`, section 3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OneStoryConfig {
    /// Width of the transformer's tokens.
    pub width: i64,
    /// Learned queries of the selector: m of the paper.
    pub queries: i64,
    /// Channels of a head of the selector's attentions.
    pub head_dim: i64,
    /// Width of the text encoder.
    pub text_dim: i64,
    /// Channels of latents.
    pub latent_channels: i64,
    /// Channels between the two convolutions of the selector.
    pub vision_width: i64,
    /// Ages of shots that the selector tells apart; older ones are as old as the last.
    pub shot_ages: i64,
    /// Latent frames of a shot that the selector tells apart.
    pub frame_times: i64,
    /// Epsilon of all norms.
    pub eps: f64,
    /// How scores are made of queries and frames.
    pub score_norm: ScoreNorm,
    /// The patchifiers there are.
    pub kernels: Vec<Kernel>,
}

/// How the score of a frame is made of the queries and the vector of the frame (equation 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreNorm {
    /// Their cosine, from -1 to 1, as the labels are.
    #[default]
    Cosine,
    /// Their product over the root of the width.
    ScaledDot,
    /// Their product, as the paper writes it.
    None,
}

impl Default for OneStoryConfig {
    /// For Wan 2.1 of 14 billion parameters.
    fn default() -> Self {
        Self {
            width: 5120,
            queries: 16,
            head_dim: 128,
            text_dim: 4096,
            latent_channels: 16,
            vision_width: 256,
            shot_ages: 16,
            frame_times: 21,
            eps: 1e-6,
            score_norm: ScoreNorm::Cosine,
            kernels: Kernel::ALL.to_vec(),
        }
    }
}

impl OneStoryConfig {
    /// The class that `config.json` names.
    pub const CLASS: &'static str = "OneStoryMemory";

    /// The config of a component folder, checked.
    ///
    /// # Errors
    /// It is of another class, or its numbers do not fit each other.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.expect_class(&[Self::CLASS])?;
        let config: Self = checkpoint.config()?;
        let path = checkpoint.folder().join("config.json");
        config
            .check()
            .map_err(|reason| ModelError::bad_file(path, reason))?;
        Ok(config)
    }

    /// The config in a file, checked; no weights are opened.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn read_file(path: &Path) -> Result<Self> {
        Self::of(&Checkpoint::of_config(path)?)
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("width", self.width),
            ("queries", self.queries),
            ("head_dim", self.head_dim),
            ("text_dim", self.text_dim),
            ("latent_channels", self.latent_channels),
            ("vision_width", self.vision_width),
            ("shot_ages", self.shot_ages),
            ("frame_times", self.frame_times),
        ] {
            if value < 1 {
                return Err(format!("{name} = {value}, but it must be at least 1"));
            }
        }
        if self.width % self.head_dim != 0 {
            return Err(format!(
                "width = {} does not divide into heads of {}",
                self.width, self.head_dim
            ));
        }
        if !(self.eps >= 0.0 && self.eps.is_finite()) {
            return Err(format!("eps = {}, but it must be 0 or above", self.eps));
        }
        self.check_kernels()
    }

    /// Each patchifier is named once, and there is one.
    fn check_kernels(&self) -> Result<(), String> {
        let mut kernels = self.kernels.iter();
        if self.kernels.is_empty() {
            return Err("kernels is empty, but it must name a patchifier".to_owned());
        }
        match kernels.find(|kernel| self.kernels.iter().filter(|other| other == kernel).count() > 1)
        {
            Some(kernel) => Err(format!("kernels names {kernel} twice")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kernels_that_no_network_has_are_refused_by_name() {
        let said = |change: fn(&mut OneStoryConfig)| {
            let mut config = OneStoryConfig::default();
            change(&mut config);
            config.check().err().unwrap_or_default()
        };
        assert_eq!(said(|_| {}), "");
        assert_eq!(said(|config| config.kernels = vec![Kernel::P8]), "");
        assert!(said(|config| config.queries = 0).starts_with("queries = 0"));
        assert!(said(|config| config.head_dim = 96).contains("heads of 96"));
        for eps in [-1e-6, f64::NAN, f64::INFINITY] {
            let config = OneStoryConfig {
                eps,
                ..OneStoryConfig::default()
            };
            assert!(config.check().unwrap_err().starts_with("eps = "), "{eps}");
        }
        assert!(said(|config| config.kernels.clear()).contains("kernels is empty"));
        assert!(said(|config| config.kernels.push(Kernel::P4)).contains("names p4 twice"));
    }
}
