//! Plan, run, commit and report stories on any [`ShotEngine`].

pub mod engine;

pub use engine::{EngineDescription, EngineError, Scores, ShotEngine, StepObserver};
