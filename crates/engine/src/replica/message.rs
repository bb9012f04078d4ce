//! What the ranks of a replica tell each other. Change the protocol's number in
//! `storyloom-parallel` (`frame.rs`) with it: ranks of two builds must not meet.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_story::{ErrorClass, Stage};

use crate::backbone::{NetworkId, Step};

/// What a leader asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Prepare the conditions of the message for this network; the negative ones only if `guided`.
    Prepare { network: NetworkId, guided: bool },
    /// One prediction for the sample of the message with each conditions that were prepared.
    Forward { network: NetworkId, step: Step },
    /// Something of a stage, which the method packs and reads.
    Stage { stage: Stage, message: Value },
    /// There is nothing more to do.
    End,
}

/// What comes back, with tensors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is done; what the message says is the method's.
    Done { message: Value },
    /// It did not work; the rank goes on.
    Failed { class: ErrorClass, message: String },
}

/// What leaders of replicas tell each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum HelpMessage {
    /// The sender is idle and may help.
    Offer,
    /// No help is needed.
    Decline,
    /// Help is welcome: prepare the conditions of the message for this network.
    Prepare { network: NetworkId },
    /// One prediction with them.
    Forward { step: Step },
    /// The prediction.
    Prediction,
    /// No more help is needed.
    Release,
    /// The sender has left.
    Bye,
}

/// Name of the sample in messages.
pub(crate) const SAMPLE: &str = "sample";
/// Name of the prediction in messages.
pub(crate) const PREDICTION: &str = "prediction";
