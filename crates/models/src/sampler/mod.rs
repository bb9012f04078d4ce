//! Sampling of flow-matching models: the grid of noise levels and the solvers that walk it.
//!
//! Throughout, `sigma` in [0, 1] is the share of noise, `alpha = 1 - sigma`,
//! `lambda = ln(alpha) - ln(sigma)`, the model predicts the velocity `v = noise - clean`, and
//! `m = x - sigma * v` is its estimate of the clean latents.

mod schedule;
mod solver;

pub use schedule::{Expert, SamplerSettings, Schedule};
pub use solver::{Solver, SolverState};

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
