//! The solvers in closed form (specification `wan22`, sections 5.3 to 5.5).

use storyloom_nn::error::{ModelError, Result};
use tch::{Kind, Tensor};

use super::{SamplerKind, Schedule};

/// Walks a [`Schedule`] from noise to clean latents.
///
/// Latents are f32; scalars are f64, which agrees with the references to 1e-7. There is no
/// randomness after the initial noise.
#[derive(Debug)]
pub struct Solver {
    kind: SamplerKind,
    sigmas: Vec<f64>,
    state: SolverState,
}

/// Everything a solver knows between two steps, enough to go on elsewhere with the same bits.
#[derive(Debug)]
pub struct SolverState {
    /// Steps finished.
    pub step: usize,
    /// Order of the last predictor (UniPC).
    pub order: usize,
    /// Clean estimates of the last steps, newest first, at most two.
    pub estimates: Vec<Tensor>,
    /// The corrected sample of the last step (UniPC).
    pub corrected: Option<Tensor>,
}

impl Solver {
    /// Starts at the first noise level of `schedule`.
    pub fn new(kind: SamplerKind, schedule: &Schedule) -> Self {
        let state = SolverState {
            step: 0,
            order: 0,
            estimates: Vec::new(),
            corrected: None,
        };
        Self {
            kind,
            sigmas: schedule.sigmas().to_vec(),
            state,
        }
    }

    /// Goes on from a state taken from a solver of the same kind and schedule.
    pub fn resume(kind: SamplerKind, schedule: &Schedule, state: SolverState) -> Result<Self> {
        if state.step > schedule.steps() {
            let reason = format!("step {} of {}", state.step, schedule.steps());
            return Err(ModelError::input("solver state", reason));
        }
        Ok(Self {
            kind,
            sigmas: schedule.sigmas().to_vec(),
            state,
        })
    }

    /// The state after the last finished step.
    pub fn state(&self) -> &SolverState {
        &self.state
    }

    /// Gives the state away.
    pub fn into_state(self) -> SolverState {
        self.state
    }

    /// One step: from the sample at this noise level and the velocity the model predicted for it,
    /// both f32 of one shape, to the sample at the next level.
    pub fn step(&mut self, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        if self.state.step + 1 >= self.sigmas.len() {
            return Err(ModelError::input("solver", "all steps are done"));
        }
        let velocity = velocity.f_to_kind(Kind::Float)?;
        let next = match self.kind {
            SamplerKind::UniPc => self.unipc(&velocity, sample)?,
            SamplerKind::DpmPlusPlus => self.dpm(&velocity, sample)?,
            SamplerKind::Euler => {
                let [here, there] = [self.sigma(0), self.sigma(1)];
                sample.f_add(&velocity.f_mul_scalar(there - here)?)?
            }
        };
        self.state.step += 1;
        Ok(next)
    }

    /// Noise level `offset` steps from the present one.
    fn sigma(&self, offset: isize) -> f64 {
        self.sigmas[self.state.step.wrapping_add_signed(offset)]
    }

    fn lambda(&self, offset: isize) -> f64 {
        lambda(self.sigma(offset))
    }

    fn remember(&mut self, estimate: Tensor) {
        self.state.estimates.insert(0, estimate);
        self.state.estimates.truncate(2);
    }

    fn unipc(&mut self, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let estimate = clean_estimate(sample, velocity, self.sigma(0))?;
        let corrected = match &self.state.corrected {
            Some(last) => self.unipc_correct(&estimate, last)?,
            None => sample.f_to_kind(Kind::Float)?,
        };
        let is_last = self.state.step + 2 == self.sigmas.len();
        let order = if self.state.step == 0 || is_last {
            1
        } else {
            2
        };
        let h = self.lambda(1) - self.lambda(0);
        let expm1 = (-h).exp() - 1.0;
        let alpha = 1.0 - self.sigma(1);
        let ratio = self.sigma(1) / self.sigma(0);
        let mut next = combine(&[(ratio, &corrected), (-alpha * expm1, &estimate)])?;
        if order == 2 {
            let before = &self.state.estimates[0];
            let r = (self.lambda(-1) - self.lambda(0)) / h;
            let weight = -alpha * expm1 * 0.5 / r;
            next = combine(&[(1.0, &next), (weight, before), (-weight, &estimate)])?;
        }
        self.state.corrected = Some(corrected);
        self.state.order = order;
        self.remember(estimate);
        Ok(next)
    }

    /// The corrector between the step before and this one.
    fn unipc_correct(&self, estimate: &Tensor, last: &Tensor) -> Result<Tensor> {
        let h = self.lambda(0) - self.lambda(-1);
        let expm1 = (-h).exp() - 1.0;
        let alpha = 1.0 - self.sigma(0);
        let before = &self.state.estimates[0];
        let base = [
            (self.sigma(0) / self.sigma(-1), last),
            (-alpha * expm1, before),
        ];
        let scale = -alpha * expm1;
        if self.state.order < 2 {
            let [base_last, base_before] = base;
            return combine(&[
                base_last,
                base_before,
                (scale * 0.5, estimate),
                (-scale * 0.5, before),
            ]);
        }
        let earlier = &self.state.estimates[1];
        let r = (self.lambda(-2) - self.lambda(-1)) / h;
        let k1 = expm1 / -h - 1.0;
        let b1 = k1 / expm1;
        let b2 = 2.0 * (k1 / -h - 0.5) / expm1;
        let rho1 = (b1 - b2) / (1.0 - r);
        let rho2 = b1 - rho1;
        let [base_last, base_before] = base;
        combine(&[
            base_last,
            base_before,
            (scale * rho1 / r, earlier),
            (-scale * (rho1 / r + rho2), before),
            (scale * rho2, estimate),
        ])
    }

