//! Euler steps that put fresh noise in at every level (diffusers `stochastic_sampling`).

use storyloom_nn::error::{ModelError, Result};
use tch::Tensor;

use crate::sampler::Schedule;

/// One step from noise level `step` of `schedule` to the next: the estimate of the clean latents from `sample` and
/// its `velocity`, and as much `noise` as the next level has. All are f32 of one shape. It remembers nothing.
///
/// # Errors
/// There is no such step, or the shapes differ.
pub fn stochastic_step(
    schedule: &Schedule,
    step: usize,
    velocity: &Tensor,
    sample: &Tensor,
    noise: &Tensor,
) -> Result<Tensor> {
    let (Some(here), Some(there)) = (schedule.sigmas().get(step), schedule.sigmas().get(step + 1))
    else {
        let reason = format!("step {step} of {}", schedule.steps());
        return Err(ModelError::input("solver", reason));
    };
    let clean = sample.f_sub(&velocity.f_mul_scalar(*here)?)?;
    let kept = clean.f_mul_scalar(1.0 - there)?;
    Ok(kept.f_add(&noise.f_mul_scalar(*there)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::FlowConfig;
    use storyloom_nn::testing::vectors::{assert_begins, flux_vector};

    #[test]
    fn steps_are_those_of_diffusers() {
        let schedule = FlowConfig::dev().schedule(4, 1024).unwrap();
        let mut sample = Tensor::from_slice(&[1.5_f32, -2.0, 0.25]);
        let expected = flux_vector("stochastic_trace/samples");
        for step in 0..4_u8 {
            let times = f64::from(step + 1);
            let velocity = Tensor::from_slice(&[0.25_f32, -0.5, 1.0]) * times;
            let noise = Tensor::from_slice(&[0.1_f32, -0.2, 0.3]) * times;
            let step = usize::from(step);
            sample = stochastic_step(&schedule, step, &velocity, &sample, &noise).unwrap();
            assert_begins("trace", &sample, &expected[step], 1e-6);
        }
        assert!(stochastic_step(&schedule, 4, &sample, &sample, &sample).is_err());
    }
}
