//! The figures of a run, for Prometheus.

pub mod catalogue;
pub mod document;
pub mod labels;
