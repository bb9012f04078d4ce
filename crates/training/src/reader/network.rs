//! The network: convolutions down to squares of eight pixels, and a head among these.
//!
//! Things may stand anywhere. A last layer that knew every place by itself read 74 % of the markings
//! after as many pictures.

use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Kind, Tensor};
use storyloom_story::Seed;

use crate::attribute_head::{self, AttributeHead};
use crate::error::{Result, TrainError};
use crate::params::Tensors;

/// Rows of a picture.
pub const HEIGHT: i64 = 96;
/// Columns of a picture.
pub const WIDTH: i64 = 160;
/// Width and height.
pub const SIZE: [u32; 2] = [WIDTH as u32, HEIGHT as u32];

/// Side of the squares of pixels that are taken as one.
const SQUARE: i64 = 2;
/// Channels that are normalised together.
const GROUP: i64 = 8;
/// The convolutions.
const LAYERS: [Layer; 6] = [
    Layer::plain(3 * SQUARE * SQUARE, 24, 1),
    Layer::plain(24, 48, 2),
    Layer::beside(48, 1),
    Layer::plain(48, 96, 2),
    Layer::beside(96, 1),
    Layer::beside(96, 2),
];
/// Channels that votes are made of.
const FEATURES: i64 = 96;

/// A convolution of 3x3, normalised.
struct Layer {
    inputs: i64,
    outputs: i64,
    stride: i64,
    dilation: i64,
    /// Whether it is added to what it sees.
    is_beside: bool,
}

impl Layer {
    const fn plain(inputs: i64, outputs: i64, stride: i64) -> Self {
        Self {
            inputs,
            outputs,
            stride,
            dilation: 1,
            is_beside: false,
        }
    }

    const fn beside(channels: i64, dilation: i64) -> Self {
        Self {
            dilation,
            is_beside: true,
            ..Self::plain(channels, channels, 1)
        }
    }
}

/// Names and shapes of the weights.
pub fn layout() -> Vec<(String, Vec<i64>)> {
    let mut layout = Vec::new();
    for (number, layer) in LAYERS.iter().enumerate() {
        let shape = vec![layer.outputs, layer.inputs, 3, 3];
        layout.push((format!("conv{number}.weight"), shape));
        layout.push((format!("norm{number}.weight"), vec![layer.outputs]));
        layout.push((format!("norm{number}.bias"), vec![layer.outputs]));
    }
    layout.extend(attribute_head::layout(FEATURES).map(|(name, shape)| (name.to_owned(), shape)));
    layout
}

/// Untrained weights.
pub fn start(seed: Seed) -> Result<Tensors> {
    let mut weights = Tensors::new();
    for (number, (name, shape)) in (0..).zip(layout()) {
        let tensor = match name.rsplit_once('.') {
            Some((_, "bias")) => Tensor::f_zeros(&shape, (Kind::Float, Device::Cpu))?,
            _ if shape.len() == 1 => Tensor::f_ones(&shape, (Kind::Float, Device::Cpu))?,
            _ => {
                let inputs: i64 = shape[1..].iter().product();
                let deviation = (2.0 / inputs as f64).sqrt();
                gaussian(seed, Stream::Weights(number), &shape)?.f_mul_scalar(deviation)?
            }
        };
        weights.insert(name, tensor);
    }
    Ok(weights)
}

/// Fails if a weight is missing or of another shape.
pub fn check(weights: &Tensors) -> Result<()> {
    let path = std::path::Path::new("reader.safetensors");
    for (name, shape) in layout() {
        let found = weights.get(&name).map(Tensor::size);
        if found.as_ref() != Some(&shape) {
            let reason = format!("{name} should be {shape:?}, it is {found:?}");
            return Err(TrainError::bad_file(path, reason));
        }
    }
    Ok(())
}

/// Scores `[pictures, classes]` of pictures `[pictures, 3, HEIGHT, WIDTH]` in [-1, 1].
///
/// # Panics
///
/// If a weight is missing; [`check`] says whether one is.
pub fn forward(weights: &Tensors, pictures: &Tensor) -> Result<Tensor> {
    let none = None::<&Tensor>;
    let mut x = pictures.f_pixel_unshuffle(SQUARE)?;
    for (number, layer) in LAYERS.iter().enumerate() {
        let weight = &weights[&format!("conv{number}.weight")];
        let (stride, dilation) = ([layer.stride; 2], [layer.dilation; 2]);
        let seen = x.f_conv2d(weight, none, stride, dilation, dilation, 1)?;
        let groups = layer.outputs / GROUP;
        let scale = &weights[&format!("norm{number}.weight")];
        let shift = &weights[&format!("norm{number}.bias")];
        let seen = seen
            .f_group_norm(groups, Some(scale), Some(shift), 1e-5, false)?
            .f_silu()?;
        x = if layer.is_beside {
            x.f_add(&seen)?
        } else {
            seen
        };
    }
    // [pictures, squares, channels]
    let squares = x.f_flatten(2, -1)?.f_transpose(1, 2)?;
    AttributeHead::of(|name| weights[name].shallow_clone()).scores(&squares, None)
}
