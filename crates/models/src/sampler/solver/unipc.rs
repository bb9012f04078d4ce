//! UniPC of order 2 with `B(h) = exp(h) - 1` ("bh2"), predicting clean latents (specification `wan22`,
//! section 5.3).

use storyloom_nn::error::Result;
use tch::{Kind, Tensor};

use super::{Estimates, Levels, SolverMemory, StepRule, clean_estimate, combine};

/// Name of the corrected sample in saved steps.
const CORRECTED: &str = "corrected";

#[derive(Debug, Default)]
pub(super) struct UniPc {
    /// Order of the last predictor.
    order: usize,
    estimates: Estimates,
    /// The corrected sample of the last step.
    corrected: Option<Tensor>,
}

impl StepRule for UniPc {
    fn step(&mut self, levels: &Levels, velocity: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let estimate = clean_estimate(sample, velocity, levels.sigma(0))?;
        let corrected = match &self.corrected {
            Some(last) => self.correct(levels, &estimate, last)?,
            None => sample.f_to_kind(Kind::Float)?,
        };
        let order = match levels.is_first() || levels.is_last() {
            true => 1,
            false => 2,
        };
        let h = levels.lambda(1) - levels.lambda(0);
        let expm1 = (-h).exp() - 1.0;
        let alpha = 1.0 - levels.sigma(1);
        let ratio = levels.sigma(1) / levels.sigma(0);
        let mut next = combine(&[(ratio, &corrected), (-alpha * expm1, &estimate)])?;
        if order == 2 {
            let before = self.estimates.get(0)?;
            let r = (levels.lambda(-1) - levels.lambda(0)) / h;
            let weight = -alpha * expm1 * 0.5 / r;
            next = combine(&[(1.0, &next), (weight, before), (-weight, &estimate)])?;
        }
        self.corrected = Some(corrected);
        self.order = order;
        self.estimates.add(estimate);
        Ok(next)
    }

    fn memory(&self) -> SolverMemory {
        let mut memory = SolverMemory {
            order: self.order,
            ..SolverMemory::default()
        };
        self.estimates.save(&mut memory.arrays);
        if let Some(corrected) = &self.corrected {
            let corrected = corrected.shallow_clone();
            memory.arrays.insert(CORRECTED.to_owned(), corrected);
        }
        memory
    }

    fn recall(&mut self, mut memory: SolverMemory) {
        self.order = memory.order;
        self.estimates = Estimates::take(&mut memory.arrays);
        self.corrected = memory.arrays.remove(CORRECTED);
    }
}

impl UniPc {
    /// The corrector between the step before and this one.
    fn correct(&self, levels: &Levels, estimate: &Tensor, last: &Tensor) -> Result<Tensor> {
        let h = levels.lambda(0) - levels.lambda(-1);
        let expm1 = (-h).exp() - 1.0;
        let alpha = 1.0 - levels.sigma(0);
        let before = self.estimates.get(0)?;
        let base = [
            (levels.sigma(0) / levels.sigma(-1), last),
            (-alpha * expm1, before),
        ];
        let scale = -alpha * expm1;
        if self.order < 2 {
            let [base_last, base_before] = base;
            return combine(&[
                base_last,
                base_before,
                (scale * 0.5, estimate),
                (-scale * 0.5, before),
            ]);
        }
        let earlier = self.estimates.get(1)?;
        let r = (levels.lambda(-2) - levels.lambda(-1)) / h;
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_close, end_points, toy_trajectory};
    use crate::sampler::Reference::{Diffusers, Wan};
    use crate::sampler::SamplerKind::UniPc;

    #[test]
    fn toy_trajectory_of_storymem() {
        let expected = [0.942_277_357, 0.856_304_168, 0.714_973_942, 0.388_190_308];
        assert_close(&toy_trajectory(UniPc), &expected, 1e-6);
    }

    #[test]
    fn end_points_of_the_tanh_field() {
        for (reference, steps, shift, expected) in [
            (Wan, 5, 5.0, [0.247_503_4, -0.847_955_5]),
            (Diffusers, 5, 5.0, [0.246_923_9, -0.847_177_1]),
            (Wan, 40, 12.0, [0.318_441_3, -0.957_924_0]),
            (Diffusers, 40, 12.0, [0.317_475_7, -0.956_259_9]),
        ] {
            let found = end_points(UniPc, reference, steps, shift);
            assert_close(&found, &expected, 2e-6);
        }
    }
}
