//! OneStory: what of earlier shots matters, and how finely it is seen (arXiv 2512.07802, sections 4.2 and 4.3).
//!
//! The [`Selector`] scores every latent frame of the history by the caption of the shot; what
//! [follows](storyloom_story::onestory) from the scores is decided without tensors; the [`Patchifiers`] make
//! context tokens of the chosen frames, which the transformer of Wan takes behind the tokens of the shot.
//!
//! The authors' weights and code are not published. Where the paper is silent the choices are ours
//! (specification `onestory`, marked [O] there).

mod config;
mod cross_attention;
mod patchifiers;
mod positions;
mod selector;

use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::Result;

pub use self::config::{OneStoryConfig, ScoreNorm};
pub use self::patchifiers::{Patchifiers, spread_patch};
pub use self::positions::context_positions;
pub use self::selector::{Asked, Glance, Selector};

/// The folder of the parts that OneStory adds to a pipeline of Wan.
pub const FOLDER: &str = "onestory";

/// The parts that OneStory adds to a pipeline of Wan.
#[derive(Debug)]
pub struct OneStoryMemory {
    /// Scores the frames of the history.
    pub selector: Selector,
    /// Make tokens of those that are chosen.
    pub patchifiers: Patchifiers,
}

impl OneStoryMemory {
    /// Loads the component `folder`. Missing and unknown tensors are an error that lists them.
    ///
    /// # Errors
    /// It cannot be read, or is no such component.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = OneStoryConfig::of(&checkpoint)?;
        let weights = checkpoint.weights(target);
        let memory = Self::load(&weights, &config)?;
        weights.finish()?;
        Ok(memory)
    }

    /// Parts of this shape with random weights that are drawn on the device. They choose nothing sensible, but
    /// take as long as trained ones.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn random(config: &OneStoryConfig, target: Target) -> Result<Self> {
        let nothing = Checkpoint::from_files(Path::new("random"), serde_json::Value::Null, &[])?;
        Self::load(&nothing.weights(target).with_random(), config)
    }

    /// Takes all tensors of parts of this shape from `weights`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(weights: &Weights, config: &OneStoryConfig) -> Result<Self> {
        Ok(Self {
            selector: Selector::load(&weights.sub("selector"), config)?,
            patchifiers: Patchifiers::load(weights, config)?,
        })
    }
}

#[cfg(test)]
#[path = "onestory_test.rs"]
mod tests;

#[cfg(test)]
#[path = "golden_test.rs"]
mod goldens;
