//! The grid of Euler in diffusers 0.42. The shift is applied twice: to the end points and to every
//! level. Timesteps are not rounded.

use super::{Grid, TRAIN_TIMESTEPS, as_f32, shifted};

pub(super) fn grid(steps: usize, shift: f64) -> Grid {
    let last = shifted(0.001, shift);
    let span = (steps.max(2) - 1) as f64;
    let sigma = |i: usize| shifted(1.0 + (last - 1.0) * i as f64 / span, shift);
    let sigmas: Vec<f64> = (0..steps).map(sigma).map(as_f32).collect();
    let timesteps = sigmas.iter().map(|sigma| sigma * TRAIN_TIMESTEPS).collect();
    (sigmas, timesteps)
}

#[cfg(test)]
mod tests {
    use super::super::tests::schedule;
    use super::super::{Reference, SamplerKind, as_f32, shifted};

    #[test]
    fn the_last_level_is_shifted_twice() {
        let grid = schedule(SamplerKind::Euler, Reference::Diffusers, 5, 3.0);
        assert_eq!(grid.sigmas()[0], 1.0);
        assert_eq!(grid.sigmas()[4], as_f32(shifted(shifted(0.001, 3.0), 3.0)));
        assert_eq!(grid.timesteps()[4], grid.sigmas()[4] * 1000.0);
    }
}