    fn dpm(&mut self, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let estimate = clean_estimate(sample, velocity, self.sigma(0))?;
        let h = self.lambda(1) - self.lambda(0);
        let expm1 = (-h).exp() - 1.0;
        let alpha = 1.0 - self.sigma(1);
        let ratio = self.sigma(1) / self.sigma(0);
        let mut next = combine(&[(ratio, sample), (-alpha * expm1, &estimate)])?;
        let is_last = self.state.step + 2 == self.sigmas.len();
        if self.state.step > 0 && !is_last {
            // At sigma 1 lambda is -infinity: the ratio is infinite and the term vanishes.
            let r0 = (self.lambda(0) - self.lambda(-1)) / h;
            if r0.is_finite() {
                let before = &self.state.estimates[0];
                let weight = -alpha * expm1 * 0.5 / r0;
                next = combine(&[(1.0, &next), (weight, &estimate), (-weight, before)])?;
            }
        }
        self.remember(estimate);
        Ok(next)
    }
}

fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
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
    use super::*;
    use crate::sampler::{Reference, SamplerSettings};
    use tch::Device;

    fn run(
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

    fn settings(
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
            boundary: None,
        }
    }

    fn tanh_field(x: &Tensor, sigma: f64) -> Tensor {
        x.tanh() * (0.3 + sigma) - x * 0.2 + 0.1
    }

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs() / expected.abs();
            assert!(error < tolerance, "{found} is not {expected}");
        }
    }

    /// StoryMem vectors, solver_toy: v = x - sigma / 4.
    #[test]
    fn toy_trajectories_of_storymem() {
        for (kind, expected) in [
            (
                SamplerKind::UniPc,
                [0.942_277_357, 0.856_304_168, 0.714_973_942, 0.388_190_308],
            ),
            (
                SamplerKind::DpmPlusPlus,
                [0.942_307_696, 0.854_734_187, 0.711_572_289, 0.386_592_195],
            ),
        ] {
            let settings = settings(kind, Reference::Wan, 4, 4.0);
            let trajectory = run(settings, &[1.0], |x, sigma| x - 0.25 * sigma);
            let found: Vec<f64> = trajectory.iter().map(|sample| sample[0]).collect();
            assert_close(&found, &expected, 1e-6);
        }
    }

    /// Specification `wan22` 5.3 and 5.4: v = tanh(x)(0.3 + sigma) - 0.2 x + 0.1.
    #[test]
    fn end_points_of_the_tanh_field() {
        use Reference::{Diffusers, Wan};
        use SamplerKind::{DpmPlusPlus, UniPc};
        for (kind, reference, steps, shift, expected) in [
            (UniPc, Wan, 5, 5.0, [0.247_503_4, -0.847_955_5]),
            (UniPc, Diffusers, 5, 5.0, [0.246_923_9, -0.847_177_1]),
            (UniPc, Wan, 40, 12.0, [0.318_441_3, -0.957_924_0]),
            (UniPc, Diffusers, 40, 12.0, [0.317_475_7, -0.956_259_9]),
            (DpmPlusPlus, Wan, 5, 5.0, [0.243_881_6, -0.842_774_5]),
            (DpmPlusPlus, Wan, 40, 12.0, [0.318_855_7, -0.958_083_8]),
        ] {
            let trajectory = run(
                settings(kind, reference, steps, shift),
                &[0.7, -1.3],
                tanh_field,
            );
            assert_close(&trajectory[steps - 1], &expected, 2e-6);
        }
    }

    #[test]
    fn a_resumed_solver_gives_the_same_bits() {
        for kind in [
            SamplerKind::UniPc,
            SamplerKind::DpmPlusPlus,
            SamplerKind::Euler,
        ] {
            let schedule = Schedule::new(&settings(kind, Reference::Wan, 7, 5.0)).unwrap();
            let start = Tensor::linspace(-2.0, 2.0, 64, (Kind::Float, Device::Cpu));
            let mut whole = Solver::new(kind, &schedule);
            let mut broken = Solver::new(kind, &schedule);
            let (mut a, mut b) = (start.copy(), start);
            for &sigma in &schedule.sigmas()[..7] {
                a = whole.step(&tanh_field(&a, sigma), &a).unwrap();
                b = broken.step(&tanh_field(&b, sigma), &b).unwrap();
                broken = Solver::resume(kind, &schedule, broken.into_state()).unwrap();
                assert_eq!(a, b);
            }
        }
    }
}
