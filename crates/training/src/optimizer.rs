//! AdamW with a moving average of the weights.

use storyloom_nn::tch::{Tensor, no_grad};

use crate::error::Result;
use crate::params::{Params, Tensors, shallow};
use crate::stage::in_parallel;

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

    /// Moves `params` along their gradients, which are in the order of names; `share` is the part of the
    /// learning rate that a tensor of a name moves by. Returns the length of the gradients before they
    /// are clipped.
    pub fn step(
        &mut self,
        params: &Params,
        gradients: Vec<Tensor>,
        step: u64,
        share: impl Fn(&str) -> f64,
    ) -> Result<f64> {
        let settings = self.settings;
        let length = length_of(&gradients)?;
        let count = (step + 1) as i32;
        let correction = BETA.map(|beta| 1.0 - beta.powi(count));
        let rate = settings.rate_at(step);
        let rates = |rate: f64| Rates {
            scale: (settings.clip / (length + 1e-6)).min(1.0),
            move_by: -rate / correction[0],
            correction: correction[1],
            keep: 1.0 - rate * settings.decay,
            average: 1.0 - settings.average.min((step + 1) as f64 / (step + 10) as f64),
        };
        // Every tensor is moved by one thread; which one makes no difference.
        let mut shares: [Vec<Move>; THREADS] = Default::default();
        let tensors = params.tensors().iter().zip(gradients);
        let states = self.first.values_mut().zip(self.second.values_mut());
        let states = states.zip(self.average.values_mut());
        for (place, (((name, tensor), gradient), state)) in tensors.zip(states).enumerate() {
            if gradient.defined() {
                let ((first, second), average) = state;
                shares[place % THREADS].push(Move {
                    rates: rates(rate * share(name)),
                    tensor: no_grad(|| tensor.f_detach())?,
                    gradient,
                    first,
                    second,
                    average,
                });
            }
        }
        in_parallel(shares.into_iter().map(|share| {
            move || {
                let mut moves = share.into_iter();
                no_grad(|| moves.try_for_each(Move::go))
            }
        }))?;
        Ok(length)
    }
}

/// Threads that share the tensors of a step.
const THREADS: usize = 2;

/// The length of all gradients as one vector.
fn length_of(gradients: &[Tensor]) -> Result<f64> {
    let mut squares = 0.0;
    for gradient in gradients.iter().filter(|gradient| gradient.defined()) {
        squares += no_grad(|| gradient.f_norm()?.f_double_value(&[]))?.powi(2);
    }
    Ok(squares.sqrt())
}

/// The factors of one step.
#[derive(Debug, Clone, Copy)]
struct Rates {
    /// Of the gradients.
    scale: f64,
    /// Of the first moment over the root of the second.
    move_by: f64,
    /// What is missing in the second moment, for it began as nothing.
    correction: f64,
    /// Share of matrices that the decay leaves.
    keep: f64,
    /// Share of the new values in the average.
    average: f64,
}

/// One tensor and what belongs to it.
struct Move<'a> {
    rates: Rates,
    tensor: Tensor,
    gradient: Tensor,
    first: &'a mut Tensor,
    second: &'a mut Tensor,
    average: &'a mut Tensor,
}

impl Move<'_> {
    fn go(mut self) -> Result<()> {
        let rates = self.rates;
        let gradient = self.gradient.f_mul_scalar_(rates.scale)?;
        let _ = self.first.f_lerp_(&gradient, 1.0 - BETA[0])?;
        let _ = self
            .second
            .f_mul_scalar_(BETA[1])?
            .f_addcmul_(&gradient.f_mul_scalar(1.0 - BETA[1])?, &gradient)?;
        let spread = self.second.f_div_scalar(rates.correction)?.f_sqrt_()?;
        let spread = spread.f_add_scalar(EPSILON)?;
        if self.tensor.dim() > 1 {
            let _ = self.tensor.f_mul_scalar_(rates.keep)?;
        }
        let move_by = self.first.f_div(&spread)?.f_mul_scalar_(rates.move_by)?;
        let _ = self.tensor.f_add_(&move_by)?;
        let _ = self.average.f_lerp_(&self.tensor, rates.average)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use storyloom_nn::tch::{Device, Kind};

    use super::*;

    /// A tensor that moves by half of the learning rate moves half as far, and is averaged as the others.
    #[test]
    fn a_share_of_the_rate_is_a_share_of_the_way() {
        let ones = || Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        let names = ["a", "b"].map(str::to_owned);
        let tensors = names.into_iter().map(|name| (name, ones())).collect();
        let params = Params::of(tensors, Device::Cpu).unwrap();
        let settings = AdamSettings {
            rate: 0.1,
            warm_up: 1,
            steps: 10,
            decay: 0.0,
            clip: 9.0,
            average: 0.9,
        };
        let mut optimizer = AdamW::new(settings, &params).unwrap();
        let share = |name: &str| if name == "a" { 0.5 } else { 1.0 };
        optimizer
            .step(&params, vec![ones(), ones()], 0, share)
            .unwrap();
        let moved = |name: &str| 1.0 - params.tensors()[name].double_value(&[0, 0]);
        assert!((moved("a") - 0.05).abs() < 1e-6 && (moved("b") - 0.1).abs() < 1e-6);
    }

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
