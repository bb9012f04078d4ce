//! Arrays and pictures in host memory, free of any tensor library.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pass::PassName;
use crate::video::Resolution;

/// A dense row-major `f32` array in host memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostTensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// The number of values does not fit the shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{values} values do not fill the shape {shape:?}")]
pub struct ShapeMismatch {
    /// The wanted shape.
    pub shape: Vec<usize>,
    /// How many values (or bytes) were given.
    pub values: usize,
}

impl HostTensor {
    /// Wraps `data`, which must hold exactly as many values as `shape` asks for.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Result<Self, ShapeMismatch> {
        let wanted = shape
            .iter()
            .try_fold(1_usize, |product, &axis| product.checked_mul(axis));
        if wanted == Some(data.len()) {
            Ok(Self { shape, data })
        } else {
            Err(ShapeMismatch {
                shape,
                values: data.len(),
            })
        }
    }

    /// An array with one axis.
    pub fn of_vector(values: Vec<f32>) -> Self {
        Self {
            shape: vec![values.len()],
            data: values,
        }
    }

    /// Axis lengths, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Consumes the array and returns its values.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// The index of the first value that is not finite, if there is one.
    pub fn first_non_finite(&self) -> Option<usize> {
        self.data.iter().position(|value| !value.is_finite())
    }
}

/// A sampling loop between two steps: enough to go on elsewhere with the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct LoopState {
    /// Which of the shot's loops it is.
    pub pass: PassName,
    /// Steps finished.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// Order of the solver's last predictor; 0 where the solver has none.
    pub order: usize,
    /// The sample and what the solver remembers, by name.
    pub arrays: BTreeMap<String, HostTensor>,
}

/// An 8-bit RGB picture, rows from top to bottom, interleaved channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

impl RgbImage {
    /// Wraps `data` of length `width * height * 3`.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self, ShapeMismatch> {
        let wanted = width as usize * height as usize * 3;
        if wanted == data.len() && wanted > 0 {
            Ok(Self {
                width,
                height,
                data,
            })
        } else {
            Err(ShapeMismatch {
                shape: vec![height as usize, width as usize, 3],
                values: data.len(),
            })
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The middle of the picture: what stands over `size` is cut off on both sides alike. Where the
    /// picture is not larger than `size`, all of it.
    pub fn middle(&self, size: Resolution) -> Cow<'_, Self> {
        let (width, height) = (size.width.min(self.width), size.height.min(self.height));
        if (width, height) == (self.width, self.height) {
            return Cow::Borrowed(self);
        }
        let row = self.width as usize * 3;
        let left = (self.width - width) as usize / 2 * 3;
        let top = (self.height - height) as usize / 2;
        let rows = self.data.chunks_exact(row).skip(top).take(height as usize);
        let kept = rows.flat_map(|row| &row[left..left + width as usize * 3]);
        Cow::Owned(Self {
            width,
            height,
            data: kept.copied().collect(),
        })
    }

    /// A picture of `size` whose [middle](Self::middle) is this one, and whose borders repeat its edges. Where
    /// `size` is not larger than the picture, the picture itself.
    pub fn widened(&self, size: Resolution) -> Cow<'_, Self> {
        let (width, height) = (size.width.max(self.width), size.height.max(self.height));
        if (width, height) == (self.width, self.height) {
            return Cow::Borrowed(self);
        }
        let left = (width - self.width) / 2;
        let top = (height - self.height) / 2;
        let nearest = |at: u32, border: u32, length: u32| at.saturating_sub(border).min(length - 1);
        let mut data = Vec::with_capacity(width as usize * height as usize * 3);
        for y in 0..height {
            let row = nearest(y, top, self.height) as usize * self.width as usize;
            for x in 0..width {
                let from = (row + nearest(x, left, self.width) as usize) * 3;
                data.extend_from_slice(&self.data[from..from + 3]);
            }
        }
        Cow::Owned(Self {
            width,
            height,
            data,
        })
    }
}

/// The frames of one shot, all of the same size, in time order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    frames: Vec<RgbImage>,
}

impl Clip {
    /// Wraps frames of equal size. Returns `None` when there is none or when sizes differ.
    pub fn new(frames: Vec<RgbImage>) -> Option<Self> {
        let first = frames.first()?;
        let same_size = frames
            .iter()
            .all(|frame| frame.width == first.width && frame.height == first.height);
        same_size.then_some(Self { frames })
    }

    /// The frames in time order.
    pub fn frames(&self) -> &[RgbImage] {
        &self.frames
    }

    /// Width of every frame in pixels.
    pub fn width(&self) -> u32 {
        self.frames[0].width
    }

    /// Height of every frame in pixels.
    pub fn height(&self) -> u32 {
        self.frames[0].height
    }

    /// The last `count` frames, or all of them if the clip is shorter.
    pub fn tail(&self, count: usize) -> &[RgbImage] {
        &self.frames[self.frames.len().saturating_sub(count)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_checks_its_length() {
        assert!(HostTensor::new(vec![2, 3], vec![0.0; 6]).is_ok());
        assert!(HostTensor::new(vec![2, 3], vec![0.0; 5]).is_err());
        assert!(HostTensor::new(vec![usize::MAX, 2], vec![]).is_err());
    }

    #[test]
    fn what_stands_over_is_cut_off_on_both_sides_alike() {
        // Each pixel says where it is.
        let pixels = (0..6_u8).flat_map(|y| (0..4_u8).flat_map(move |x| [x, y, 0]));
        let picture = RgbImage::new(4, 6, pixels.collect()).unwrap();
        let middle = |width, height| picture.middle(Resolution { width, height });
        let cut = middle(2, 4);
        assert_eq!((cut.width(), cut.height()), (2, 4));
        let expected = (1..5_u8).flat_map(|y| [1, y, 0, 2, y, 0]);
        assert_eq!(cut.data(), expected.collect::<Vec<u8>>());
        assert!(matches!(middle(4, 6), Cow::Borrowed(_)));
        assert_eq!(*middle(9, 9), picture, "it is never larger");
        assert_eq!(middle(9, 2).data()[..6], [0, 2, 0, 1, 2, 0]);
        let widened = |width, height| picture.widened(Resolution { width, height });
        let wide = widened(7, 8);
        let own = Resolution {
            width: 4,
            height: 6,
        };
        assert_eq!((wide.width(), wide.height()), (7, 8));
        assert_eq!(*wide.middle(own), picture);
        assert_eq!(wide.data()[..6], [0, 0, 0, 0, 0, 0], "edges are repeated");
        assert_eq!(wide.data()[7 * 8 * 3 - 6..], [3, 5, 0, 3, 5, 0]);
        assert!(matches!(widened(4, 2), Cow::Borrowed(_)));
    }

    #[test]
    fn a_clip_refuses_mixed_sizes() {
        let small = RgbImage::new(1, 1, vec![0; 3]).unwrap();
        let large = RgbImage::new(2, 1, vec![0; 6]).unwrap();
        assert!(Clip::new(vec![small.clone(), large]).is_none());
        assert!(Clip::new(vec![]).is_none());
        assert_eq!(
            Clip::new(vec![small.clone(), small]).unwrap().tail(5).len(),
            2
        );
    }
}
