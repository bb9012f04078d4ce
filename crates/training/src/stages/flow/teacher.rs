//! Distillation: a student takes one step where its teacher, guided, takes several.

use storyloom_models::sampler::{Reference, SamplerKind, SamplerSettings, Schedule};
use storyloom_nn::tch::Tensor;
use storyloom_tinyworld::draws::Draws;

use super::{FlowModel, StepPart, column};
use crate::error::Result;
use crate::params::{Tensors, checkpoint_of, plain_on};
use crate::words::Tokens;

/// Distillation: the student learns to take one step where its teacher, guided, takes several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distil {
    /// Steps of the student.
    pub steps: usize,
    /// Flow shift of the student's steps.
    pub shift: f64,
    /// Guidance of the teacher by its captions.
    pub guidance: f64,
    /// Guidance of the teacher by its memory: how much of the way from what it makes of another
    /// story's memory to what it makes of the right one is gone once more; 0 for none.
    pub recall: f64,
    /// Steps of the teacher for each of the student.
    pub substeps: usize,
}

impl Distil {
    /// The noise levels of the student, the last 0: those of Euler's method in our sampler.
    pub(super) fn grid(&self) -> Result<Vec<f64>> {
        let settings = SamplerSettings {
            kind: SamplerKind::Euler,
            reference: Reference::Wan,
            steps: self.steps,
            shift: self.shift,
        };
        Ok(Schedule::new(&settings)?.sigmas().to_vec())
    }

    /// Draws a step of the student for each of `samples`: the noise levels before and after it.
    pub(super) fn steps_of(&self, draws: &mut Draws, samples: usize) -> Result<[Vec<f64>; 2]> {
        let grid = self.grid()?;
        let first: Vec<usize> = (0..samples).map(|_| draws.below(self.steps)).collect();
        let levels = |later: usize| first.iter().map(|&step| grid[step + later]).collect();
        Ok([levels(0), levels(1)])
    }

    /// The mean velocity on the teacher's way from `noisy`, at noise levels `from`, to the levels `to`:
    /// `field` says the velocity of a sample at its levels.
    pub(super) fn way(
        &self,
        noisy: &Tensor,
        [from, to]: [&[f64]; 2],
        field: impl Fn(&Tensor, &[f64]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let share = 1.0 / self.substeps as f64;
        let pairs = from.iter().zip(to);
        let strides: Vec<f64> = pairs.map(|(from, to)| share * (from - to)).collect();
        let stride = column(&strides, noisy.device())?;
        let mut sigmas = from.to_vec();
        let mut sample = noisy.shallow_clone();
        let mut sum = noisy.f_zeros_like()?;
        for _ in 0..self.substeps {
            let velocity = field(&sample, &sigmas)?;
            sample = sample.f_sub(&velocity.f_mul(&stride)?)?;
            sum = sum.f_add(&velocity)?;
            for (sigma, stride) in sigmas.iter_mut().zip(&strides) {
                *sigma -= stride;
            }
        }
        Ok(sum.f_mul_scalar(share)?)
    }

    /// The velocity of the teacher: `wanted` with its guidance away from `base`, that of an empty
    /// caption, and from `other`, that of another story's memory.
    pub(super) fn guided(
        &self,
        wanted: &Tensor,
        base: &Tensor,
        other: Option<&Tensor>,
    ) -> Result<Tensor> {
        let guided = wanted.f_sub(base)?.f_mul_scalar(self.guidance)?;
        let velocity = base.f_add(&guided)?;
        let Some(other) = other else {
            return Ok(velocity);
        };
        let recalled = wanted.f_sub(other)?.f_mul_scalar(self.recall)?;
        Ok(velocity.f_add(&recalled)?)
    }
}

/// Who shows where a step should lead.
pub(super) struct Teacher {
    pub(super) tensors: Tensors,
    pub(super) distil: Distil,
    /// Noise level after the step of each sample.
    pub(super) next: Vec<f64>,
    pub(super) empty: Tokens,
}

impl Teacher {
    /// The mean velocity on the teacher's way from `noisy` at `sigmas` to the next levels.
    pub(super) fn velocity(&self, part: &StepPart, noisy: &Tensor) -> Result<Tensor> {
        let checkpoint = checkpoint_of(&self.tensors);
        let model = FlowModel::load(&checkpoint.weights(plain_on(part.device)), &part.shape)?;
        let with = model.context(&part.tokens)?;
        let without = model.context(&self.empty)?;
        let (positions, memory) = (&part.batch.positions, part.batch.memory as i64);
        let levels = [part.sigmas.as_slice(), &self.next];
        self.distil.way(noisy, levels, |sample, sigmas| {
            let hidden = part.hidden(sample)?;
            let wanted = model.velocity(&hidden, sigmas, positions, &with)?;
            let base = model.velocity(&hidden, sigmas, positions, &without)?;
            let other = match memory > 0 && self.distil.recall > 0.0 {
                true => {
                    let hidden = part.misremembered(&hidden, sigmas)?;
                    let other = model.velocity(&hidden, sigmas, positions, &with)?;
                    // What is made of the memory pictures themselves is as it was.
                    let own = wanted.f_narrow(2, 0, memory)?;
                    other.f_narrow(2, 0, memory)?.f_copy_(&own)?;
                    Some(other)
                }
                false => None,
            };
            self.distil.guided(&wanted, &base, other.as_ref())
        })
    }
}

impl StepPart {
    /// `hidden`, at noise levels `sigmas`, with the memory pictures of the next sample in the place of
    /// those of each.
    pub(super) fn misremembered(&self, hidden: &Tensor, sigmas: &[f64]) -> Result<Tensor> {
        let (memory, channels) = (self.batch.memory as i64, self.batch.clean.size()[1]);
        let pictures = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_narrow(2, 0, memory)?.f_to_device(self.device)?)
        };
        let (clean, noise) = (pictures(&self.batch.clean)?, pictures(&self.noise)?);
        let clean = clean.f_roll([1], [0])?;
        let noisy = self.noisy(&clean, &noise.f_sub(&clean)?, sigmas)?;
        let condition = hidden.f_narrow(1, channels, hidden.size()[1] - channels)?;
        let others = Tensor::f_cat(&[noisy, pictures(&condition)?.f_roll([1], [0])?], 1)?;
        let made = hidden.f_narrow(2, memory, hidden.size()[2] - memory)?;
        Ok(Tensor::f_cat(&[others, made], 2)?)
    }
}

