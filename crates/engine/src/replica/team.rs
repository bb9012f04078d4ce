//! Whom a leader shares the work with.

use std::sync::Arc;

use storyloom_nn::error::Result;

use super::conditions::LoopConditions;
use super::help::Leaders;
use super::message::{Command, SAMPLE};
use super::pool::FollowerPool;
use super::wire::Tensors;
use crate::backbone::{NetworkId, StepInput};

/// The ranks that share the networks of this one, and leaders of other replicas, who may help. Nobody
/// by default.
#[derive(Debug, Clone, Default)]
pub struct Team {
    pub(crate) pool: Option<Arc<FollowerPool>>,
    pub(crate) leaders: Option<Arc<Leaders>>,
}

impl Team {
    /// Whether another rank of this replica predicts with the negative conditions, and which.
    pub(crate) fn negative_leader(&self) -> Option<usize> {
        self.pool.as_ref()?.replica.negative_leader()
    }

    /// Lets the ranks that take part in a prediction prepare its conditions.
    pub(crate) fn prepare(
        &self,
        network: NetworkId,
        conditions: &LoopConditions,
        guided: bool,
    ) -> Result<()> {
        let command = Command::Prepare { network, guided };
        self.send(guided, &command, || conditions.tensors(guided))
    }

    /// Lets them take part in a prediction. The sample, f32 in the shape of the network's latents, is sent
    /// to each of them whole, before the collectives of the network.
    pub(crate) fn forward(
        &self,
        network: NetworkId,
        input: &StepInput,
        guided: bool,
    ) -> Result<()> {
        let step = input.step;
        let command = Command::Forward { network, step };
        self.send(guided, &command, || {
            Tensors::from([(SAMPLE.to_owned(), input.sample.shallow_clone())])
        })
    }

    fn send(
        &self,
        guided: bool,
        command: &Command,
        tensors: impl FnOnce() -> Tensors,
    ) -> Result<()> {
        let Some(pool) = &self.pool else {
            return Ok(());
        };
        pool.send(&pool.replica.followers(guided), command, &tensors())
    }
}
