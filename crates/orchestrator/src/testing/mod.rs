//! An engine without networks, a planner without a model, and what measures the orchestrator with them.

pub mod bench;
pub mod pipeline;
pub mod planner;
pub mod simulated;
