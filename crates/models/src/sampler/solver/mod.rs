//! The solvers in closed form (specification `wan22`, sections 5.3 to 5.5), one file each.
//!
//! A solver knows its settings, its step and what it must remember between two steps, and names the
//! arrays of that itself. Names and order are in saved steps of runs: they never change.

mod dpm_plus_plus;
mod euler;
mod stochastic;
mod unipc;

use std::collections::BTreeMap;
use std::fmt::Debug;

use storyloom_nn::error::{ModelError, Result};
use tch::{Kind, Tensor};

use super::kind::{Prediction, SamplerKind};
use super::schedule::Schedule;
pub use stochastic::stochastic_step;

/// Walks a [`Schedule`] from noise to clean latents.
///
/// Latents are f32; scalars are f64, which agrees with the references to 1e-7. There is no
/// randomness after the initial noise.
#[derive(Debug)]
pub struct Solver {
    levels: Levels,
    rule: Box<dyn StepRule>,
}

/// What a solver remembers between two steps, enough to go on elsewhere with the same bits.
#[derive(Debug, Default)]
pub struct SolverMemory {
    /// Order of the last predictor, for solvers that have one.
    pub order: usize,
    /// Tensors by the names that the solver gives them, each of the shape of the sample, f32.
    pub arrays: BTreeMap<String, Tensor>,
}

/// The step of one solver, and its memory.
trait StepRule: Debug + Send {
    /// One step from the level at which `levels` stands: `velocity` and `sample` are f32 of one shape.
    fn step(&mut self, levels: &Levels, velocity: &Tensor, sample: &Tensor) -> Result<Tensor>;

    /// What must be kept to go on.
    fn memory(&self) -> SolverMemory {
        SolverMemory::default()
    }

    /// Takes from `memory` what [`memory`](Self::memory) of the same solver has given.
    fn recall(&mut self, _memory: SolverMemory) {}
}

fn rule(kind: SamplerKind) -> Box<dyn StepRule> {
    match kind {
        SamplerKind::UniPc => Box::new(unipc::UniPc::default()),
        SamplerKind::DpmPlusPlus => Box::new(dpm_plus_plus::DpmPlusPlus::default()),
        SamplerKind::Euler => Box::new(euler::Euler),
    }
}

impl SamplerKind {
    /// Fails if the solver cannot walk with what a network predicts.
    ///
    /// # Errors
    /// All grids so far are those of flow matching, where the shares of clean latents and noise add up
    /// to one. What predicts noise or `v` is trained with shares whose squares do.
    pub fn check(self, prediction: Prediction) -> Result<()> {
        let predicts = match prediction {
            Prediction::Velocity => return Ok(()),
            Prediction::Noise => "noise (epsilon)",
            Prediction::V => "v",
        };
        let reason = format!(
            "{self:?} walks a flow-matching grid with velocities, and the network predicts \
             {predicts}: that needs a variance-preserving grid (alphas_cumprod), as Stable Diffusion \
             XL and Stable Video Diffusion have it, which this version does not know yet"
        );
        Err(ModelError::input("solver", reason))
    }
}

impl Solver {
    /// Starts at the first noise level of `schedule`.
    pub fn new(kind: SamplerKind, schedule: &Schedule) -> Self {
        let sigmas = schedule.sigmas().to_vec();
        Self {
            levels: Levels { sigmas, step: 0 },
            rule: rule(kind),
        }
    }

    /// Goes on after `done` steps with the memory of a solver of the same kind and schedule.
    ///
    /// # Errors
    /// The schedule has fewer steps.
    pub fn resume(
        kind: SamplerKind,
        schedule: &Schedule,
        done: usize,
        memory: SolverMemory,
    ) -> Result<Self> {
        if done > schedule.steps() {
            let reason = format!("step {done} of {}", schedule.steps());
            return Err(ModelError::input("solver state", reason));
        }
        let mut solver = Self::new(kind, schedule);
        solver.levels.step = done;
        solver.rule.recall(memory);
        Ok(solver)
    }

    /// Steps finished.
    pub fn done(&self) -> usize {
        self.levels.step
    }

