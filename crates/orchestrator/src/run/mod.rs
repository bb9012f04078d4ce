//! What makes a run: its loop, its stories and shots, who works on what, and what is mended on the way.

pub mod admission;
pub mod admission_policy;
pub(crate) mod attempt;
pub(crate) mod chain;
pub(crate) mod differences;
pub mod drain;
pub mod gate;
pub mod inputs;
pub mod lease;
pub(crate) mod lost_record;
pub(crate) mod mend;
mod outcome;
pub mod planning;
pub mod quarantine;
mod run_loop;
pub(crate) mod run_queue;
pub mod shot;
pub mod story;

pub use crate::engine;
pub use outcome::RunOutcome;
pub use run_loop::{Engines, run, run_on, sweep};
