//! Sharpness and exposure, from the pixels alone.

use storyloom_nn::error::Result;
use storyloom_story::RgbImage;

use super::QualityScorer;

/// A rule of thumb, not a model of taste: how much detail a picture has and how well it uses the
/// range of brightness, from 0 (flat, black or white) to 10.
///
/// Half of the score is exposure: one minus the distance of the mean brightness from the middle,
/// squared. The other half is sharpness: the standard deviation of the brightness Laplacian,
/// saturating at [`SharpnessExposure::FULL_DETAIL`] levels.
#[derive(Debug, Default, Clone, Copy)]
pub struct SharpnessExposure;

impl SharpnessExposure {
    /// What its score is called in recipes. It is part of the fingerprint of an engine.
    pub const NAME: &'static str = "sharpness and exposure rule (no network)";
    /// Deviation of the Laplacian, in 8-bit levels, that counts as fully sharp.
    pub const FULL_DETAIL: f64 = 12.0;

    fn score_one(picture: &RgbImage) -> f32 {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let brightness: Vec<f64> = picture
            .data()
            .as_chunks::<3>()
            .0
            .iter()
            .map(|[r, g, b]| 0.299 * f64::from(*r) + 0.587 * f64::from(*g) + 0.114 * f64::from(*b))
            .collect();
        let mean = brightness.iter().sum::<f64>() / brightness.len() as f64;
        let exposure = 1.0 - ((mean - 127.5) / 127.5).powi(2);
        let (mut count, mut sum, mut squares) = (0_usize, 0.0, 0.0);
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let at = y * width + x;
                let around = brightness[at - 1]
                    + brightness[at + 1]
                    + brightness[at - width]
                    + brightness[at + width];
                let laplacian = around - 4.0 * brightness[at];
                count += 1;
                sum += laplacian;
                squares += laplacian * laplacian;
            }
        }
        let n = count.max(1) as f64;
        let deviation = (squares / n - (sum / n).powi(2)).max(0.0).sqrt();
        let sharpness = (deviation / Self::FULL_DETAIL).min(1.0);
        (5.0 * exposure + 5.0 * sharpness) as f32
    }
}

impl QualityScorer for SharpnessExposure {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Vec<f32>> {
        Ok(pictures
            .iter()
            .map(|picture| Self::score_one(picture))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(pixel: impl Fn(usize, usize) -> u8) -> f32 {
        let data = (0..16 * 16)
            .flat_map(|at| [pixel(at % 16, at / 16); 3])
            .collect();
        let picture = RgbImage::new(16, 16, data).unwrap();
        SharpnessExposure.score(&[&picture]).unwrap()[0]
    }

    #[test]
    fn detail_and_a_middle_exposure_are_better() {
        let black = score(|_, _| 0);
        let grey = score(|_, _| 128);
        let soft = score(|x, _| 100 + 4 * x as u8);
        let sharp = score(|x, y| if (x / 2 + y / 2) % 2 == 0 { 60 } else { 200 });
        assert!(black < 0.1 && (grey - 5.0).abs() < 0.1, "{black} {grey}");
        assert!(
            sharp > 9.0 && sharp > soft && soft > black,
            "{soft} {sharp}"
        );
    }

    #[test]
    fn tiny_pictures_have_a_score() {
        let picture = RgbImage::new(1, 1, vec![9; 3]).unwrap();
        assert!(SharpnessExposure.score(&[&picture]).unwrap()[0].is_finite());
    }
}
