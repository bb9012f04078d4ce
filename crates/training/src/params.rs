//! The tensors that are trained.

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_models::checkpoint::{Checkpoint, Target, Weights};
use storyloom_models::noise::{Stream, gaussian};
use storyloom_models::tch::{Device, Kind, Tensor, no_grad};
use storyloom_models::tensor_file::{read_tensors, write_tensors};
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
}

impl Start {
    /// Normal values that keep the size of activations, times `gain`.
    pub fn fan_in(shape: &[i64], gain: f64) -> Self {
        let inputs: i64 = shape[1..].iter().product();
        Self::Normal(gain / (inputs.max(1) as f64).sqrt())
    }

    fn tensor(
        self,
        shape: &[i64],
        normal: impl Fn() -> storyloom_models::Result<Tensor>,
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
        load: impl FnOnce(&Weights) -> storyloom_models::Result<()>,
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
    load: impl FnOnce(&Weights) -> storyloom_models::Result<()>,
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
