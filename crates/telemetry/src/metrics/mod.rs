//! The figures of a run, for Prometheus.
//!
//! [`catalogue`] names every metric. A leader counts in [`Metrics`], a reporter of its events, and
//! an [`Exporter`] gives that away.

pub mod catalogue;
mod connections;
pub mod document;
mod exporter;
mod families;
mod figures;
mod hosts;
pub mod labels;
mod machine;
mod nvml;
mod push;
mod ranks;
mod replica;
mod run;
mod server;
mod targets;
#[cfg(test)]
mod tests;
mod token;

pub use exporter::{Exporter, ExporterSettings, RunWatch};
pub use figures::Metrics;
pub use machine::{GpuReport, RankReport};
pub use nvml::Gpu;
pub use ranks::{RankPulse, RankReports};
pub use replica::ReplicaFacts;
pub use run::{ByState, RunView, RunWork};
pub use token::Token;
