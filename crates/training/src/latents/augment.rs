//! A shot as it might have been filmed otherwise: what an augmented copy of a shot is made by.

use storyloom_nn::tch::{Kind, Tensor};
use storyloom_tinyworld::draws::Draws;

use crate::error::Result;

/// Transforms of a whole shot, the same for all its frames (specification `onestory`, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augmentation {
    /// Whether left and right change sides.
    pub is_flipped: bool,
    /// Share of each side that is kept, before it is made as large again.
    pub crop: f64,
    /// Where the kept part begins, from 0 (top, left) to 1.
    pub corner: [f64; 2],
    /// Factors of brightness, contrast and saturation.
    pub factors: [f64; 3],
    /// How far colours are turned, in turns.
    pub hue: f64,
}

/// Least share of a side that a crop keeps.
const CROP: f64 = 0.7;
/// Most that brightness, contrast and saturation change.
const FACTOR: f64 = 0.3;
/// Most that colours turn.
const HUE: f64 = 0.05;
/// What red, green and blue count in grey (ITU-R BT.601).
const GREY: [f64; 3] = [0.299, 0.587, 0.114];

impl Augmentation {
    /// Random transforms.
    pub fn draw(draws: &mut Draws) -> Self {
        let mut around = |middle: f64, by: f64| middle + by * (2.0 * draws.unit() - 1.0);
        let factors = [(); 3].map(|()| around(1.0, FACTOR));
        let hue = around(0.0, HUE);
        Self {
            is_flipped: draws.chance(0.5),
            crop: CROP + (1.0 - CROP) * draws.unit(),
            corner: [draws.unit(), draws.unit()],
            factors,
            hue,
        }
    }

    /// The clip `[3, frames, height, width]` in [-1, 1] so transformed.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&self, clip: &Tensor) -> Result<Tensor> {
        let pictures = clip.f_transpose(0, 1)?;
        let (_, _, height, width) = pictures.size4()?;
        let kept = |side: i64| ((side as f64 * self.crop).round() as i64).clamp(1, side);
        let first = |side: i64, at: f64| ((side - kept(side)) as f64 * at).round() as i64;
        let cropped = pictures
            .f_narrow(2, first(height, self.corner[0]), kept(height))?
            .f_narrow(3, first(width, self.corner[1]), kept(width))?;
        let mut pictures = cropped.f_upsample_bilinear2d([height, width], false, None, None)?;
        if self.is_flipped {
            pictures = pictures.f_flip([3])?;
        }
        let light = pictures.f_add_scalar(1.0)?.f_mul_scalar(0.5)?;
        let coloured = self
            .coloured(&light)?
            .f_mul_scalar(2.0)?
            .f_sub_scalar(1.0)?;
        Ok(coloured.f_transpose(0, 1)?.f_contiguous()?)
    }

    /// Pictures `[frames, 3, height, width]` in [0, 1] in other colours.
    fn coloured(&self, pictures: &Tensor) -> Result<Tensor> {
        let [brightness, contrast, saturation] = self.factors;
        let bright = pictures.f_mul_scalar(brightness)?.f_clamp(0.0, 1.0)?;
        let mean = grey(&bright)?.f_mean(Kind::Float)?;
        let contrasted = mix(&bright, &mean, contrast)?;
        let saturated = mix(&contrasted, &grey(&contrasted)?, saturation)?;
        let turn = Tensor::f_from_slice(turned(self.hue).as_flattened())?
            .f_view([3, 3])?
            .f_to_kind(Kind::Float)?;
        let colours = saturated.f_permute([0, 2, 3, 1])?.f_matmul(&turn)?;
        Ok(colours.f_permute([0, 3, 1, 2])?.f_clamp(0.0, 1.0)?)
    }
}

/// The grey of `[frames, 3, height, width]`, `[frames, 1, height, width]`.
fn grey(pictures: &Tensor) -> Result<Tensor> {
    let weights = Tensor::f_from_slice(&GREY)?
        .f_view([1, 3, 1, 1])?
        .f_to_kind(Kind::Float)?;
    let sum = pictures.f_mul(&weights)?;
    Ok(sum.f_sum_dim_intlist([1_i64].as_slice(), true, Kind::Float)?)
}

