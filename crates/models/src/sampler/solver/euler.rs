//! Plain Euler steps along the velocity. It remembers nothing.

use storyloom_nn::error::Result;
use tch::Tensor;

use super::{Levels, StepRule};

#[derive(Debug)]
pub(super) struct Euler;

impl StepRule for Euler {
    fn step(&mut self, levels: &Levels, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let [here, there] = [levels.sigma(0), levels.sigma(1)];
        Ok(sample.f_add(&velocity.f_mul_scalar(there - here)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, run, settings};
    use crate::sampler::{Reference, SamplerKind};

    /// A constant velocity of 2 carries the sample from level 1 to 0 by -2, exactly.
    #[test]
    fn a_constant_velocity_is_followed_to_its_end() {
        let settings = settings(SamplerKind::Euler, Reference::Wan, 4, 1.0);
        let found = run(settings, &[3.0], |x, _| x.ones_like() * 2.0);
        let found: Vec<f64> = found.iter().map(|sample| sample[0]).collect();
        assert_close(&found, &[2.5, 2.0, 1.5, 1.0], 1e-7);
    }
}
