//! What an engine is, and what moves the last bits of what it makes.

use tch::{Device, Kind};

use super::Compute;
use crate::replica::Replica;

/// What an engine is, for recipes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name and digest of each component.
    pub digests: Vec<(String, String)>,
    /// The name of the quality score.
    pub quality_score: &'static str,
    /// Digest of everything that decides the numbers: weights, sampling, precision.
    pub fingerprint: String,
    /// What moves their last bits: device, threads, ranks that share sums.
    pub arithmetic: String,
}

/// The name of a kind of numbers in fingerprints.
pub(in crate::method) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "Float",
        Kind::BFloat16 => "BFloat16",
        Kind::Half => "Half",
        _ => "other",
    }
}

/// How sums are divided. The number of replicas, who encodes or decodes and who has which half of
/// guidance change nothing.
pub(in crate::method) fn arithmetic(compute: &Compute, replica: &Replica) -> String {
    let mut parts = vec![match compute.target.device {
        Device::Cpu => format!("cpu, {} threads", tch::get_num_threads()),
        device => format!("{device:?}").to_lowercase(),
    }];
    let degrees = replica.degrees();
    for (name, ranks) in [("tensor", degrees.tensor), ("sequence", degrees.sequence)] {
        if ranks > 1 {
            parts.push(format!("{name} {ranks}"));
        }
    }
    let rows = compute.rows(replica).part().of;
    if rows > 1 {
        parts.push(format!("rows {rows}"));
    }
    parts.join(", ")
}
