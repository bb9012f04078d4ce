//! The sampling loop: from noise to clean latents, phase by phase.
//!
//! A loop is data, a [`LoopPlan`]: the grid, the solver, and which network predicts down to which
//! noise level with which guidance. What the networks are and what they see is the method's.

use storyloom_models::sampler::{
    Prediction, SamplerKind, SamplerSettings, Schedule, Solver, SolverMemory,
};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::tensor_file::{from_host, to_host};
use storyloom_story::{LoopState, PassName};
use tch::{Kind, Tensor};

use crate::backbone::{NetworkId, Networks, Step, StepInput};
use crate::guidance::Guidance;
use crate::replica::conditions::LoopConditions;
use crate::replica::forwards::{Forwards, Ready};
use crate::replica::team::Team;

/// How a loop walks from noise to latents.
#[derive(Debug, Clone)]
pub struct LoopPlan {
    pass: PassName,
    solver: SamplerKind,
    schedule: Schedule,
    phases: Vec<Phase>,
}

/// A part of a loop with one network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// The network.
    pub network: NetworkId,
    /// Its guidance.
    pub guidance: Guidance,
    /// The lowest noise level of the phase, as a share of the training's timesteps; 0 for the last
    /// phase.
    pub down_to: f64,
}

impl LoopPlan {
    /// The loop `pass` of a shot over `phases`, from the highest noise levels to the lowest.
    ///
    /// # Errors
    /// The sampler cannot have these settings, or cannot walk with what the networks predict, or the
    /// phases do not fall to 0.
    pub fn new(
        pass: PassName,
        sampler: &SamplerSettings,
        prediction: Prediction,
        phases: Vec<Phase>,
    ) -> Result<Self> {
        sampler.kind.check(prediction)?;
        let falls = phases.is_sorted_by(|a, b| a.down_to > b.down_to);
        if !falls || phases.last().is_none_or(|last| last.down_to != 0.0) {
            let reason = format!("{phases:?} do not fall to a noise level of 0");
            return Err(ModelError::input("phases", reason));
        }
        Ok(Self {
            pass,
            solver: sampler.kind,
            schedule: Schedule::new(sampler)?,
            phases,
        })
    }

    /// The grid of noise levels.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The number of the phase of a step.
    pub fn phase_of(&self, step: usize) -> usize {
        let is_in = |phase: &Phase| self.schedule.is_above(step, phase.down_to);
        let last = self.phases.len() - 1;
        self.phases.iter().position(is_in).unwrap_or(last)
    }

    /// Walks from noise `[1, channels, …]` to clean latents of the same shape, in f32.
    ///
    /// After every step `observer` is shown where the loop stands; `false` stops it. With `resume`
    /// the loop goes on from a saved state of the same inputs, to the same bits. Conditions are
    /// prepared once per phase, when its first step comes, and when another leader begins to help.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] where the observer stops it; what networks and ranks say; a saved
    /// state of another loop.
    pub fn sample(
        &self,
        networks: &Networks,
        team: &Team,
        start: &LoopStart,
        observer: &mut dyn FnMut(&LoopProgress) -> bool,
    ) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let steps = self.schedule.steps();
        let (mut solver, mut sample) = self.start(start)?;
        let mut forwards = Forwards::new(networks, team);
        let mut current: Option<(usize, Ready)> = None;
        for step in solver.done()..steps {
            let at = self.phase_of(step);
            let phase = &self.phases[at];
            let joined = forwards.look_for_help(phase.guidance)?;
            let ready = match current.take() {
                Some((of, ready)) if of == at && !joined => ready,
                _ => forwards.prepare(phase.network, phase.guidance, start.conditions)?,
            };
            let input = StepInput {
                sample: &sample,
                step: Step {
                    timestep: self.schedule.timesteps()[step],
                    guidance: phase.guidance.embedded(),
                },
            };
            let prediction = forwards.predict(&ready, &input)?;
            sample = solver.step(&prediction, &sample)?;
            current = Some((at, ready));
            let progress = LoopProgress {
                pass: &self.pass,
                solver: &solver,
                sample: &sample,
                steps,
            };
            if !observer(&progress) && step + 1 < steps {
                let step = step + 1;
                return Err(ModelError::Interrupted { step, steps });
            }
        }
        Ok(sample)
    }

    fn start(&self, start: &LoopStart) -> Result<(Solver, Tensor)> {
        match start.resume {
            Some(state) => self.restore(state, start.noise),
            None => {
                let solver = Solver::new(self.solver, &self.schedule);
                Ok((solver, start.noise.f_to_kind(Kind::Float)?))
            }
        }
    }

    fn restore(&self, state: &LoopState, like: &Tensor) -> Result<(Solver, Tensor)> {
        let wrong = |reason: String| ModelError::input("loop state", reason);
        if state.pass != self.pass {
            return Err(wrong(format!("saved in the loop {}", state.pass)));
        }
        if state.total != self.schedule.steps() {
            return Err(wrong(format!("saved in a loop of {} steps", state.total)));
        }
        let mut memory = SolverMemory {
            order: state.order,
            ..SolverMemory::default()
        };
        for (name, array) in &state.arrays {
            let tensor = from_host(array, like.device())?;
            if tensor.size() != like.size() {
                let (found, wanted) = (tensor.size(), like.size());
                return Err(wrong(format!("{name} is {found:?}, not {wanted:?}")));
            }
            memory.arrays.insert(name.clone(), tensor);
        }
        let sample = memory.arrays.remove(SAMPLE);
        let sample = sample.ok_or_else(|| wrong("it has no sample".to_owned()))?;
        let solver = Solver::resume(self.solver, &self.schedule, state.done, memory)?;
        Ok((solver, sample))
    }
}