#[cfg(test)]
mod tests {
    use storyloom_nn::noise::{Stream, gaussian};
    use storyloom_nn::tch::Device;
    use storyloom_story::Seed;

    use super::*;
    use crate::attribute_head::Answers;
    use crate::preset::Preset;
    use crate::stages::flow::{Batch, FlowShape};
    use crate::words::Words;

    #[test]
    fn the_memory_of_another_sample_has_its_noise_level() {
        let folder = tempfile::tempdir().unwrap();
        let words = Words::write(folder.path()).unwrap();
        let shape = Preset::test().shape;
        let normal = |seed, size: &[i64]| gaussian(Seed(seed), Stream::Shot, size).unwrap();
        let (clean, noise) = (normal(1, &[2, 4, 3, 2, 2]), normal(2, &[2, 4, 3, 2, 2]));
        let condition = normal(3, &[2, 8, 3, 2, 2]);
        let part = StepPart {
            shape: FlowShape {
                transformer: shape.transformer(true).unwrap(),
                text: shape.text_encoder(words.rows()).unwrap(),
            },
            tokens: words.encode(&[String::new(), String::new()]).unwrap(),
            batch: Batch {
                clean: clean.shallow_clone(),
                emphasis: clean.ones_like(),
                condition: Some(condition.shallow_clone()),
                memory: 2,
                positions: vec![-5, -1, 0],
                captions: vec![String::new(); 2],
                told: Answers::default(),
            },
            noise: noise.shallow_clone(),
            sigmas: vec![0.75, 0.25],
            teacher: None,
            frozen: Tensors::new(),
            adapters: None,
            device: Device::Cpu,
        };
        let made = normal(4, &[2, 4, 3, 2, 2]);
        let hidden = part.hidden(&made).unwrap();
        let others = part.misremembered(&hidden, &part.sigmas).unwrap();
        assert_eq!(others.size(), hidden.size());
        // What is being made, and what is given for it, is the sample's own.
        assert_eq!(others.narrow(2, 2, 1), hidden.narrow(2, 2, 1));
        for (sample, other, sigma) in [(0, 1, 0.75), (1, 0, 0.25)] {
            let of = |tensor: &Tensor, place| tensor.select(0, place).narrow(1, 0, 2);
            let noisy = of(&clean, other) * (1.0 - sigma) + of(&noise, sample) * sigma;
            let found = of(&others, sample);
            assert!(found.narrow(0, 0, 4).allclose(&noisy, 1e-5, 1e-6, false));
            assert_eq!(found.narrow(0, 4, 8), of(&condition, other));
        }
    }
}
