//! Reads attributes from pictures of the world: a small convolutional network, trained on drawn
//! pictures that are blurred, bent and discoloured as generated ones may be.
//!
//! Its weights are shipped. They are made by `storyloom train reader`.

mod accuracy;
mod network;
#[cfg(test)]
mod tests;
mod training;

use std::path::Path;

use safetensors::SafeTensors;
use storyloom_nn::tch::{Device, Kind, Tensor, no_grad};
use storyloom_story::RgbImage;
use storyloom_tinyworld::Attribute;

use crate::attribute_head;
use crate::error::{Result, TrainError};
use crate::params::{self, Tensors};

pub(crate) use accuracy::Tally;
pub use accuracy::{Accuracy, measure};
pub use training::train_reader;

/// The shipped weights, f16.
const SHIPPED: &[u8] = include_bytes!("../../weights/reader.safetensors");

/// Pictures that go through the network at once.
const BATCH: usize = 64;

/// A trained reader.
#[derive(Debug)]
pub struct Reader {
    weights: Tensors,
}

impl Reader {
    /// The shipped one.
    pub fn shipped() -> Result<Self> {
        let path = Path::new("the shipped reader");
        let wrong = |error| TrainError::bad_file(path, error);
        let file = SafeTensors::deserialize(SHIPPED).map_err(wrong)?;
        let mut weights = Tensors::new();
        for (name, view) in file.tensors() {
            let shape: Vec<i64> = view.shape().iter().map(|&axis| axis as i64).collect();
            let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Half)?;
            weights.insert(name, tensor);
        }
        Self::of(&weights)
    }

    /// One from a file that [`train_reader`] wrote.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::of(&params::read(path)?)
    }

    /// One that reads nothing right, for tests of what uses a reader.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn untrained() -> Result<Self> {
        Self::of(&network::start(storyloom_story::Seed(0))?)
    }

    fn of(weights: &Tensors) -> Result<Self> {
        let weights = no_grad(|| {
            let plain = |(name, tensor): (&String, &Tensor)| {
                Ok((name.clone(), tensor.f_to_kind(Kind::Float)?))
            };
            weights.iter().map(plain).collect::<Result<Tensors>>()
        })?;
        network::check(&weights)?;
        Ok(Self { weights })
    }

    /// Reads each picture; they may be of any size.
    pub fn read(&self, pictures: &[RgbImage]) -> Result<Vec<Reading>> {
        let mut readings = Vec::with_capacity(pictures.len());
        for batch in pictures.chunks(BATCH) {
            let inputs = batch.iter().map(input).collect::<Result<Vec<_>>>()?;
            let inputs = Tensor::f_cat(&inputs, 0)?;
            let scores = no_grad(|| network::forward(&self.weights, &inputs))?;
            readings.extend(shares(&scores)?);
        }
        Ok(readings)
    }
}

/// A picture as the network takes it: `[1, 3, HEIGHT, WIDTH]` in [-1, 1].
fn input(picture: &RgbImage) -> Result<Tensor> {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let picture = Tensor::f_from_slice(picture.data())?
        .f_view([1, height, width, 3])?
        .f_permute([0, 3, 1, 2])?
        .f_to_device(Device::Cpu)?
        .f_to_kind(Kind::Float)?
        .f_div_scalar(127.5)?
        .f_sub_scalar(1.0)?;
    let size = [network::HEIGHT, network::WIDTH];
    if [height, width] == size {
        return Ok(picture.f_contiguous()?);
    }
    Ok(picture.f_internal_upsample_bilinear2d_aa(size, false, None, None)?)
}

/// Scores `[pictures, classes of all attributes]` as shares of each attribute's classes.
pub(crate) fn shares(scores: &Tensor) -> Result<Vec<Reading>> {
    let mut columns = Vec::with_capacity(Attribute::ALL.len());
    for scores in attribute_head::columns(scores)? {
        let shares = scores.f_softmax(1, Kind::Float)?;
        columns.push(Vec::<Vec<f32>>::try_from(&shares.f_contiguous()?)?);
    }
    let pictures = columns.first().map_or(0, Vec::len);
    let reading = |picture: usize| Reading {
        shares: columns.iter().map(|rows| rows[picture].clone()).collect(),
    };
    Ok((0..pictures).map(reading).collect())
}

/// What a reader sees in a picture: for every attribute, how sure it is of each class.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    shares: Vec<Vec<f32>>,
}

impl Reading {
    /// How sure the reader is of each class, in the order of [`Attribute::classes`]; sums to 1.
    pub fn shares(&self, attribute: Attribute) -> &[f32] {
        &self.shares[attribute.index()]
    }

    /// The likeliest class.
    pub fn best(&self, attribute: Attribute) -> usize {
        let shares = self.shares(attribute).iter().enumerate();
        shares
            .max_by(|a, b| a.1.total_cmp(b.1))
            .map_or(0, |(class, _)| class)
    }

    /// What a perfect reader sees of `scene`; nothing in particular of what it does not show. For tests of
    /// what uses a reader.
    pub fn certain(scene: &storyloom_tinyworld::Scene) -> Self {
        let shares = |attribute: &Attribute| {
            let mut shares = vec![0.0; attribute.classes().len()];
            shares[attribute.of(scene).unwrap_or(0)] = 1.0;
            shares
        };
        Self {
            shares: Attribute::ALL.iter().map(shares).collect(),
        }
    }

    /// The mean of several, for example of the frames of a shot; `None` of none.
    pub fn mean(readings: &[Self]) -> Option<Self> {
        let mut sum = readings.first()?.shares.clone();
        for reading in &readings[1..] {
            for (sum, shares) in sum.iter_mut().zip(&reading.shares) {
                for (sum, share) in sum.iter_mut().zip(shares) {
                    *sum += share;
                }
            }
        }
        for share in sum.iter_mut().flatten() {
            *share /= readings.len() as f32;
        }
        Some(Self { shares: sum })
    }
}
