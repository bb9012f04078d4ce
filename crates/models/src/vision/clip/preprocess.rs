//! From pictures to the `pixel_values` of a tower, in the three ways that are in use.

use image::RgbImage;
use storyloom_story::Resolution;
use tch::Tensor;

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::{
    Filter, KEYFRAME_AREA, resize, resize_bilinear, resolution, smart_size, stretch_bicubic,
    stretch_bilinear, to_unit_tensor,
};

use crate::vision::crop::{centre_square, covering, margins, normalised};

/// Mean of the pixels that CLIP was trained on, red, green and blue in [0, 1].
pub const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of them.
pub const STD: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

/// Whose resize of 8-bit frames comes first in [`PixelRule::Selection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionResize {
    /// Pillow's, as in the first builds.
    Pillow,
    /// That of torch, as in StoryMem's own code.
    Torch,
}

/// How a picture is brought to the square a tower sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelRule {
    /// Keyframe selection (StoryMem specification, section 3.2, steps 1 and 2): 8-bit antialiased
    /// bilinear to multiples of 28, then bilinear without antialias to the square; the whole
    /// picture, its shape not kept.
    Selection(SelectionResize),
    /// transformers `CLIPImageProcessor`: shortest side to the square's side, bicubic, then the
    /// centre.
    Processor,
    /// VBench: shortest side to the square's side, bicubic without antialias, then the centre.
    VBench,
    /// The original Wan 2.1 code: bicubic without antialias to the square; the whole picture.
    WanSquash,
}

/// Normalised pixels f32 `[pictures, 3, side, side]`; pictures may differ in size.
pub fn pixel_values(pictures: &[&RgbImage], side: u32, rule: PixelRule) -> Result<Tensor> {
    if pictures.is_empty() || side == 0 {
        return Err(ModelError::input("pictures", "there are none"));
    }
    let squares = pictures.iter().map(|picture| square(picture, side, rule));
    let squares = Tensor::f_stack(&squares.collect::<Result<Vec<_>>>()?, 0)?;
    normalised(&squares, &MEAN, &STD)
}

/// `[3, side, side]` around [0, 1].
fn square(picture: &RgbImage, side: u32, rule: PixelRule) -> Result<Tensor> {
    let whole = Resolution {
        width: side,
        height: side,
    };
    match rule {
        PixelRule::Selection(by) => {
            let size = smart_size(resolution(picture), KEYFRAME_AREA);
            let reduced = match by {
                SelectionResize::Pillow => {
                    to_unit_tensor(&resize(picture, size, Filter::Bilinear)?)?
                }
                SelectionResize::Torch => resize_bilinear(picture, size)?,
            };
            stretch_bilinear(&reduced, whole)
        }
        PixelRule::Processor => to_unit_tensor(&centre_square(picture, side, side)?),
        PixelRule::VBench => {
            let size = covering(resolution(picture), side);
            let stretched = stretch_bicubic(&to_unit_tensor(picture)?, size)?.f_clamp(0.0, 1.0)?;
            let [left, top] = margins(size, side).map(i64::from);
            let side = i64::from(side);
            Ok(stretched.f_narrow(1, top, side)?.f_narrow(2, left, side)?)
        }
        PixelRule::WanSquash => stretch_bicubic(&to_unit_tensor(picture)?, whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([
                ((x * 3 + y * 2) % 256) as u8,
                ((x * 5) % 256) as u8,
                ((y * 7) % 256) as u8,
            ])
        })
    }

    const RULES: [PixelRule; 5] = [
        PixelRule::Selection(SelectionResize::Torch),
        PixelRule::Processor,
        PixelRule::WanSquash,
        PixelRule::VBench,
        PixelRule::Selection(SelectionResize::Pillow),
    ];

    #[test]
    fn every_rule_gives_the_square_and_they_differ() {
        let picture = picture(50, 30);
        let rules = RULES;
        let values = rules.map(|rule| pixel_values(&[&picture, &picture], 28, rule).unwrap());
        for value in &values {
            assert_eq!(value.size(), [2, 3, 28, 28]);
            assert!(value.abs().max().double_value(&[]) < 3.0);
        }
        for (a, b) in [(0, 1), (1, 2), (0, 2), (1, 3), (2, 3)] {
            let difference = (&values[a] - &values[b]).abs().mean(Kind::Float);
            assert!(difference.double_value(&[]) > 1e-3, "{a} {b}");
        }
        assert!(pixel_values(&[], 28, PixelRule::Processor).is_err());
    }

    /// Values of the red plane and the sum of all magnitudes: the steps of StoryMem's
    /// `extract_keyframe_indices` and `_clip_preprocess_tensor` in torch 2.11, and the same after
    /// Pillow 13's resize, on a picture that is shrunk to 476x392 first.
    #[test]
    fn selection_is_that_of_storymem() {
        let picture = picture(600, 500);
        for (by, row, sum) in [
            (SelectionResize::Torch, TORCH_ROW, 135_034.005),
            (SelectionResize::Pillow, PILLOW_ROW, 135_033.989_9),
        ] {
            let values = pixel_values(&[&picture], 224, PixelRule::Selection(by)).unwrap();
            for (x, expected) in (86..).zip(row) {
                let value = values.double_value(&[0, 0, 16, x]);
                assert!(
                    (value - expected).abs() < 1e-5,
                    "{by:?}: {value} {expected}"
                );
            }
            let total = values.abs().sum(Kind::Double).double_value(&[]);
            assert!((total - sum).abs() < 5e-3, "{by:?}: {total}");
        }
    }

    const TORCH_ROW: [f64; 4] = [0.76269, -1.697373, -1.587885, -1.463798];
    const PILLOW_ROW: [f64; 4] = [0.758927, -1.697373, -1.587885, -1.463798];

    #[test]
    fn grey_becomes_the_normalised_grey() {
        let grey = RgbImage::from_pixel(40, 20, image::Rgb([128; 3]));
        for rule in RULES {
            let values = pixel_values(&[&grey], 14, rule).unwrap();
            for channel in 0..3 {
                let expected = (128.0 / 255.0 - MEAN[channel]) / STD[channel];
                let plane = values.select(1, channel as i64);
                assert!((plane - f64::from(expected)).abs().max().double_value(&[]) < 1e-5);
            }
        }
    }

    /// First values of the red plane: `CLIPImageProcessor(size={"shortest_edge": 28},
    /// crop_size=28)` of transformers 5.17 on the same picture.
    #[test]
    fn the_processor_is_that_of_transformers() {
        let values = pixel_values(&[&picture(50, 30)], 28, PixelRule::Processor).unwrap();
        let row: Vec<f64> = (0..4).map(|x| values.double_value(&[0, 0, 3, x])).collect();
        for (value, expected) in row.iter().zip(PROCESSOR_ROW) {
            assert!((value - expected).abs() < 1e-4, "{row:?}");
        }
        let total = values.abs().sum(Kind::Double).double_value(&[]);
        assert!((total - PROCESSOR_TOTAL).abs() < 0.05, "{total}");
    }

    const PROCESSOR_ROW: [f64; 4] = [-1.266719, -1.222924, -1.179129, -1.135333];
    const PROCESSOR_TOTAL: f64 = 1385.3396;
}
