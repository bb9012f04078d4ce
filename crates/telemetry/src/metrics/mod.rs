//! The figures of a run, for Prometheus.

pub mod catalogue;
pub mod labels;