    /// What must be kept after the last finished step to go on elsewhere.
    pub fn memory(&self) -> SolverMemory {
        self.rule.memory()
    }

    /// One step: from the sample at this noise level and the velocity the model predicted for it,
    /// both of one shape, to the f32 sample at the next level.
    ///
    /// # Errors
    /// All steps are done, or libtorch refuses.
    pub fn step(&mut self, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        if self.levels.step + 1 >= self.levels.sigmas.len() {
            return Err(ModelError::input("solver", "all steps are done"));
        }
        let velocity = velocity.f_to_kind(Kind::Float)?;
        let next = self.rule.step(&self.levels, &velocity, sample)?;
        self.levels.step += 1;
        Ok(next)
    }
}

/// The noise levels around the present step.
#[derive(Debug)]
struct Levels {
    sigmas: Vec<f64>,
    step: usize,
}

impl Levels {
    /// Noise level `offset` steps from the present one.
    fn sigma(&self, offset: isize) -> f64 {
        self.sigmas[self.step.wrapping_add_signed(offset)]
    }

    fn lambda(&self, offset: isize) -> f64 {
        let sigma = self.sigma(offset);
        (1.0 - sigma).ln() - sigma.ln()
    }

    fn is_first(&self) -> bool {
        self.step == 0
    }

    fn is_last(&self) -> bool {
        self.step + 2 == self.sigmas.len()
    }
}

/// Names of the clean estimates of the last steps in saved steps, newest first.
const ESTIMATES: [&str; 2] = ["estimate.0", "estimate.1"];

/// The clean estimates of the last two steps, newest first.
#[derive(Debug, Default)]
struct Estimates(Vec<Tensor>);

impl Estimates {
    fn add(&mut self, estimate: Tensor) {
        self.0.insert(0, estimate);
        self.0.truncate(ESTIMATES.len());
    }

    fn save(&self, arrays: &mut BTreeMap<String, Tensor>) {
        for (name, estimate) in ESTIMATES.into_iter().zip(&self.0) {
            arrays.insert(name.to_owned(), estimate.shallow_clone());
        }
    }

    fn take(arrays: &mut BTreeMap<String, Tensor>) -> Self {
        Self(
            ESTIMATES
                .iter()
                .filter_map(|name| arrays.remove(*name))
                .collect(),
        )
    }

    /// The estimate `steps` before the last one.
    ///
    /// # Errors
    /// There is none: what was saved is not of this solver.
    fn get(&self, steps: usize) -> Result<&Tensor> {
        let missing = || ModelError::input("solver state", format!("it has no estimate.{steps}"));
        self.0.get(steps).ok_or_else(missing)
    }
}

/// `x - sigma * v`.
fn clean_estimate(sample: &Tensor, velocity: &Tensor, sigma: f64) -> Result<Tensor> {
    combine(&[(1.0, &sample.f_to_kind(Kind::Float)?), (-sigma, velocity)])
}

