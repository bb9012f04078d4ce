//! The leader's end of predictions: alone, with the ranks of its replica, or with another leader who
//! has nothing to do. All of them compute what one rank would.

use storyloom_nn::error::Result;
use tch::Tensor;

use super::conditions::{Branch, LoopConditions};
use super::help::Helper;
use super::message::PREDICTION;
use super::team::Team;
use super::wire::take;
use crate::backbone::{NetworkId, Networks, Prepared, StepInput};
use crate::guidance::Guidance;

/// Predictions for the steps of one loop.
pub(crate) struct Forwards<'a> {
    networks: &'a Networks,
    team: &'a Team,
    helper: Helper<'a>,
}

/// A network with its conditions.
pub(crate) struct Ready {
    network: NetworkId,
    guidance: Guidance,
    positive: Prepared,
    /// Where this rank computes both predictions of a guided step.
    negative: Option<Prepared>,
}

impl<'a> Forwards<'a> {
    pub(crate) fn new(networks: &'a Networks, team: &'a Team) -> Self {
        Self {
            networks,
            team,
            helper: Helper::new(team.leaders.as_deref()),
        }
    }

    /// Looks for leaders who offer help; whether one was accepted just now, so that conditions must be
    /// prepared anew.
    pub(crate) fn look_for_help(&mut self, guidance: Guidance) -> Result<bool> {
        self.helper.look(guidance.is_two_fold())
    }

    /// Prepares conditions on all ranks that will take part.
    pub(crate) fn prepare(
        &self,
        network: NetworkId,
        guidance: Guidance,
        conditions: &LoopConditions,
    ) -> Result<Ready> {
        let mut guided = guidance.is_two_fold();
        if guided && self.helper.is_there() {
            self.helper.prepare(network, &conditions.negative_alone())?;
            guided = false;
        }
        self.team.prepare(network, conditions, guided)?;
        let own = guided && self.team.negative_leader().is_none();
        // In the order in which followers prepare theirs.
        let model = self.networks.get(network)?;
        let positive = model.prepare(&conditions.branch(Branch::Positive))?;
        let negative = own.then(|| model.prepare(&conditions.branch(Branch::Negative)));
        Ok(Ready {
            network,
            guidance,
            positive,
            negative: negative.transpose()?,
        })
    }

    /// The guided prediction, f32 in the shape of the sample.
    pub(crate) fn predict(&self, ready: &Ready, input: &StepInput) -> Result<Tensor> {
        let model = self.networks.get(ready.network)?;
        let guided = ready.guidance.is_two_fold();
        let is_helped = guided && self.helper.is_there();
        if is_helped {
            self.helper.forward(input)?;
        }
        self.team
            .forward(ready.network, input, guided && !is_helped)?;
        let positive = model.predict(input, &ready.positive)?;
        let negative = match (
            &ready.negative,
            self.team.negative_leader(),
            &self.team.pool,
        ) {
            _ if is_helped => Some(take(&mut self.helper.prediction()?, PREDICTION)?),
            (Some(prepared), _, _) => Some(model.predict(input, prepared)?),
            (None, Some(rank), Some(pool)) if guided => {
                let (_, mut tensors) = pool.answer(rank, positive.device())?;
                Some(take(&mut tensors, PREDICTION)?)
            }
            _ => None,
        };
        ready.guidance.combine(positive, negative.as_ref())
    }
}
