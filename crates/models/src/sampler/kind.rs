//! Names of solvers, of references, and of what networks predict.

use serde::{Deserialize, Serialize};

/// Which solver walks the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SamplerKind {
    /// UniPC of order 2 with `B(h) = exp(h) - 1` ("bh2"), predicting clean latents.
    #[serde(rename = "unipc")]
    UniPc,
    /// DPM-Solver++ 2M, midpoint.
    #[serde(rename = "dpm++")]
    DpmPlusPlus,
    /// Plain Euler steps along the velocity.
    #[serde(rename = "euler")]
    Euler,
}

/// Whose grid of noise levels is used; see decision record 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// The original Wan2.2 code.
    Wan,
    /// diffusers 0.42.
    Diffusers,
}

/// What a network predicts of a noisy sample. Every grid of noise levels so far is one of flow matching,
/// on which only velocities can be walked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The velocity of flow matching, `noise - clean`.
    Velocity,
    /// The noise in the sample.
    Noise,
    /// `v = alpha * noise - sigma * clean` of a variance-preserving process.
    V,
}
