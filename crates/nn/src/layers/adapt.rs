//! Layers whose learned values are changed after loading.

use tch::{Kind, Tensor};

use super::{LayerNorm, Linear, RmsNorm};
use crate::error::Result;

/// A network whose layers adapters may change.
pub trait Adaptable {
    /// The layer of this name, as diffusers names it.
    fn layer_mut(&mut self, name: &str) -> Option<LayerMut<'_>>;

    /// Whether adapters that are used on this network may name this layer although it has none: it
    /// belongs to a branch that a sister of the network has.
    fn leaves_aside(&self, _layer: &str) -> bool {
        false
    }
}

/// A layer that an adapter may change.
#[derive(Debug)]
pub enum LayerMut<'a> {
    /// An affine map.
    Linear(&'a mut Linear),
    /// A layer norm with learned values.
    LayerNorm(&'a mut LayerNorm),
    /// A root-mean-square norm.
    RmsNorm(&'a mut RmsNorm),
    /// A learned table.
    Table(&'a mut Tensor),
}

impl LayerMut<'_> {
    /// Size of the whole weight, on all ranks together.
    pub fn weight_size(&self) -> Vec<i64> {
        match self {
            Self::Linear(linear) => {
                let (outputs, inputs) = linear.size();
                vec![outputs, inputs]
            }
            Self::LayerNorm(norm) => norm.size(),
            Self::RmsNorm(norm) => vec![norm.width()],
            Self::Table(table) => table.size(),
        }
    }

    /// Size of the whole bias; `None` for a layer without one.
    pub fn bias_size(&self) -> Option<Vec<i64>> {
        match self {
            Self::Linear(linear) => linear.has_bias().then(|| vec![linear.size().0]),
            Self::LayerNorm(norm) => Some(norm.size()),
            Self::RmsNorm(_) | Self::Table(_) => None,
        }
    }

    /// Adds a difference of the size of the whole weight: this rank's part of it.
    pub fn add_to_weight(&mut self, difference: &Tensor) -> Result<()> {
        match self {
            Self::Linear(linear) => linear.add_to_weight(difference),
            Self::LayerNorm(norm) => norm.add_to_weight(difference),
            Self::RmsNorm(norm) => norm.add_to_weight(difference),
            Self::Table(table) => add_difference(table, difference),
        }
    }

    /// Adds a difference of the size of the whole bias: this rank's part of it. A layer without
    /// a bias stays as it is.
    pub fn add_to_bias(&mut self, difference: &Tensor) -> Result<()> {
        match self {
            Self::Linear(linear) => linear.add_to_bias(difference),
            Self::LayerNorm(norm) => norm.add_to_bias(difference),
            Self::RmsNorm(_) | Self::Table(_) => Ok(()),
        }
    }
}

/// Adds in f32 and rounds once to the kind of `values`.
pub(super) fn add_difference(values: &mut Tensor, difference: &Tensor) -> Result<()> {
    let sum = values.f_to_kind(Kind::Float)?.f_add(difference)?;
    *values = sum.f_to_kind(values.kind())?;
    Ok(())
}
