//! From states of query slots to the text rows of a diffusion model.

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::layers::{Activation, Linear, RmsNorm};
use tch::{Kind, Tensor};

use crate::language::connector::ConnectorBlocks;

/// `projector/config.json`. The paper does not give its shape in what could be read; it is ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectorConfig {
    /// Width of the language model.
    pub width: i64,
    /// Width of the text rows of the diffusion model.
    pub text_width: i64,
    /// Width of its pooled vector.
    pub pooled_width: i64,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Blocks before the projection, in which the slots of a picture see each other: blocks of a language model
    /// without a mask, as the connector of MetaQuery has them.
    pub connector_layers: i64,
    /// Heads of their attention; they divide the width.
    pub connector_heads: i64,
    /// Hidden width of their feed-forward layers.
    pub connector_intermediate_size: i64,
}

impl Default for ProjectorConfig {
    /// From Qwen2.5-VL-3B to FLUX.1.
    fn default() -> Self {
        Self {
            width: 2048,
            text_width: 4096,
            pooled_width: 768,
            eps: 1e-6,
            connector_layers: 0,
            connector_heads: 16,
            connector_intermediate_size: 11_008,
        }
    }
}

impl ProjectorConfig {
    /// The class that `config.json` names.
    pub const CLASS: &'static str = "NarrativeWeaverProjector";

    fn check(&self) -> Result<(), String> {
        for (name, value, least) in [
            ("width", self.width, 1),
            ("text_width", self.text_width, 1),
            ("pooled_width", self.pooled_width, 1),
            ("connector_layers", self.connector_layers, 0),
            ("connector_heads", self.connector_heads, 1),
            (
                "connector_intermediate_size",
                self.connector_intermediate_size,
                1,
            ),
        ] {
            if value < least {
                return Err(format!("{name} = {value}, but it must be at least {least}"));
            }
        }
        let (width, heads) = (self.width, self.connector_heads);
        match self.connector_layers > 0 && width % (2 * heads) != 0 {
            true => Err(format!(
                "width = {width} does not divide into {heads} heads with pairs of channels"
            )),
            false => Ok(()),
        }
    }
}

/// What a diffusion model is given in the place of its text encoders' outputs.
#[derive(Debug)]
pub struct Projected {
    /// f32 `[batch, queries, text_width]`.
    pub text: Tensor,
    /// f32 `[batch, pooled_width]`.
    pub pooled: Tensor,
}

/// Makes text rows of states: `RMSNorm`, a linear layer, the tanh form of GELU, a linear layer. The pooled vector is
/// a linear layer of the mean over the slots; training begins with it at zero. Whole on every rank; no collective.
#[derive(Debug)]
pub struct Projector {
    connector: Option<ConnectorBlocks>,
    norm: RmsNorm,
    first: Linear,
    second: Linear,
    pooled: Linear,
}

impl Projector {
    /// Loads the component `folder`. Missing and unknown tensors are an error that lists them.
    ///
    /// # Errors
    /// It cannot be read, or is no such component.
    pub fn open(folder: &Path, target: Target) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.expect_class(&[ProjectorConfig::CLASS])?;
        let config: ProjectorConfig = checkpoint.config()?;
        let path = checkpoint.folder().join("config.json");
        config
            .check()
            .map_err(|reason| ModelError::bad_file(path, reason))?;
        let weights = checkpoint.weights(target);
        let projector = Self::load(&weights, &config)?;
        weights.finish()?;
        Ok(projector)
    }

    /// Takes all tensors from `weights`: `norm`, `mlp.0`, `mlp.2`, `pooled`, and `layers.i` of a connector.
    ///
    /// # Errors
    /// A tensor is missing or has another shape.
    pub fn load(weights: &Weights, config: &ProjectorConfig) -> Result<Self> {
        let (width, text) = (config.width, config.text_width);
        let heads = config.connector_heads;
        let shape = (width, heads, config.connector_intermediate_size);
        let layers = (config.connector_layers, weights.sub("layers"));
        let connector =
            (layers.0 > 0).then(|| ConnectorBlocks::load(&layers.1, layers.0, shape, config.eps));
        let mlp = weights.sub("mlp");
        Ok(Self {
            connector: connector.transpose()?,
            norm: RmsNorm::load(&weights.sub("norm"), width, config.eps)?,
            first: Linear::load(&mlp.sub(0), width, text)?,
            second: Linear::load(&mlp.sub(2), text, text)?,
            pooled: Linear::load(&weights.sub("pooled"), width, config.pooled_width)?,
        })
    }

    /// States `[batch, queries, width]` to text rows and pooled vectors. No collective.
    ///
    /// # Errors
    /// They have another width.
    pub fn forward(&self, states: &Tensor) -> Result<Projected> {
        let _guard = gradients::guard();
        let size = states.size();
        if size.len() != 3 || size[2] != self.norm.width() {
            let width = self.norm.width();
            let reason = format!("[batch, queries, {width}] is needed, found {size:?}");
            return Err(ModelError::input("query_states", reason));
        }
        let states = states.f_to_kind(Kind::Float)?;
        let states = match &self.connector {
            Some(connector) => connector.forward(states)?,
            None => states,
        };
        let mean = states.f_mean_dim([1_i64].as_slice(), false, Kind::Float)?;
        let inner = self.first.forward(&self.norm.forward(&states)?)?;
        let inner = Activation::GeluTanh.apply(inner)?;
        Ok(Projected {
            text: self.second.forward(&inner)?,
            pooled: self.pooled.forward(&mean)?,
        })
    }
}