/// The weighted sum of tensors.
fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let mut terms = terms.iter();
    let Some((weight, first)) = terms.next() else {
        return Err(ModelError::input("combine", "no terms"));
    };
    let mut sum = first.f_mul_scalar(*weight)?;
    for (weight, term) in terms {
        sum = sum.f_add_(&term.f_mul_scalar(*weight)?)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::sampler::{Reference, SamplerSettings};

    pub(super) fn run(
        settings: SamplerSettings,
        start: &[f64],
        velocity: impl Fn(&Tensor, f64) -> Tensor,
    ) -> Vec<Vec<f64>> {
        let schedule = Schedule::new(&settings).unwrap();
        let mut solver = Solver::new(settings.kind, &schedule);
        let mut sample = Tensor::from_slice(start).to_kind(Kind::Float);
        let mut trajectory = Vec::new();
        for &sigma in &schedule.sigmas()[..schedule.steps()] {
            sample = solver.step(&velocity(&sample, sigma), &sample).unwrap();
            trajectory.push(Vec::try_from(&sample.to_kind(Kind::Double)).unwrap());
        }
        assert!(solver.step(&sample, &sample).is_err());
        trajectory
    }

    pub(super) fn settings(
        kind: SamplerKind,
        reference: Reference,
        steps: usize,
        shift: f64,
    ) -> SamplerSettings {
        SamplerSettings {
            kind,
            reference,
            steps,
            shift,
        }
    }

    pub(super) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs() / expected.abs();
            assert!(error < tolerance, "{found} is not {expected}");
        }
    }

    /// StoryMem vectors, solver_toy: v = x - sigma / 4 in four steps with a shift of 4.
    pub(super) fn toy_trajectory(kind: SamplerKind) -> Vec<f64> {
        let settings = settings(kind, Reference::Wan, 4, 4.0);
        let trajectory = run(settings, &[1.0], |x, sigma| x - 0.25 * sigma);
        trajectory.iter().map(|sample| sample[0]).collect()
    }

    /// Specification `wan22` 5.3 and 5.4: v = tanh(x)(0.3 + sigma) - 0.2 x + 0.1.
    pub(super) fn tanh_field(x: &Tensor, sigma: f64) -> Tensor {
        x.tanh() * (0.3 + sigma) - x * 0.2 + 0.1
    }

    /// Where two values end in that field.
    pub(super) fn end_points(
        kind: SamplerKind,
        reference: Reference,
        steps: usize,
        shift: f64,
    ) -> Vec<f64> {
        let settings = settings(kind, reference, steps, shift);
        run(settings, &[0.7, -1.3], tanh_field).swap_remove(steps - 1)
    }

    /// The names are in saved steps of runs. Arrays that others have are left aside.
    #[test]
    fn a_resumed_solver_gives_the_same_bits() {
        for (kind, names) in [
            (
                SamplerKind::UniPc,
                &["corrected", "estimate.0", "estimate.1"][..],
            ),
            (SamplerKind::DpmPlusPlus, &["estimate.0", "estimate.1"]),
            (SamplerKind::Euler, &[]),
        ] {
            let schedule = Schedule::new(&settings(kind, Reference::Wan, 7, 5.0)).unwrap();
            let start = Tensor::linspace(-2.0, 2.0, 64, (Kind::Float, Device::Cpu));
            let mut whole = Solver::new(kind, &schedule);
            let mut broken = Solver::new(kind, &schedule);
            let (mut a, mut b) = (start.copy(), start);
            for (step, &sigma) in schedule.sigmas()[..7].iter().enumerate() {
                a = whole.step(&tanh_field(&a, sigma), &a).unwrap();
                b = broken.step(&tanh_field(&b, sigma), &b).unwrap();
                let memory = broken.memory();
                if step > 0 {
                    let found: Vec<_> = memory.arrays.keys().map(String::as_str).collect();
                    assert_eq!(found, names, "{kind:?}");
                }
                broken = Solver::resume(kind, &schedule, broken.done(), memory).unwrap();
                assert_eq!(a, b);
            }
        }
    }

    #[test]
    fn what_was_saved_of_another_loop_is_refused() {
        let schedule = Schedule::new(&settings(SamplerKind::UniPc, Reference::Wan, 7, 5.0));
        let schedule = schedule.unwrap();
        let resume =
            |done| Solver::resume(SamplerKind::UniPc, &schedule, done, SolverMemory::default());
        assert!(resume(8).is_err());
        let sample = Tensor::ones([3], (Kind::Float, Device::Cpu));
        let error = resume(3).unwrap().step(&sample, &sample).unwrap_err();
        assert!(error.to_string().contains("estimate.0"), "{error}");
    }

    #[test]
    fn solvers_of_flow_matching_want_velocities() {
        for kind in [
            SamplerKind::Euler,
            SamplerKind::UniPc,
            SamplerKind::DpmPlusPlus,
        ] {
            assert!(kind.check(Prediction::Velocity).is_ok());
            for (prediction, name) in [
                (Prediction::Noise, "predicts noise (epsilon)"),
                (Prediction::V, "predicts v:"),
            ] {
                let error = kind.check(prediction).unwrap_err().to_string();
                assert!(error.contains(name), "{error}");
                assert!(error.contains("variance-preserving grid"), "{error}");
            }
        }
    }
}
