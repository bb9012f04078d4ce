//! Tensors under construction: seeded noise with a drawn pattern on top.

use storyloom_story::Seed;
use tch::{Kind, Tensor};

use storyloom_nn::error::Result;
use storyloom_nn::noise::{Stream, gaussian_values};

/// A tensor of f32 values that is being filled.
#[derive(Debug, Clone)]
pub(super) struct Sheet {
    shape: Vec<i64>,
    values: Vec<f32>,
}

impl Sheet {
    /// The values of a tensor.
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.f_to_kind(Kind::Float)?.f_flatten(0, -1)?;
        Ok(Self {
            shape: tensor.size(),
            values: Vec::try_from(&flat)?,
        })
    }

    /// All elements `value`.
    pub(super) fn constant(shape: &[i64], value: f32) -> Self {
        let count: i64 = shape.iter().product();
        Self {
            shape: shape.to_vec(),
            values: vec![value; count.unsigned_abs() as usize],
        }
    }

    /// Normal values of deviation `std` that depend on the seed and the label only.
    pub(super) fn noise(seed: Seed, label: &str, shape: &[i64], std: f32) -> Self {
        let count: i64 = shape.iter().product();
        let hash = blake3::hash(label.as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        let stream = Stream::Weights(u32::from_le_bytes([a, b, c, d]));
        let mut values = gaussian_values(seed, stream, 0..count.unsigned_abs());
        for value in &mut values {
            *value *= std;
        }
        Self {
            shape: shape.to_vec(),
            values,
        }
    }

    /// Normal values of deviation `gain / sqrt(inputs per output)`: keeps the variance of a layer.
    pub(super) fn layer(seed: Seed, label: &str, shape: &[i64], gain: f32) -> Self {
        let inputs: i64 = shape.iter().skip(1).product();
        Self::noise(seed, label, shape, gain / (inputs.max(1) as f32).sqrt())
    }

    /// The axis lengths.
    pub(super) fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Adds the values of `other`, which has the same shape.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        for (value, more) in self.values.iter_mut().zip(&other.values) {
            *value += more;
        }
        self
    }

    /// One element.
    pub(super) fn get(&self, at: &[i64]) -> f32 {
        self.values[self.flat(at)]
    }

    /// Sets one element.
    pub(super) fn set(&mut self, at: &[i64], value: f32) {
        let flat = self.flat(at);
        self.values[flat] = value;
    }

    fn flat(&self, at: &[i64]) -> usize {
        let axes = at.iter().zip(&self.shape);
        axes.fold(0, |flat, (&index, &length)| flat * length + index) as usize
    }

    /// Sets all elements of rows (indices of the first axis).
    pub(super) fn fill_rows(&mut self, rows: impl IntoIterator<Item = i64>, value: f32) {
        let row: i64 = self.shape.iter().skip(1).product();
        for index in rows {
            let start = (index * row) as usize;
            self.values[start..start + row as usize].fill(value);
        }
    }

    /// The tensor, in bf16 to halve the files (f32 readers get the same values).
    pub(super) fn tensor(&self, kind: Kind) -> Result<Tensor> {
        let tensor = Tensor::f_from_slice(&self.values)?.f_reshape(&self.shape)?;
        Ok(tensor.f_to_kind(kind)?)
    }
}
