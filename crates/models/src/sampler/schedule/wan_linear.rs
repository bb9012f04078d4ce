//! The grid of DPM-Solver++ and Euler in the original Wan2.2 code: from pure noise down, shifted, in
//! equal steps before the shift; timesteps are whole.

use super::{Grid, shifted, with_integer_timesteps};

pub(super) fn grid(steps: usize, shift: f64) -> Grid {
    let sigma = |i: usize| shifted(1.0 - i as f64 / steps as f64, shift);
    with_integer_timesteps((0..steps).map(sigma).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::schedule;
    use super::super::{Reference, SamplerKind};

    /// StoryMem vectors: dpm++ starts at sigma 1, timestep 1000.
    #[test]
    fn dpm_starts_at_pure_noise() {
        let m2v = schedule(SamplerKind::DpmPlusPlus, Reference::Wan, 40, 4.0);
        assert_eq!(m2v.sigmas()[0], 1.0);
        assert_eq!(m2v.timesteps()[..4], [1000.0, 993.0, 987.0, 980.0]);
        assert_eq!(m2v.timesteps()[36..], [307.0, 244.0, 173.0, 93.0]);
        assert_eq!(m2v.steps_above(0.9), 13);
    }
}
