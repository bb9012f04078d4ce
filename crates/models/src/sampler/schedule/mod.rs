//! Grids of noise levels (specification `wan22`, section 5.2), one file each.

mod diffusers_euler;
mod diffusers_unipc;
mod flow;
mod wan_linear;
mod wan_unipc;

use storyloom_nn::error::{ModelError, Result};

pub use flow::{FlowConfig, TimeShift, even_sigmas};

use super::kind::{Reference, SamplerKind};

/// Timesteps are noise levels times this.
const TRAIN_TIMESTEPS: f64 = 1000.0;

/// What decides a grid and who walks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// The solver.
    pub kind: SamplerKind,
    /// Whose grid.
    pub reference: Reference,
    /// Number of steps.
    pub steps: usize,
    /// Flow shift; larger spends more steps at high noise.
    pub shift: f64,
}

/// A grid: `steps + 1` noise levels, the last 0 (1 where levels rise), and the timestep the model is told at each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    sigmas: Vec<f64>,
    timesteps: Vec<f64>,
}

/// Noise levels of the steps without the last 0, and their timesteps.
type Grid = (Vec<f64>, Vec<f64>);

impl Schedule {
    /// Computes the grid of `settings`.
    ///
    /// # Errors
    /// There is no step, or the shift is not positive.
    pub fn new(settings: &SamplerSettings) -> Result<Self> {
        let (steps, shift) = (settings.steps, settings.shift);
        if steps == 0 {
            let reason = "at least one step is needed";
            return Err(ModelError::input("sampler.steps", reason));
        }
        if !(shift.is_finite() && shift > 0.0) {
            let reason = format!("{shift} is not positive");
            return Err(ModelError::input("sampler.shift", reason));
        }
        let grid = match (settings.kind, settings.reference) {
            (SamplerKind::UniPc, Reference::Wan) => wan_unipc::grid,
            (SamplerKind::UniPc, Reference::Diffusers) => diffusers_unipc::grid,
            (SamplerKind::Euler, Reference::Diffusers) => diffusers_euler::grid,
            (SamplerKind::DpmPlusPlus, _) | (SamplerKind::Euler, Reference::Wan) => {
                wan_linear::grid
            }
        };
        let (mut sigmas, timesteps) = grid(steps, shift);
        sigmas.push(0.0);
        Ok(Self { sigmas, timesteps })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// Noise levels, `steps + 1` of them, falling to 0 but for a grid that is inverted. Each is an f32 value, as in the
    /// references.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// What the model is told at each step.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// Whether the timestep of `step` is at or above the noise level `down_to`.
    pub fn is_above(&self, step: usize, down_to: f64) -> bool {
        self.timesteps[step] >= down_to * TRAIN_TIMESTEPS
    }

    /// How many steps have their timestep at or above the noise level `down_to`.
    pub fn steps_above(&self, down_to: f64) -> usize {
        (0..self.steps())
            .filter(|&step| self.is_above(step, down_to))
            .count()
    }
}

/// The flow shift of a noise level.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// The solvers of the references hold noise levels in f32.
fn as_f32(sigma: f64) -> f64 {
    f64::from(sigma as f32)
}

/// A grid whose timesteps are rounded down to whole numbers.
fn with_integer_timesteps(sigmas: Vec<f64>) -> Grid {
    let timesteps = sigmas
        .iter()
        .map(|sigma| (sigma * TRAIN_TIMESTEPS).trunc())
        .collect();
    (sigmas.into_iter().map(as_f32).collect(), timesteps)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn schedule(
        kind: SamplerKind,
        reference: Reference,
        steps: usize,
        shift: f64,
    ) -> Schedule {
        Schedule::new(&SamplerSettings {
            kind,
            reference,
            steps,
            shift,
        })
        .unwrap()
    }

    #[test]
    fn the_two_references_differ_most_at_the_last_step() {
        let diffusers = schedule(SamplerKind::UniPc, Reference::Diffusers, 40, 12.0);
        let wan = schedule(SamplerKind::UniPc, Reference::Wan, 40, 12.0);
        assert!((diffusers.sigmas()[39] - 0.24243).abs() < 1e-5);
        assert!((wan.sigmas()[39] - 0.23511).abs() < 1e-5);
        let differing = diffusers
            .timesteps()
            .iter()
            .zip(wan.timesteps())
            .filter(|(a, b)| a != b);
        assert_eq!(differing.count(), 19);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = SamplerSettings {
            kind: SamplerKind::Euler,
            reference: Reference::Wan,
            steps: 1,
            shift: 1.0,
        };
        assert!(Schedule::new(&good).is_ok());
        assert!(Schedule::new(&SamplerSettings { steps: 0, ..good }).is_err());
        assert!(Schedule::new(&SamplerSettings { shift: 0.0, ..good }).is_err());
        let shift = f64::NAN;
        assert!(Schedule::new(&SamplerSettings { shift, ..good }).is_err());
    }
}
