//! The tensors that are trained.

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Kind, Tensor, no_grad};
use storyloom_nn::tensor_file::{read_tensors, write_tensors};
use storyloom_story::Seed;

use crate::error::{Result, TrainError};

/// Tensors by name, in f32.
pub type Tensors = BTreeMap<String, Tensor>;

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// All elements this value.
    Constant(f64),
    /// Normal values of this deviation.
    Normal(f64),
    /// A convolution over time that sees the present frame alone at first, with normal values that
    /// keep the size of activations, times this.
    Present(f64),
    /// A convolution over time that averages the last two frames.
    Halve,
    /// A convolution over time, with twice as many outputs, that repeats the present frame.
    Double,
    /// Scores of distances, `[buckets, heads]`, of which the second half is of words that follow:
    /// each head looks at the neighbour that [`NEIGHBOURS`] has for it. From scores without
    /// preferences a small text encoder does not find out that the order of words matters: after
    /// 6,000 steps it took captions for bags of words.
    Neighbours,
}

/// Distances that the heads of a text encoder look at to begin with, in turn.
const NEIGHBOURS: [i64; 4] = [1, -1, 2, -2];
/// Score of such a neighbour; those of words have a deviation of about 1.
const NEAR: f64 = 4.0;

impl Start {
    /// Normal values that keep the size of activations, times `gain`.
    pub fn fan_in(shape: &[i64], gain: f64) -> Self {
        let inputs: i64 = shape[1..].iter().product();
        Self::Normal(gain / (inputs.max(1) as f64).sqrt())
    }

    fn tensor(
        self,
        shape: &[i64],
        normal: impl Fn() -> storyloom_nn::Result<Tensor>,
    ) -> Result<Tensor> {
        let options = (Kind::Float, Device::Cpu);
        let zeros = || Tensor::f_zeros(shape, options);
        Ok(match self {
            Self::Constant(value) => Tensor::f_full(shape, value, options)?,
            Self::Normal(deviation) => normal()?.f_mul_scalar(deviation)?,
            Self::Present(gain) => {
                let inputs = shape[1] * shape[3] * shape[4];
                let weight = normal()?.f_mul_scalar(gain / (inputs as f64).sqrt())?;
                let _ = weight.f_narrow(2, 0, shape[2] - 1)?.f_zero_()?;
                weight
            }
            Self::Halve => {
                let weight = zeros()?;
                let same = Tensor::f_eye(shape[0], options)?.f_view([shape[0], -1, 1, 1, 1])?;
                let both = same
                    .f_mul_scalar(0.5)?
                    .f_expand([-1, -1, 2, -1, -1], false)?;
                weight.f_narrow(2, 1, 2)?.f_copy_(&both)?;
                weight
            }
            Self::Neighbours => {
                let table = normal()?.f_mul_scalar(0.1)?;
                for (head, &distance) in (0..shape[1]).zip(NEIGHBOURS.iter().cycle()) {
                    let half = if distance > 0 { shape[0] / 2 } else { 0 };
                    let near = table.f_select(0, half + distance.abs())?;
                    let _ = near.f_select(0, head)?.f_add_scalar_(NEAR)?;
                }
                table
            }
            Self::Double => {
                let weight = zeros()?;
                let same = Tensor::f_eye(shape[1], options)?.f_repeat([2, 1])?;
                let same = same.f_view([shape[0], shape[1], 1, 1, 1])?;
                weight.f_narrow(2, 2, 1)?.f_copy_(&same)?;
                weight
            }
        })
    }
}

/// The leaves that gradients are collected at.
#[derive(Debug)]
pub struct Params {
    tensors: Tensors,
}

impl Params {
    /// New tensors for everything that `load` asks for.
    pub fn start(
        seed: Seed,
        label: &str,
        device: Device,
        load: impl FnOnce(&Weights) -> storyloom_nn::Result<()>,
        start: impl Fn(&str, &[i64]) -> Start,
    ) -> Result<Self> {
        let mut tensors = Tensors::new();
        for (name, shape) in layout(load)? {
            let hash = blake3::hash(format!("{label}/{name}").as_bytes());
            let [a, b, c, d, ..] = *hash.as_bytes();
            let stream = Stream::Weights(u32::from_le_bytes([a, b, c, d]));
            let normal = || gaussian(seed, stream, &shape);
            let tensor = start(&name, &shape).tensor(&shape, normal)?;
            tensors.insert(name, tensor);
        }
        Self::of(tensors, device)
    }

