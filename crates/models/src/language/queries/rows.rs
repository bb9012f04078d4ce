//! The learned queries, as a checkpoint has them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use tch::{Kind, Tensor};

use super::ImageTokens;

/// What the slots of one picture see of each other. The paper does not say; the default is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntraQuery {
    /// All of them.
    #[default]
    Full,
    /// Those before them, as in MetaQuery.
    Causal,
}

/// `queries/config.json`. The numbers of the paper could not be read; the defaults are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueriesConfig {
    /// Slots of a picture.
    pub num_queries: i64,
    /// Width of the language model.
    pub width: i64,
    /// What the slots of one picture see of each other.
    pub intra_query: IntraQuery,
    /// The tokens that stand around them.
    pub image_tokens: ImageTokens,
}

impl Default for QueriesConfig {
    /// For Qwen2.5-VL-3B.
    fn default() -> Self {
        Self {
            num_queries: 256,
            width: 2048,
            intra_query: IntraQuery::default(),
            image_tokens: ImageTokens::default(),
        }
    }
}

impl QueriesConfig {
    /// The class that `config.json` names.
    pub const CLASS: &'static str = "NarrativeWeaverQueries";

    fn check(&self) -> Result<(), String> {
        let ImageTokens { open, close } = self.image_tokens;
        match () {
            _ if self.num_queries < 1 => Err(format!(
                "num_queries = {}, but it must be at least 1",
                self.num_queries
            )),
            _ if self.width < 1 => {
                Err(format!("width = {}, but it must be at least 1", self.width))
            }
            _ if open == close => Err(format!("image_tokens has {open} twice")),
            _ => Ok(()),
        }
    }
}

/// The rows that are put into the slots of every picture: E_Q of the specification.
#[derive(Debug)]
pub struct QueryRows {
    /// What goes with them.
    pub config: QueriesConfig,
    /// `[queries, width]` f32.
    pub rows: Tensor,
}

impl QueryRows {
    /// Loads the component `folder`: `config.json` and the tensor `queries.weight`.
    ///
    /// # Errors
    /// It cannot be read, or is no such component.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.expect_class(&[QueriesConfig::CLASS])?;
        let config: QueriesConfig = checkpoint.config()?;
        let path = checkpoint.folder().join("config.json");
        config
            .check()
            .map_err(|reason| ModelError::bad_file(path, reason))?;
        let weights = checkpoint.weights(target);
        let rows = Self::load(&weights, config)?;
        weights.finish()?;
        Ok(rows)
    }

    /// Takes the rows from `weights`.
    ///
    /// # Errors
    /// They are missing or have another shape.
    pub fn load(weights: &Weights, config: QueriesConfig) -> Result<Self> {
        let shape = [config.num_queries, config.width];
        let weights = weights.with_kind(Kind::Float);
        Ok(Self {
            rows: weights.take("queries.weight", &shape)?,
            config,
        })
    }
}
