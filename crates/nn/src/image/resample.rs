//! PIL's resampling of 8-bit pictures: two passes of weighted sums in fixed point.

use image::RgbImage;
use storyloom_story::Resolution;

use crate::error::{ModelError, Result};

/// An interpolation filter with antialias: when shrinking, it widens with the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Cubic with a = -0.5.
    Bicubic,
    /// Windowed sinc of three lobes.
    Lanczos,
}

impl Filter {
    /// Half width of the filter at scale 1, in source pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Resizes to exactly `size`, whatever the shape, as `PIL.Image.resize` does.
pub fn resize(picture: &RgbImage, size: Resolution, filter: Filter) -> Result<RgbImage> {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 || size.width == 0 || size.height == 0 {
        let reason = format!("{width}x{height} to {}x{}", size.width, size.height);
        return Err(ModelError::input("picture size", reason));
    }
    let wide = Taps::new(width, size.width, filter);
    let rows = RgbImage::from_fn(size.width, height, |x, y| {
        let pixels = wide
            .of(x)
            .map(|(at, weight)| (picture.get_pixel(at, y), weight));
        weighted(pixels)
    });
    let high = Taps::new(height, size.height, filter);
    Ok(RgbImage::from_fn(size.width, size.height, |x, y| {
        let pixels = high
            .of(y)
            .map(|(at, weight)| (rows.get_pixel(x, at), weight));
        weighted(pixels)
    }))
}

/// Fractional bits of a weight.
const PRECISION: u32 = 22;

fn weighted<'a>(pixels: impl Iterator<Item = (&'a image::Rgb<u8>, i32)>) -> image::Rgb<u8> {
    // Half a level, so that the shift below rounds.
    let mut sums = [1_i64 << (PRECISION - 1); 3];
    for (pixel, weight) in pixels {
        for (sum, level) in sums.iter_mut().zip(pixel.0) {
            *sum += i64::from(weight) * i64::from(level);
        }
    }
    image::Rgb(sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8))
}

/// For every output position, its first source position and the weights from there on.
struct Taps {
    lines: Vec<(u32, Vec<i32>)>,
}

impl Taps {
    fn new(source: u32, target: u32, filter: Filter) -> Self {
        let scale = f64::from(source) / f64::from(target);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let line = |position: u32| {
            let centre = (f64::from(position) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0);
            let last = ((centre + support + 0.5) as i64).min(i64::from(source));
            let weights: Vec<f64> = (first..last)
                .map(|at| filter.weight((at as f64 - centre + 0.5) / stretch))
                .collect();
            let total: f64 = weights.iter().sum();
            let one = f64::from(1_u32 << PRECISION);
            let fixed = weights
                .iter()
                .map(|weight| (weight / total * one).round() as i32);
            (first as u32, fixed.collect())
        };
        Self {
            lines: (0..target).map(line).collect(),
        }
    }

    fn of(&self, position: u32) -> impl Iterator<Item = (u32, i32)> + '_ {
        let (first, weights) = &self.lines[position as usize];
        (*first..).zip(weights.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([
                ((x * x * 3 + y * 17) % 256) as u8,
                ((x * 29 + y * y * 5) % 256) as u8,
                ((x * y * 7) % 256) as u8,
            ])
        })
    }

    /// Green levels of the first row, and the sum of all bytes, computed with Pillow 13:
    /// `Image.fromarray(a).resize((w, h), filter)` of the same picture, 23 wide and 17 high.
    #[test]
    fn equals_pillow() {
        let source = picture(23, 17);
        for (filter, width, height, row, total) in PILLOW {
            let size = Resolution { width, height };
            let resized = resize(&source, size, filter).unwrap();
            let found: Vec<u8> = (0..5).map(|x| resized.get_pixel(x, 0)[1]).collect();
            assert_eq!(found, row, "{filter:?} {width}x{height}");
            let sum: u64 = resized.as_raw().iter().map(|&level| u64::from(level)).sum();
            assert_eq!(sum, total, "{filter:?} {width}x{height}");
        }
    }

    const PILLOW: [(Filter, u32, u32, [u8; 5], u64); 6] = [
        (Filter::Bilinear, 9, 11, [32, 98, 173, 125, 65], 36128),
        (Filter::Bilinear, 40, 20, [0, 11, 27, 44, 61], 290771),
        (Filter::Bicubic, 9, 11, [25, 96, 183, 125, 53], 36127),
        (Filter::Bicubic, 40, 20, [0, 8, 27, 44, 61], 291307),
        (Filter::Lanczos, 9, 11, [24, 92, 192, 125, 43], 36117),
        (Filter::Lanczos, 40, 20, [0, 7, 27, 46, 60], 291058),
    ];

    #[test]
    fn an_equal_size_changes_nothing() {
        let source = picture(9, 7);
        let size = Resolution {
            width: 9,
            height: 7,
        };
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(resize(&source, size, filter).unwrap(), source);
        }
        let empty = Resolution {
            width: 0,
            height: 7,
        };
        assert!(resize(&source, empty, Filter::Bicubic).is_err());
    }
}
