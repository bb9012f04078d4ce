//! An engine without networks, and what measures the orchestrator with it.

pub mod bench;
pub mod pipeline;
pub mod simulated;
