//! A shot that is being made, saved between two steps of its sampling loop.

use serde::{Deserialize, Serialize};
use storyloom_story::{LoopState, PassName, ShotRequest};

use crate::ledger::blobs::BlobRef;
use crate::ledger::record::{SeenRecord, digested};

/// The format of saved steps.
pub const FORMAT: u32 = 1;

/// Where a sampling loop stands, and everything that must be the same for it to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepCheckpoint {
    /// [`FORMAT`].
    pub format: u32,
    /// What the shot is made of.
    pub basis: Basis,
    /// Which of the shot's loops it is. Not written where the shot has one, as earlier builds did.
    #[serde(default, skip_serializing_if = "PassName::is_shot")]
    pub pass: PassName,
    /// Steps finished.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// Order of the solver's last predictor.
    pub order: usize,
    /// The sample and what the solver remembers.
    pub arrays: BlobRef,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

/// All that decides the latents of a shot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basis {
    /// What is asked for, seed and attempt included.
    pub request: ShotRequest,
    /// Fingerprint of the engine: weights, sampler, precision.
    pub engine: String,
    /// The memory the shot sees, oldest first.
    pub memory_seen: Vec<SeenRecord>,
    /// The frames that it continues.
    pub continues: Option<BlobRef>,
    /// Digest of the record of the shot before.
    pub previous: Option<String>,
}

impl Basis {
    /// The first part in which `self` differs from `other`, in words.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let parts = [
            (self.engine != other.engine, "the engine"),
            (self.request.seed != other.request.seed, "the seed"),
            (self.request != other.request, "the request"),
            (self.memory_seen != other.memory_seen, "the memory"),
            (self.continues != other.continues, "the frames it continues"),
            (self.previous != other.previous, "the shot before"),
        ];
        let different = parts.into_iter().find(|(differs, _)| *differs);
        different.map(|(_, part)| part)
    }
}

impl StepCheckpoint {
    /// The record of a state whose arrays are stored as `arrays`.
    pub fn new(basis: Basis, state: &LoopState, arrays: BlobRef) -> Self {
        Self {
            format: FORMAT,
            basis,
            pass: state.pass.clone(),
            done: state.done,
            total: state.total,
            order: state.order,
            arrays,
            digest: String::new(),
        }
    }
}

digested!(StepCheckpoint, FORMAT);
