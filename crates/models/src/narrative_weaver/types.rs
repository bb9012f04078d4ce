//! What tells the condition image and the levels of the memory apart.

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::narrative_weaver::BankSettings;
use tch::{Kind, Tensor};

/// What tokens behind those of the picture itself are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextKind {
    /// The condition image.
    Condition,
    /// An earlier picture.
    Memory {
        /// How many pictures ago it was made, from 1.
        age: u32,
    },
}

impl ContextKind {
    /// The row of its embedding.
    fn row(self) -> i64 {
        match self {
            Self::Condition => 0,
            Self::Memory { age } => i64::from(age),
        }
    }
}

/// `context/config.json`: the memory that a diffusion model was trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContextConfig {
    /// Width of its tokens.
    pub width: i64,
    /// How the memory shrinks with age.
    pub memory: BankSettings,
}

impl Default for ContextConfig {
    /// For FLUX.1.
    fn default() -> Self {
        Self {
            width: 3072,
            memory: BankSettings::default(),
        }
    }
}

impl ContextConfig {
    /// The class that `config.json` names.
    pub const CLASS: &'static str = "NarrativeWeaverContext";
}

/// A row for the condition image and one for each age, added to tokens after their embedding. Training begins with
/// zeros; a model without them has zeros. Whole on every rank; no collective.
#[derive(Debug)]
pub struct TypeEmbeddings {
    /// f32 `[1 + ages, width]`.
    rows: Tensor,
    memory: BankSettings,
}

impl TypeEmbeddings {
    /// Loads the component `folder`: `config.json` and the tensor `type_embed.weight`.
    ///
    /// # Errors
    /// It cannot be read, or is no such component.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.expect_class(&[ContextConfig::CLASS])?;
        let config: ContextConfig = checkpoint.config()?;
        let most = BankSettings::MOST_FRAMES;
        if config.width < 1 || config.memory.frames > most {
            let path = checkpoint.folder().join("config.json");
            let reason = format!(
                "width = {} must be at least 1, and memory.frames = {} at most {most}",
                config.width, config.memory.frames
            );
            return Err(ModelError::bad_file(path, reason));
        }
        let weights = checkpoint.weights(target);
        let embeddings = Self::load(&weights, &config)?;
        weights.finish()?;
        Ok(embeddings)
    }

    /// Takes the rows from `weights`.
    ///
    /// # Errors
    /// They are missing or have another shape.
    pub fn load(weights: &Weights, config: &ContextConfig) -> Result<Self> {
        let shape = [1 + i64::from(config.memory.frames), config.width];
        let weights = weights.with_kind(Kind::Float);
        Ok(Self {
            rows: weights.take("type_embed.weight", &shape)?,
            memory: config.memory,
        })
    }

    /// Those of a model that has none: nothing is added.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn zeros(config: &ContextConfig, target: Target) -> Result<Self> {
        let shape = [1 + i64::from(config.memory.frames), config.width];
        Ok(Self {
            rows: Tensor::f_zeros(shape, (Kind::Float, target.device))?,
            memory: config.memory,
        })
    }

    /// The memory that the model was trained with.
    pub fn memory(&self) -> BankSettings {
        self.memory
    }

    /// The rows of tokens of these kinds, each with its number of tokens, in their order: f32 `[tokens, width]`. No
    /// collective.
    ///
    /// # Errors
    /// A picture is older than the model knows.
    pub fn rows(&self, kinds: &[(ContextKind, usize)]) -> Result<Tensor> {
        let known = self.rows.size()[0];
        let numbers = kinds
            .iter()
            .flat_map(|&(kind, count)| std::iter::repeat_n(kind.row(), count));
        let numbers: Vec<i64> = numbers.collect();
        if let Some(number) = numbers.iter().find(|&&number| number >= known) {
            let reason = format!("kind number {number}, and {known} kinds are known");
            return Err(ModelError::input("context of a picture", reason));
        }
        let numbers = Tensor::f_from_slice(&numbers)?.f_to_device(self.rows.device())?;
        Ok(self.rows.f_index_select(0, &numbers)?)
    }
}
