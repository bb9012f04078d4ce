//! Sampling of diffusion models: the grid of noise levels and the solver that walks it.
//!
//! Throughout, `sigma` in [0, 1] is the share of noise, `alpha = 1 - sigma`,
//! `lambda = ln(alpha) - ln(sigma)`, a flow-matching model predicts the velocity
//! `v = noise - clean`, and `m = x - sigma * v` is its estimate of the clean latents.
//!
//! Each grid is a file in `schedule/`, each solver one in `solver/`; a new one is its file and a row
//! in [`schedule`] or [`solver`].

mod kind;
pub mod schedule;
pub mod solver;

pub use kind::{Prediction, Reference, SamplerKind};
pub use schedule::{FlowConfig, SamplerSettings, Schedule, TimeShift};
pub use solver::{Solver, SolverMemory, stochastic_step};
