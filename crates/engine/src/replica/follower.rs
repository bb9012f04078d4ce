//! A rank that shares the networks of a leader.

use serde_json::Value;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Stage;
use tch::Device;

use super::Replica;
use super::conditions::{Branch, LoopConditions};
use super::message::{Command, PREDICTION, SAMPLE};
use super::pool::{not_for_this_rank, serve};
use super::wire::{Tensors, take};
use crate::backbone::{NetworkId, Networks, Prepared, StepInput};

/// A rank that shares the networks of a leader.
pub(crate) struct Follower<'a> {
    pub(crate) replica: &'a Replica,
    pub(crate) device: Device,
    pub(crate) networks: Networks,
    /// Does this rank's part of a stage, where the ranks share more than predictions.
    pub(crate) stage: Box<dyn FnMut(Stage, Value, Tensors) -> Result<()> + 'a>,
}

impl Follower<'_> {
    /// Takes part in predictions until the leader is done.
    pub(crate) fn serve(self) -> Result<()> {
        let Self {
            replica,
            device,
            networks,
            mut stage,
        } = self;
        let _guard = tch::no_grad_guard();
        let mut prepared: Option<(NetworkId, Vec<Prepared>)> = None;
        let answers = replica.negative_leader() == Some(replica.seat.index);
        serve(replica, device, |command, mut tensors| match command {
            Command::Prepare { network, guided } => {
                let model = networks.get(network)?;
                let conditions = LoopConditions::of(tensors)?;
                let branches = branches(replica, guided).iter();
                let ready = branches.map(|branch| model.prepare(&conditions.branch(*branch)));
                prepared = Some((network, ready.collect::<Result<_>>()?));
                Ok(None)
            }
            Command::Forward { network, step } => {
                let sample = &take(&mut tensors, SAMPLE)?;
                let missing = || ModelError::input("forward", "no conditions were prepared");
                let (of, ready) = prepared.as_ref().ok_or_else(missing)?;
                if *of != network {
                    return Err(missing());
                }
                let model = networks.get(network)?;
                let input = StepInput { sample, step };
                let mut answer = Tensors::new();
                for prepared in ready {
                    let prediction = model.predict(&input, prepared)?;
                    answer.insert(PREDICTION.to_owned(), prediction);
                }
                Ok(answers.then_some((Value::Null, answer)))
            }
            Command::Stage { stage: of, message } => {
                stage(of, message, tensors)?;
                Ok(None)
            }
            Command::End => Err(not_for_this_rank(&command)),
        })
    }
}

/// With two halves each has its own prediction; otherwise all ranks go through both, in the order of
/// the leader.
fn branches(replica: &Replica, guided: bool) -> &'static [Branch] {
    let half = (replica.degrees().cfg == 2).then_some(replica.cell().cfg);
    match half {
        Some(0) => &[Branch::Positive],
        Some(_) => &[Branch::Negative],
        None if guided => &[Branch::Positive, Branch::Negative],
        None => &[Branch::Positive],
    }
}
