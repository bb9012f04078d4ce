//! DPM-Solver++ 2M, midpoint (specification `wan22`, section 5.4).

use storyloom_nn::error::Result;
use tch::Tensor;

use super::{Estimates, Levels, SolverMemory, StepRule, clean_estimate, combine};

#[derive(Debug, Default)]
pub(super) struct DpmPlusPlus {
    estimates: Estimates,
}

impl StepRule for DpmPlusPlus {
    fn step(&mut self, levels: &Levels, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let estimate = clean_estimate(sample, velocity, levels.sigma(0))?;
        let h = levels.lambda(1) - levels.lambda(0);
        let expm1 = (-h).exp() - 1.0;
        let alpha = 1.0 - levels.sigma(1);
        let ratio = levels.sigma(1) / levels.sigma(0);
        let mut next = combine(&[(ratio, sample), (-alpha * expm1, &estimate)])?;
        if !levels.is_first() && !levels.is_last() {
            // At sigma 1 lambda is -infinity: the ratio is infinite and the term vanishes.
            let r0 = (levels.lambda(0) - levels.lambda(-1)) / h;
            if r0.is_finite() {
                let before = self.estimates.get(0)?;
                let weight = -alpha * expm1 * 0.5 / r0;
                next = combine(&[(1.0, &next), (weight, &estimate), (-weight, before)])?;
            }
        }
        self.estimates.add(estimate);
        Ok(next)
    }

    fn memory(&self) -> SolverMemory {
        let mut memory = SolverMemory::default();
        self.estimates.save(&mut memory.arrays);
        memory
    }

    fn recall(&mut self, mut memory: SolverMemory) {
        self.estimates = Estimates::take(&mut memory.arrays);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, end_points, toy_trajectory};
    use crate::sampler::{Reference, SamplerKind};

    #[test]
    fn toy_trajectory_of_storymem() {
        let expected = [0.942_307_696, 0.854_734_187, 0.711_572_289, 0.386_592_195];
        assert_close(&toy_trajectory(SamplerKind::DpmPlusPlus), &expected, 1e-6);
    }

    #[test]
    fn end_points_of_the_tanh_field() {
        for (steps, shift, expected) in [
            (5, 5.0, [0.243_881_6, -0.842_774_5]),
            (40, 12.0, [0.318_855_7, -0.958_083_8]),
        ] {
            let found = end_points(SamplerKind::DpmPlusPlus, Reference::Wan, steps, shift);
            assert_close(&found, &expected, 2e-6);
        }
    }
}
