//! From pictures to the `pixel_values` of a tower, as transformers' `BitImageProcessor` makes them.

use image::RgbImage;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::to_unit_tensor;
use tch::Tensor;

use super::config::DinoConfig;
use crate::vision::crop::{centre_square, normalised};

/// Mean of the pixels of ImageNet, red, green and blue in [0, 1].
pub const DINO_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of them.
pub const DINO_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// How a picture is brought to the square a tower sees: shortest side by Pillow's bicubic filter, then the
/// centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DinoPixels {
    /// The shortest side after the resize, in pixels.
    pub shortest: u32,
    /// The side of the square, in pixels; at most `shortest`.
    pub side: u32,
}

impl DinoPixels {
    /// The processor that is published with the towers.
    pub const PUBLISHED: Self = Self {
        shortest: 256,
        side: 224,
    };

    /// What is published with the towers, or the same for a tower that is made for smaller pictures or for other
    /// patches.
    pub fn of_tower(config: &DinoConfig) -> Self {
        let side = config.image_size.min(i64::from(Self::PUBLISHED.side));
        Self::of_side(side as u32, config.patch_size as u32)
    }

    /// The published ratio of both, for a tower of other pictures: the square has at most `side` pixels in whole
    /// patches of `patch`.
    pub fn of_side(side: u32, patch: u32) -> Self {
        let side = (side / patch.max(1) * patch).max(patch);
        Self {
            shortest: side * Self::PUBLISHED.shortest / Self::PUBLISHED.side,
            side,
        }
    }

    /// Normalised pixels f32 `[pictures, 3, side, side]`; pictures may differ in size.
    ///
    /// # Errors
    /// There are none, or the square is larger than what it is cut from.
    pub fn values(self, pictures: &[&RgbImage]) -> Result<Tensor> {
        if pictures.is_empty() || self.side == 0 {
            return Err(ModelError::input("pictures", "there are none"));
        }
        if self.side > self.shortest {
            let reason = format!("no square of {} is in {} pixels", self.side, self.shortest);
            return Err(ModelError::input("pictures", reason));
        }
        let square = |picture: &&RgbImage| {
            to_unit_tensor(&centre_square(picture, self.shortest, self.side)?)
        };
        let squares = pictures.iter().map(square).collect::<Result<Vec<_>>>()?;
        normalised(&Tensor::f_stack(&squares, 0)?, &DINO_MEAN, &DINO_STD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn squares_of_whole_patches_have_the_published_ratio() {
        assert_eq!(DinoPixels::of_side(224, 14), DinoPixels::PUBLISHED);
        let small = DinoPixels::of_side(30, 14);
        assert_eq!((small.shortest, small.side), (32, 28));
        assert_eq!(DinoPixels::of_side(5, 8).side, 8);
        let published = DinoConfig {
            image_size: 518,
            ..DinoConfig::default()
        };
        assert_eq!(DinoPixels::of_tower(&published), DinoPixels::PUBLISHED);
    }

    #[test]
    fn grey_becomes_the_normalised_grey() {
        let grey = RgbImage::from_pixel(40, 20, image::Rgb([128; 3]));
        let values = DinoPixels::of_side(16, 8).values(&[&grey, &grey]).unwrap();
        assert_eq!(values.size(), [2, 3, 16, 16]);
        for channel in 0..3 {
            let expected = (128.0 / 255.0 - DINO_MEAN[channel]) / DINO_STD[channel];
            let plane = values.select(1, channel as i64);
            assert!((plane - f64::from(expected)).abs().max().double_value(&[]) < 1e-5);
        }
    }

    #[test]
    fn no_pictures_and_squares_that_are_too_large_are_refused() {
        let picture = RgbImage::new(30, 20);
        assert!(DinoPixels::PUBLISHED.values(&[]).is_err());
        let wrong = DinoPixels {
            shortest: 8,
            side: 16,
        };
        let said = wrong.values(&[&picture]).unwrap_err().to_string();
        assert!(said.contains("no square of 16"), "{said}");
    }

    /// Some values and the sum of all magnitudes: `BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height":
    /// 28, "width": 28}, resample=3)` of transformers 5.17 with Pillow 13, with the mean and deviation of ImageNet.
    #[test]
    fn the_processor_is_that_of_transformers() {
        let picture = RgbImage::from_fn(50, 30, |x, y| {
            image::Rgb([
                ((x * 3 + y * 2) % 256) as u8,
                ((x * 5) % 256) as u8,
                ((y * 7) % 256) as u8,
            ])
        });
        let values = DinoPixels::of_side(28, 14).values(&[&picture]).unwrap();
        for (place, expected) in [
            ([0, 0, 0, 0], -1.467_163_3),
            ([0, 0, 0, 3], -1.330_165_4),
            ([0, 1, 13, 10], -0.214_985_97),
            ([0, 1, 13, 13], 0.030_112_05),
            ([0, 2, 20, 2], 0.705_359_64),
        ] {
            let value = values.double_value(&place);
            assert!((value - expected).abs() < 1e-5, "{place:?}: {value}");
        }
        let total = values.abs().sum(Kind::Double).double_value(&[]);
        assert!((total - 1_472.836_136_6).abs() < 1e-3, "{total}");
    }
}
