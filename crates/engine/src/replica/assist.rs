//! What an idle leader does for another one.

use storyloom_nn::error::{ModelError, Result};
use storyloom_parallel::CommError;

use super::conditions::{Branch, LoopConditions};
use super::message::{HelpMessage, PREDICTION, SAMPLE};
use super::team::Team;
use super::wire::{Tensors, take};
use crate::backbone::{NetworkId, Networks, Prepared, Step, StepInput};

/// A leader without a story, who computes for another with its own replica.
struct HelperSession<'a> {
    networks: &'a Networks,
    team: &'a Team,
    network: NetworkId,
    prepared: Prepared,
}

impl<'a> HelperSession<'a> {
    /// Prepares the conditions in `tensors`.
    fn prepare(
        networks: &'a Networks,
        team: &'a Team,
        network: NetworkId,
        tensors: Tensors,
    ) -> Result<Self> {
        let conditions = LoopConditions::of(tensors)?;
        team.prepare(network, &conditions, false)?;
        let model = networks.get(network)?;
        Ok(Self {
            networks,
            team,
            network,
            prepared: model.prepare(&conditions.branch(Branch::Positive))?,
        })
    }

    /// One prediction with them.
    fn predict(&self, step: Step, mut tensors: Tensors) -> Result<Tensors> {
        let sample = &take(&mut tensors, SAMPLE)?;
        let input = StepInput { sample, step };
        self.team.forward(self.network, &input, false)?;
        let model = self.networks.get(self.network)?;
        let prediction = model.predict(&input, &self.prepared)?;
        Ok(Tensors::from([(PREDICTION.to_owned(), prediction)]))
    }
}

/// Lets a replica without a story compute for another one, until that has finished its shot. `false`
/// if nobody needs it.
pub(crate) fn assist(networks: &Networks, team: &Team) -> Result<bool> {
    let _guard = tch::no_grad_guard();
    let Some(leaders) = team.leaders.as_deref() else {
        return Ok(false);
    };
    let Some(mut asked) = leaders.after(None) else {
        return Ok(false);
    };
    leaders.send(asked, &HelpMessage::Offer)?;
    let mut session: Option<HelperSession> = None;
    while let Some((from, help, tensors)) = leaders.next()? {
        match help {
            // Idle as well, or late with its offer.
            HelpMessage::Offer => leaders.send(from, &HelpMessage::Decline)?,
            HelpMessage::Prepare { network } => {
                session = Some(HelperSession::prepare(networks, team, network, tensors)?);
            }
            HelpMessage::Forward { step } => {
                if let Some(session) = &session {
                    let prediction = session.predict(step, tensors)?;
                    leaders.send_with(from, &HelpMessage::Prediction, &prediction)?;
                }
            }
            HelpMessage::Release => return Ok(true),
            HelpMessage::Decline | HelpMessage::Bye if from == asked && session.is_none() => {
                let Some(next) = leaders.after(Some(asked)) else {
                    return Ok(false);
                };
                asked = next;
                leaders.send(asked, &HelpMessage::Offer)?;
            }
            HelpMessage::Decline | HelpMessage::Bye | HelpMessage::Prediction => {}
        }
    }
    Err(ModelError::World(CommError::Late {
        group: "leaders".to_owned(),
        operation: "an offer to help".to_owned(),
        ranks: vec![asked],
        seconds: leaders.timeout.as_secs(),
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use storyloom_models::sampler::{Prediction, Reference, SamplerKind, SamplerSettings};
    use storyloom_nn::layers::{Adaptable, LayerMut};
    use storyloom_nn::testing::on_ranks;
    use storyloom_story::PassName;
    use tch::{Device, Kind, Tensor};

    use super::super::help::Leaders;
    use super::*;
    use crate::backbone::{Backbone, Conditioning};
    use crate::guidance::Guidance;
    use crate::sampling::{LoopPlan, LoopStart, Phase};

    /// Predicts what it was conditioned on, and counts for whom.
    #[derive(Debug, Default)]
    struct Toy {
        was_negative: Arc<AtomicBool>,
    }

    impl Adaptable for Toy {
        fn layer_mut(&mut self, _name: &str) -> Option<LayerMut<'_>> {
            None
        }
    }

    impl Backbone for Toy {
        fn prepare(&self, conditioning: &Conditioning) -> Result<Prepared> {
            let value = conditioning.require("value")?.double_value(&[]);
            self.was_negative.fetch_or(value < 0.0, Ordering::Relaxed);
            Ok(Prepared::new(value))
        }

        fn predict(&self, input: &StepInput, prepared: &Prepared) -> Result<Tensor> {
            Ok(input.sample.cos() * *prepared.get::<f64>()?)
        }
    }

    fn plan() -> LoopPlan {
        let sampler = SamplerSettings {
            kind: SamplerKind::UniPc,
            reference: Reference::Diffusers,
            steps: 20,
            shift: 3.0,
        };
        let phase = Phase {
            network: NetworkId(0),
            guidance: Guidance::classifier(2.0),
            down_to: 0.0,
        };
        LoopPlan::new(PassName::SHOT, &sampler, Prediction::Velocity, vec![phase]).unwrap()
    }

    /// Latents of a loop with `team`, which waits between its steps.
    fn sample(networks: &Networks, team: &Team, wait: Duration) -> Tensor {
        let value = |value: f64| Conditioning::default().with("value", Tensor::from(value));
        let conditions = LoopConditions {
            positive: value(0.5),
            negative: value(-0.25),
            ..LoopConditions::default()
        };
        let start = LoopStart {
            noise: &Tensor::linspace(-1.0, 1.0, 8, (Kind::Float, Device::Cpu)),
            conditions: &conditions,
            resume: None,
        };
        let latents = plan().sample(networks, team, &start, &mut |_| {
            std::thread::sleep(wait);
            true
        });
        latents.unwrap()
    }

    /// The idle leader computes with the negative conditions until the loop ends; no bit differs.
    #[test]
    fn an_idle_leader_computes_for_another() {
        let timeout = Duration::from_secs(20);
        let found = on_ranks(2, |group| {
            let toy = Toy::default();
            let was_negative = Arc::clone(&toy.was_negative);
            let mut networks = Networks::default();
            networks.insert(NetworkId(0), Box::new(toy));
            let leads = group.rank() == 0;
            let leaders = Leaders::new(Some(group), Device::Cpu, timeout);
            let team = Team {
                pool: None,
                leaders: Some(Arc::new(leaders)),
            };
            if leads {
                return Some(sample(&networks, &team, Duration::from_millis(20)));
            }
            assert!(assist(&networks, &team).unwrap());
            assert!(was_negative.load(Ordering::Relaxed));
            None
        });
        let mut networks = Networks::default();
        networks.insert(NetworkId(0), Box::new(Toy::default()));
        let alone = sample(&networks, &Team::default(), Duration::ZERO);
        assert_eq!(found.into_iter().flatten().next(), Some(alone));
    }
}
