//! Convolutions over pictures.

use tch::{Kind, Tensor};

use super::linear::product_kind;
use crate::checkpoint::Weights;
use crate::error::Result;

/// A convolution with square kernels and a bias (torch `nn.Conv2d`).
///
/// As with [`Linear`](super::Linear), bf16 weights stay bf16 in memory and are widened to f32 for each use on the
/// CPU; on a GPU the convolution runs in the kind of the weights.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// Loads `weight` `[outputs, inputs, kernel, kernel]` and `bias` `[outputs]` of a convolution that keeps the
    /// size of the picture: stride 1, padded by half a kernel. Kernels are odd.
    pub fn load(weights: &Weights, inputs: i64, outputs: i64, kernel: i64) -> Result<Self> {
        Self::load_with(weights, [inputs, outputs], kernel, 1, kernel / 2)
    }

    /// As [`load`](Self::load) of `[inputs, outputs]`, with a `stride` and zeros added on every side.
    pub fn load_with(
        weights: &Weights,
        [inputs, outputs]: [i64; 2],
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.take("weight", &[outputs, inputs, kernel, kernel])?,
            bias: weights.take("bias", &[outputs])?,
            stride,
            padding,
        })
    }

    /// `[batch, inputs, height, width]` of any kind to f32 `[batch, outputs, height', width']`. All rows are on
    /// this rank; no collective.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let kind = product_kind(&self.weight);
        let output = input.f_to_kind(kind)?.f_conv2d(
            &self.weight.f_to_kind(kind)?,
            Some(&self.bias.f_to_kind(kind)?),
            [self.stride; 2],
            [self.padding; 2],
            [1, 1],
            1,
        )?;
        Ok(output.f_to_kind(Kind::Float)?)
    }
}

/// `[batch, channels, height, width]` to `[batch, channels, 2 height, 2 width]`, every pixel four times.
pub fn double_nearest(input: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = input.size4()?;
    Ok(input.f_upsample_nearest2d([2 * height, 2 * width], None, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::weights_of;
    use tch::Device;

    /// A kernel of ones counts what it sees: 4, 6 or 9 pixels of an unbounded picture of ones.
    #[test]
    fn size_stays_unless_a_stride_is_given() {
        let options = (Kind::Float, Device::Cpu);
        let (weight, bias) = (
            Tensor::ones([1, 1, 3, 3], options),
            Tensor::zeros([1], options),
        );
        let tensors = [("weight", &weight), ("bias", &bias)];
        let picture = Tensor::ones([1, 1, 4, 3], options);
        let same = weights_of(&tensors, |weights| Conv2d::load(weights, 1, 1, 3));
        let same = same.forward(&picture).unwrap();
        assert_eq!(same.size(), [1, 1, 4, 3]);
        let rows = Vec::<f32>::try_from(&same.flatten(0, -1)).unwrap();
        assert_eq!(rows[..6], [4.0, 6.0, 4.0, 6.0, 9.0, 6.0]);
        let halved = weights_of(&tensors, |weights| {
            Conv2d::load_with(weights, [1, 1], 3, 2, 0)
        });
        assert_eq!(halved.forward(&picture).unwrap().size(), [1, 1, 1, 1]);
    }

    #[test]
    fn pixels_are_doubled_in_place() {
        let picture = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([1, 1, 2, 2]);
        let doubled = double_nearest(&picture).unwrap();
        let rows = Vec::<f32>::try_from(&doubled.flatten(0, -1)).unwrap();
        assert_eq!(rows[..8], [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(rows[12..], [3.0, 3.0, 4.0, 4.0]);
    }
}