/// What a loop starts from.
#[derive(Debug)]
pub struct LoopStart<'a> {
    /// Noise `[1, channels, …]` in f32.
    pub noise: &'a Tensor,
    /// What the networks see.
    pub conditions: &'a LoopConditions,
    /// A saved state to go on from.
    pub resume: Option<&'a LoopState>,
}

/// Name of the sample in saved steps; all other names are the solver's.
const SAMPLE: &str = "sample";

/// Where a sampling loop stands between two steps.
pub struct LoopProgress<'a> {
    pass: &'a PassName,
    solver: &'a Solver,
    sample: &'a Tensor,
    steps: usize,
}

impl LoopProgress<'_> {
    /// Steps finished.
    pub fn done(&self) -> usize {
        self.solver.done()
    }

    /// Steps in all.
    pub fn total(&self) -> usize {
        self.steps
    }

    /// A copy on the host, enough to go on elsewhere.
    ///
    /// # Errors
    /// libtorch cannot copy.
    pub fn save(&self) -> Result<LoopState> {
        let mut memory = self.solver.memory();
        let sample = self.sample.shallow_clone();
        memory.arrays.insert(SAMPLE.to_owned(), sample);
        let arrays = memory.arrays.into_iter();
        let arrays = arrays.map(|(name, tensor)| Ok((name, to_host(&tensor)?)));
        Ok(LoopState {
            pass: self.pass.clone(),
            done: self.done(),
            total: self.steps,
            order: memory.order,
            arrays: arrays.collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use storyloom_models::sampler::Reference;
    use storyloom_nn::layers::{Adaptable, LayerMut};

    use super::*;
    use crate::backbone::{Backbone, Conditioning, Prepared};

    fn phase(network: u8, down_to: f64) -> Phase {
        Phase {
            network: NetworkId(network),
            guidance: Guidance::None,
            down_to,
        }
    }

    fn plan(prediction: Prediction, phases: &[Phase]) -> Result<LoopPlan> {
        let sampler = SamplerSettings {
            kind: SamplerKind::UniPc,
            reference: Reference::Diffusers,
            steps: 40,
            shift: 12.0,
        };
        LoopPlan::new(PassName::SHOT, &sampler, prediction, phases.to_vec())
    }

    /// Predicts what it was conditioned on, plus what it is told.
    #[derive(Debug)]
    struct Toy;

    impl Adaptable for Toy {
        fn layer_mut(&mut self, _name: &str) -> Option<LayerMut<'_>> {
            None
        }
    }

    impl Backbone for Toy {
        fn prepare(&self, conditioning: &Conditioning) -> Result<Prepared> {
            let value = conditioning.require("value")?;
            Ok(Prepared::new(value.double_value(&[])))
        }

        fn predict(&self, input: &StepInput, prepared: &Prepared) -> Result<Tensor> {
            let value = prepared.get::<f64>()? + input.step.guidance.unwrap_or(0.0);
            Ok(input.sample.zeros_like() + value)
        }
    }

    /// Euler's method walks from noise level 1 to 0, so that all velocities add up to one.
    #[test]
    fn each_guidance_reaches_the_network() {
        let value = |value: f64| Conditioning::default().with("value", Tensor::from(value));
        let conditions = LoopConditions {
            positive: value(3.0),
            negative: value(1.0),
            ..LoopConditions::default()
        };
        let sampler = SamplerSettings {
            kind: SamplerKind::Euler,
            reference: Reference::Diffusers,
            steps: 4,
            shift: 1.0,
        };
        let mut networks = Networks::default();
        networks.insert(NetworkId(7), Box::new(Toy));
        let end = |guidance| {
            let phase = Phase {
                guidance,
                ..phase(7, 0.0)
            };
            let plan =
                LoopPlan::new(PassName::SHOT, &sampler, Prediction::Velocity, vec![phase]).unwrap();
            let start = LoopStart {
                noise: &Tensor::zeros([1, 2], (Kind::Double, tch::Device::Cpu)),
                conditions: &conditions,
                resume: None,
            };
            let latents = plan.sample(&networks, &Team::default(), &start, &mut |_| true);
            latents.unwrap().double_value(&[0, 1])
        };
        assert!((end(Guidance::None) + 3.0).abs() < 1e-6);
        assert!((end(Guidance::Embedded { scale: 0.5 }) + 3.5).abs() < 1e-6);
        assert!((end(Guidance::Classifier { scale: 2.0 }) + 5.0).abs() < 1e-6);
    }

    #[test]
    fn phases_follow_each_other_down_to_zero() {
        let two = [phase(4, 0.875), phase(9, 0.0)];
        let two = plan(Prediction::Velocity, &two).unwrap();
        let first: Vec<usize> = (0..40).filter(|&step| two.phase_of(step) == 0).collect();
        let timesteps = two.schedule().timesteps();
        assert_eq!(first, (0..26).collect::<Vec<_>>(), "{timesteps:?}");
        assert!(timesteps[25] >= 875.0 && timesteps[26] < 875.0);
        let one = plan(Prediction::Velocity, &[phase(4, 0.0)]).unwrap();
        assert!((0..40).all(|step| one.phase_of(step) == 0));
        for wrong in [
            &[][..],
            &[phase(4, 0.5)],
            &[phase(4, 0.0), phase(9, 0.0)],
            &[phase(4, 0.5), phase(9, 0.7), phase(3, 0.0)],
        ] {
            assert!(plan(Prediction::Velocity, wrong).is_err(), "{wrong:?}");
        }
        assert!(plan(Prediction::Noise, &[phase(4, 0.0)]).is_err());
    }
}