    /// Leaves with these values.
    pub fn of(tensors: Tensors, device: Device) -> Result<Self> {
        let leaf = |(name, tensor): (String, Tensor)| {
            let placed = no_grad(|| tensor.f_to_device(device)?.f_to_kind(Kind::Float))?;
            let copy = no_grad(|| placed.copy());
            Ok::<_, TrainError>((name, copy.f_set_requires_grad(true)?))
        };
        let tensors = tensors.into_iter().map(leaf).collect::<Result<_>>()?;
        Ok(Self { tensors })
    }

    /// The same leaves, with the values of `by` where it has one of that name.
    pub fn replaced(self, by: Tensors) -> Result<Self> {
        let mut tensors = self.tensors;
        for (name, tensor) in by {
            if let Some(old) = tensors.get_mut(&name) {
                let tensor = no_grad(|| tensor.f_to_device(old.device()))?;
                *old = tensor.f_detach()?.copy().f_set_requires_grad(true)?;
            }
        }
        Ok(Self { tensors })
    }

    /// Other leaves that are changed when these are, and have gradients of their own.
    pub fn on_the_same_memory(&self) -> Result<Self> {
        let leaf = |(name, tensor): (&String, &Tensor)| {
            Ok((name.clone(), tensor.f_detach()?.f_set_requires_grad(true)?))
        };
        let tensors = self.tensors.iter().map(leaf).collect::<Result<_>>()?;
        Ok(Self { tensors })
    }

    /// By name.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.tensors.values().map(Tensor::numel).sum()
    }

    /// The tensors themselves as a checkpoint that networks load from.
    pub fn checkpoint(&self) -> Checkpoint {
        checkpoint_of(&self.tensors)
    }
}

/// f32 on `device`, as everything here is trained.
pub fn plain_on(device: Device) -> Target {
    Target {
        kind: Kind::Float,
        device,
    }
}

/// A checkpoint that hands these tensors out.
pub fn checkpoint_of(tensors: &Tensors) -> Checkpoint {
    Checkpoint::from_tensors(shallow(tensors), serde_json::Value::Null)
}

/// The same tensors again.
pub fn shallow(tensors: &Tensors) -> Tensors {
    let clone = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.shallow_clone());
    tensors.iter().map(clone).collect()
}

/// Names and shapes of everything that `load` asks for.
pub fn layout(
    load: impl FnOnce(&Weights) -> storyloom_nn::Result<()>,
) -> Result<Vec<(String, Vec<i64>)>> {
    let nothing = Checkpoint::from_tensors(Tensors::new(), serde_json::Value::Null);
    let weights = nothing.weights(Target::CPU_F32);
    load(&weights)?;
    let mut layout = weights.asked_for();
    layout.sort();
    Ok(layout)
}

/// Writes tensors to one file, which is complete or not there.
pub fn save(path: &Path, tensors: &Tensors) -> Result<()> {
    let views: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    Ok(write_tensors(path, &views)?)
}

/// Reads what [`save`] wrote, as copies in memory.
pub fn read(path: &Path) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for (name, tensor) in read_tensors(path)? {
        tensors.insert(name, no_grad(|| tensor.copy()));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_begin_with_neighbours() {
        let zeros = || Ok(Tensor::zeros([32, 5], (Kind::Float, Device::Cpu)));
        let table = Start::Neighbours.tensor(&[32, 5], zeros).unwrap();
        let near = table.argmax(0, false);
        let near = Vec::<i64>::try_from(&near).unwrap();
        // Distances 1, -1, 2, -2 and 1 again, as T5 numbers them.
        assert_eq!(near, [17, 1, 18, 2, 17]);
        assert_eq!(table.sum(Kind::Float).double_value(&[]), 5.0 * NEAR);
    }

    #[test]
    fn only_known_tensors_are_replaced() {
        let tensors = |names: &[&str], value: f64| -> Tensors {
            let full = || Tensor::full([2], value, (Kind::Float, Device::Cpu));
            names
                .iter()
                .map(|&name| (name.to_owned(), full()))
                .collect()
        };
        let params = Params::of(tensors(&["a", "b"], 1.0), Device::Cpu).unwrap();
        let params = params.replaced(tensors(&["b", "c"], 2.0)).unwrap();
        let values: Vec<_> = params.tensors().iter().collect();
        assert_eq!(values.len(), 2);
        for ((name, tensor), value) in values.into_iter().zip([1.0, 2.0]) {
            assert_eq!(tensor.double_value(&[0]), value, "{name}");
            assert!(tensor.requires_grad());
        }
    }
}