/// `share` of the one and the rest of the other, from 0 to 1.
fn mix(one: &Tensor, other: &Tensor, share: f64) -> Result<Tensor> {
    let rest = other.f_mul_scalar(1.0 - share)?;
    Ok(one.f_mul_scalar(share)?.f_add(&rest)?.f_clamp(0.0, 1.0)?)
}

/// What turns colours around grey by `turns`: rows are what becomes of red, green and blue.
///
/// The plane of equal luma of YIQ is turned; grey stays grey.
fn turned(turns: f64) -> [[f64; 3]; 3] {
    let (sin, cos) = (std::f64::consts::TAU * turns).sin_cos();
    let [red, green, blue] = GREY;
    // I and Q of red, green and blue, and back.
    let to = [[0.596, 0.211], [-0.274, -0.523], [-0.322, 0.312]];
    let back = [[0.956, -0.272, -1.106], [0.621, -0.647, 1.703]];
    [(red, to[0]), (green, to[1]), (blue, to[2])].map(|(luma, [i, q])| {
        let (i, q) = (cos * i - sin * q, sin * i + cos * q);
        [0, 1, 2].map(|colour| luma + i * back[0][colour] + q * back[1][colour])
    })
}

#[cfg(test)]
mod tests {
    use storyloom_nn::tch::Device;

    use super::*;

    const NONE: Augmentation = Augmentation {
        is_flipped: false,
        crop: 1.0,
        corner: [0.0, 0.0],
        factors: [1.0; 3],
        hue: 0.0,
    };

    fn clip() -> Tensor {
        let values = Tensor::arange(3 * 2 * 4 * 6, (Kind::Float, Device::Cpu));
        values.cos().view([3, 2, 4, 6]) * 0.9
    }

    #[test]
    fn nothing_is_nothing_and_a_flip_changes_sides() {
        let same = NONE.apply(&clip()).unwrap();
        assert!(same.allclose(&clip(), 1e-3, 5e-3, false));
        let flipped = Augmentation {
            is_flipped: true,
            ..NONE
        };
        let flipped = flipped.apply(&clip()).unwrap();
        assert!(flipped.allclose(&clip().flip([3]), 1e-3, 5e-3, false));
    }

    #[test]
    fn a_crop_is_as_large_again_and_colours_keep_grey_grey() {
        let cropped = Augmentation {
            crop: 0.5,
            corner: [1.0, 1.0],
            ..NONE
        };
        let cropped = cropped.apply(&clip()).unwrap();
        assert_eq!(cropped.size(), clip().size());
        let corner = |clip: &Tensor| clip.select(3, 5).select(2, 3);
        assert!(corner(&cropped).allclose(&corner(&clip()), 1e-3, 5e-3, false));
        let grey = Tensor::full([3, 1, 2, 2], 0.4, (Kind::Float, Device::Cpu));
        let turned = Augmentation {
            hue: 0.05,
            factors: [1.0, 1.3, 1.3],
            ..NONE
        };
        let turned_grey = turned.apply(&grey).unwrap();
        assert!(turned_grey.allclose(&grey, 1e-2, 1e-2, false));
        let red = Tensor::from_slice(&[0.8_f32, -0.8, -0.8]).view([3, 1, 1, 1]);
        let red = turned.apply(&red).unwrap();
        let [green, blue] = [1, 2].map(|colour| red.double_value(&[colour, 0, 0, 0]));
        assert!((green - blue).abs() > 0.05, "{green} {blue}");
    }

    #[test]
    fn draws_are_within_their_ranges_and_differ() {
        let mut draws = Draws::new(4, "augmentation", 0);
        let all: Vec<Augmentation> = (0..200).map(|_| Augmentation::draw(&mut draws)).collect();
        for one in &all {
            assert!((CROP..=1.0).contains(&one.crop) && one.hue.abs() <= HUE);
            assert!(one.factors.iter().all(|f| (f - 1.0).abs() <= FACTOR));
        }
        let flips = all.iter().filter(|one| one.is_flipped).count();
        assert!((60..140).contains(&flips));
        let spread = all.iter().map(|one| one.factors[0]).fold(0.0, f64::max);
        assert!(spread > 1.2);
    }
}
