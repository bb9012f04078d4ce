//! A scorer without a model: is the frame sharp and well exposed?

use image::RgbImage;

use super::QualityScorer;
use crate::error::Result;

/// Sharpness times exposure, in [0, 1).
///
/// Sharpness is `d / (d + 0.005)` with `d` the mean absolute Laplacian of the luma in [0, 1];
/// exposure is the share of pixels that are neither black nor white. Black, white, flat and very
/// blurred frames score near zero. It says nothing about beauty, and is no stand-in for HPSv3
/// where published results are to be repeated.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharpnessScorer;

/// The mean Laplacian at which sharpness is one half.
const HALF_SHARP: f32 = 0.005;
/// Levels up to this count as black, and from 255 minus this as white.
const CLIPPED: u8 = 3;

impl QualityScorer for SharpnessScorer {
    fn name(&self) -> &'static str {
        "sharpness"
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>> {
        let score = |picture: &&RgbImage| sharpness(picture) * exposure(picture);
        Ok(pictures.iter().map(score).collect())
    }

    fn default_threshold(&self) -> f32 {
        0.1
    }
}

fn sharpness(picture: &RgbImage) -> f32 {
    let (width, height) = picture.dimensions();
    if width < 3 || height < 3 {
        return 0.0;
    }
    let luma: Vec<f32> = picture.pixels().map(|pixel| luma(pixel.0)).collect();
    let at = |x: u32, y: u32| luma[(y * width + x) as usize];
    let mut total = 0.0_f64;
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let around = at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1);
            total += f64::from((around - 4.0 * at(x, y)).abs());
        }
    }
    let mean = (total / f64::from((width - 2) * (height - 2))) as f32;
    mean / (mean + HALF_SHARP)
}

/// BT.601 luma in [0, 1].
fn luma([red, green, blue]: [u8; 3]) -> f32 {
    (0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue)) / 255.0
}

fn exposure(picture: &RgbImage) -> f32 {
    let clipped = |level: u8| !(CLIPPED + 1..255 - CLIPPED).contains(&level);
    let lost = picture
        .pixels()
        .filter(|pixel| pixel.0.into_iter().all(clipped))
        .count();
    let all = picture.pixels().len().max(1);
    1.0 - lost as f32 / all as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripes(width: u32, period: u32, low: u8, high: u8) -> RgbImage {
        RgbImage::from_fn(width, 32, |x, _| {
            let phase = std::f32::consts::TAU * x as f32 / period as f32;
            let share = 0.5 + 0.5 * phase.sin();
            image::Rgb([(f32::from(low) + share * f32::from(high - low)) as u8; 3])
        })
    }

    fn score(picture: &RgbImage) -> f32 {
        SharpnessScorer.score(&[picture]).unwrap()[0]
    }

    #[test]
    fn sharp_frames_beat_blurred_ones() {
        let sharp = score(&stripes(64, 6, 40, 200));
        let blurred = score(&stripes(64, 60, 40, 200));
        assert!(sharp > 0.8 && sharp > 1.3 * blurred, "{sharp} {blurred}");
    }

    #[test]
    fn flat_black_and_white_frames_fail() {
        for level in [0, 128, 255] {
            let flat = RgbImage::from_pixel(16, 16, image::Rgb([level; 3]));
            assert_eq!(score(&flat), 0.0);
        }
        // Noise between black and white is sharp, but nothing of it is exposed.
        let board = RgbImage::from_fn(16, 16, |x, y| image::Rgb([((x + y) % 2 * 255) as u8; 3]));
        assert!(score(&board) < SharpnessScorer.default_threshold());
        let tiny = RgbImage::new(2, 2);
        assert_eq!(score(&tiny), 0.0);
    }
}
