//! The grid of UniPC in diffusers 0.42: shifted, from just below pure noise; timesteps are whole.

use super::{Grid, shifted, with_integer_timesteps};

pub(super) fn grid(steps: usize, shift: f64) -> Grid {
    let sigma = |i: usize| shifted(1.0 - 0.999 * i as f64 / steps as f64, shift);
    let mut sigmas: Vec<f64> = (0..steps).map(sigma).collect();
    // At sigma 1 lambda would be infinite.
    if (sigmas[0] - 1.0).abs() < 1e-6 {
        sigmas[0] -= 1e-6;
    }
    with_integer_timesteps(sigmas)
}

#[cfg(test)]
mod tests {
    use super::super::tests::schedule;
    use super::super::{Reference, SamplerKind};

    #[test]
    fn it_starts_just_below_pure_noise() {
        let grid = schedule(SamplerKind::UniPc, Reference::Diffusers, 8, 5.0);
        assert_eq!(grid.sigmas()[0], f64::from(0.999_999_f32));
        assert_eq!(grid.timesteps()[0], 999.0);
        assert_eq!(grid.sigmas()[8], 0.0);
    }
}
