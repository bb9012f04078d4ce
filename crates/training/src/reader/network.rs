//! The network: four convolutions of stride 2 over squares of 2x2 pixels, one hidden layer, one head
//! for all attributes.

use storyloom_models::noise::{Stream, gaussian};
use storyloom_models::tch::{Kind, Tensor};
use storyloom_story::Seed;

use crate::error::{Result, TrainError};
use crate::params::Tensors;
use crate::world::Attribute;

/// Rows of a picture.
pub const HEIGHT: i64 = 96;
/// Columns of a picture.
pub const WIDTH: i64 = 160;

/// Channels after each convolution; the first are those of a square of pixels.
const CHANNELS: [i64; 5] = [3 * SQUARE * SQUARE, 32, 64, 96, 96];
/// Side of the squares of pixels that are taken as one.
const SQUARE: i64 = 2;
/// Channels that are normalised together.
const GROUP: i64 = 8;
/// Features of the hidden layer.
const HIDDEN: i64 = 128;
/// What the convolutions leave of a picture.
const CELLS: i64 = (HEIGHT / 32) * (WIDTH / 32);

/// Names and shapes of the weights.
pub fn layout() -> Vec<(String, Vec<i64>)> {
    let mut layout = Vec::new();
    for (layer, pair) in CHANNELS.windows(2).enumerate() {
        let shape = vec![pair[1], pair[0], 3, 3];
        layout.push((format!("conv{layer}.weight"), shape));
        layout.push((format!("norm{layer}.weight"), vec![pair[1]]));
        layout.push((format!("norm{layer}.bias"), vec![pair[1]]));
    }
    let features = CHANNELS[CHANNELS.len() - 1] * CELLS;
    layout.push(("hidden.weight".to_owned(), vec![HIDDEN, features]));
    layout.push(("hidden.bias".to_owned(), vec![HIDDEN]));
    layout.push(("heads.weight".to_owned(), vec![classes(), HIDDEN]));
    layout.push(("heads.bias".to_owned(), vec![classes()]));
    layout
}

/// Classes of all attributes together.
pub fn classes() -> i64 {
    let counts = Attribute::ALL
        .iter()
        .map(|attribute| attribute.classes().len());
    counts.sum::<usize>() as i64
}

/// Untrained weights.
pub fn start(seed: Seed) -> Result<Tensors> {
    let mut weights = Tensors::new();
    for (number, (name, shape)) in (0..).zip(layout()) {
        let tensor = match name.rsplit_once('.') {
            Some((_, "bias")) => {
                Tensor::f_zeros(&shape, (Kind::Float, storyloom_models::tch::Device::Cpu))?
            }
            _ if shape.len() == 1 => {
                Tensor::f_ones(&shape, (Kind::Float, storyloom_models::tch::Device::Cpu))?
            }
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
    for layer in 0..CHANNELS.len() - 1 {
        let weight = &weights[&format!("conv{layer}.weight")];
        x = x.f_conv2d(weight, none, [2, 2], [1, 1], [1, 1], 1)?;
        let groups = CHANNELS[layer + 1] / GROUP;
        let scale = &weights[&format!("norm{layer}.weight")];
        let shift = &weights[&format!("norm{layer}.bias")];
        x = x
            .f_group_norm(groups, Some(scale), Some(shift), 1e-5, false)?
            .f_silu()?;
    }
    let x = x
        .f_flatten(1, -1)?
        .f_linear(&weights["hidden.weight"], Some(&weights["hidden.bias"]))?
        .f_silu()?;
    Ok(x.f_linear(&weights["heads.weight"], Some(&weights["heads.bias"]))?)
}
