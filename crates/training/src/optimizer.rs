//! AdamW with a moving average of the weights.

use storyloom_models::tch::{Tensor, no_grad};

use crate::error::Result;
use crate::params::{Params, Tensors, shallow};

/// What decides the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamSettings {
    /// Learning rate after the warm-up.
    pub rate: f64,
    /// Steps in which the rate rises from nothing.
    pub warm_up: u64,
    /// Step at which the rate has come down to a small share of itself; it begins to fall when
    /// seven tenths of them are done.
    pub steps: u64,
    /// Pull of matrices towards zero.
    pub decay: f64,
    /// Gradients are scaled down to this length.
    pub clip: f64,
    /// Share of the old average that is kept at each step, in the long run.
    pub average: f64,
}

/// Share of the steps with the full learning rate.
const STEADY: f64 = 0.7;
/// Share of the learning rate that is left at the end.
const FLOOR: f64 = 0.02;
const BETA: [f64; 2] = [0.9, 0.99];
const EPSILON: f64 = 1e-8;

impl AdamSettings {
    /// The learning rate at `step`, counted from 0.
    pub fn rate_at(&self, step: u64) -> f64 {
        let rise = ((step + 1) as f64 / self.warm_up.max(1) as f64).min(1.0);
        let done = (step as f64 / self.steps.max(1) as f64).min(1.0);
        let fall = ((done - STEADY) / (1.0 - STEADY)).max(0.0);
        self.rate * rise * (1.0 - (1.0 - FLOOR) * fall)
    }
}

/// The state of the optimizer.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamSettings,
    first: Tensors,
    second: Tensors,
    average: Tensors,
}

impl AdamW {
    /// A fresh state.
    pub fn new(settings: AdamSettings, params: &Params) -> Result<Self> {
        let zeros = || -> Result<Tensors> {
            let zero = |(name, tensor): (&String, &Tensor)| {
                Ok((name.clone(), no_grad(|| tensor.f_zeros_like())?))
            };
            params.tensors().iter().map(zero).collect()
        };
        let copy = |(name, tensor): (&String, &Tensor)| {
            Ok((
                name.clone(),
                no_grad(|| tensor.f_detach().map(|tensor| tensor.copy()))?,
            ))
        };
        Ok(Self {
            settings,
            first: zeros()?,
            second: zeros()?,
            average: params.tensors().iter().map(copy).collect::<Result<_>>()?,
        })
    }

    /// A state that was saved, of the same names as `params`.
    pub fn resume(settings: AdamSettings, [first, second, average]: [Tensors; 3]) -> Self {
        Self {
            settings,
            first,
            second,
            average,
        }
    }

    /// First and second moments and the average, to be saved.
    pub fn state(&self) -> [Tensors; 3] {
        [&self.first, &self.second, &self.average].map(shallow)
    }

    /// The averaged weights.
    pub fn average(&self) -> &Tensors {
        &self.average
    }

    /// Moves `params` along their gradients, which are in the order of names. Returns the length of
    /// the gradients before they are clipped.
    pub fn step(&mut self, params: &Params, gradients: Vec<Tensor>, step: u64) -> Result<f64> {
        no_grad(|| self.move_all(params, gradients, step))
    }

    fn move_all(&mut self, params: &Params, gradients: Vec<Tensor>, step: u64) -> Result<f64> {
        let settings = self.settings;
        let rate = settings.rate_at(step);
        let mut squares = 0.0;
        for gradient in gradients.iter().filter(|gradient| gradient.defined()) {
            squares += gradient.f_norm()?.f_double_value(&[])?.powi(2);
        }
        let length = squares.sqrt();
        let scale = (settings.clip / (length + 1e-6)).min(1.0);
        let count = (step + 1) as i32;
        let correction = BETA.map(|beta| 1.0 - beta.powi(count));
        let kept = settings.average.min((step + 1) as f64 / (step + 10) as f64);
        for ((name, tensor), mut gradient) in params.tensors().iter().zip(gradients) {
            if !gradient.defined() {
                continue;
            }
            let (Some(first), Some(second), Some(average)) = (
                self.first.get_mut(name),
                self.second.get_mut(name),
                self.average.get_mut(name),
            ) else {
                continue;
            };
            let mut tensor = tensor.f_detach()?;
            gradient = gradient.f_mul_scalar_(scale)?;
            let _ = first.f_lerp_(&gradient, 1.0 - BETA[0])?;
            let _ = second
                .f_mul_scalar_(BETA[1])?
                .f_addcmul_(&gradient.f_mul_scalar(1.0 - BETA[1])?, &gradient)?;
            let spread = second.f_div_scalar(correction[1])?.f_sqrt_()?;
            let spread = spread.f_add_scalar(EPSILON)?;
            if tensor.dim() > 1 {
                let _ = tensor.f_mul_scalar_(1.0 - rate * settings.decay)?;
            }
            let move_by = first.f_div(&spread)?.f_mul_scalar_(-rate / correction[0])?;
            let _ = tensor.f_add_(&move_by)?;
            let _ = average.f_lerp_(&tensor, 1.0 - kept)?;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let settings = AdamSettings {
            rate: 1.0,
            warm_up: 10,
            steps: 100,
            decay: 0.0,
            clip: 1.0,
            average: 0.9,
        };
        assert!((settings.rate_at(0) - 0.1).abs() < 1e-3);
        assert!(settings.rate_at(9) > 0.95);
        assert!((settings.rate_at(100) - FLOOR).abs() < 1e-9);
        assert!((settings.rate_at(1000) - FLOOR).abs() < 1e-9);
        assert!((10..70).all(|step| settings.rate_at(step) == 1.0));
        assert!((70..100).all(|step| settings.rate_at(step + 1) < settings.rate_at(step)));
    }
}
