//! How much each part of a picture counts while a transformer learns.
//!
//! A marking is a few dozen pixels and a wall thousands, and yet a product without its marking is
//! another product. So each thing weighs more the smaller it is seen.

use storyloom_models::tch::Tensor;
use storyloom_story::RgbImage;

use crate::clips::{ClipSource, picture};
use crate::error::Result;
use crate::world::{Owner, Scene, Story};

/// Weights of the latents of a story, 1 where nothing is to be remembered.
#[derive(Debug)]
pub struct Emphasis {
    /// `[shots, 1, t, h, w]`, as the clips.
    pub clips: Tensor,
    /// `[shots, 1, 1, h, w]`, as the last frames.
    pub lasts: Tensor,
}

impl Emphasis {
    /// The weights for latents of these `frames`, rows and columns.
    ///
    /// # Errors
    /// A picture without pixels.
    pub fn of(
        story: &Story,
        source: ClipSource,
        [frames, rows, columns]: [i64; 3],
    ) -> Result<Self> {
        let (mut clips, mut lasts) = (Vec::new(), Vec::new());
        let grid = [columns as usize, rows as usize];
        for shot in &story.shots {
            for frame in 0..frames {
                // Each latent ends at a frame: the first alone, later ones after a group of frames.
                let moment = frame as f32 / (frames - 1).max(1) as f32;
                clips.extend(weights(&shot.scene, moment, source.size, grid)?);
            }
            lasts.extend(weights(&shot.scene, 1.0, source.size, grid)?);
        }
        let shots = story.shots.len() as i64;
        let tensor = |all: &[f32], frames: i64| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(all)?.f_view([shots, 1, frames, rows, columns])?)
        };
        Ok(Self {
            clips: tensor(&clips, frames)?,
            lasts: tensor(&lasts, 1)?,
        })
    }
}

/// What all parts of a thing weigh together, if it is not tiny: this share of a picture.
const SHARE: f32 = 0.3;
/// Most that a thing adds to the weight of a place.
const MOST: f32 = 5.0;
/// Difference of a colour that shows, of 255.
const SHOWS: u8 = 12;

/// The weights of one picture in rows of `grid`, of so many columns and rows.
fn weights(scene: &Scene, moment: f32, size: [u32; 2], grid: [usize; 2]) -> Result<Vec<f32>> {
    let is = picture(scene, moment, size)?;
    let mut weights = vec![1.0; grid[0] * grid[1]];
    for owner in [Owner::Place, Owner::Character, Owner::Product] {
        let would_be = picture(&scene.repainted(owner), moment, size)?;
        let shares = shares(&is, &would_be, grid);
        let area = shares.iter().sum::<f32>() / shares.len() as f32;
        if area > 0.0 {
            let more = (SHARE / area).min(MOST);
            for (weight, share) in weights.iter_mut().zip(shares) {
                *weight += more * share;
            }
        }
    }
    Ok(weights)
}

/// The share of pixels that differ in each cell of `grid`.
fn shares(a: &RgbImage, b: &RgbImage, [columns, rows]: [usize; 2]) -> Vec<f32> {
    let (width, height) = (a.width() as usize, a.height() as usize);
    let mut shares = vec![0.0; columns * rows];
    let pixel = (columns * rows) as f32 / (width * height) as f32;
    let pixels = |image: &RgbImage| image.data().as_chunks::<3>().0.to_vec();
    for (at, (a, b)) in pixels(a).iter().zip(pixels(b)).enumerate() {
        if a.iter().zip(b).any(|(a, b)| a.abs_diff(b) > SHOWS) {
            let (x, y) = (at % width, at / width);
            shares[y * rows / height * columns + x * columns / width] += pixel;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Attribute, Sample, Split};

    #[test]
    fn things_weigh_alike_but_for_tiny_ones() {
        for index in 0..60 {
            let scene = Sample::draw(7, index, Split::Train).scene;
            let product = Attribute::ProductKind.of(&scene).is_some();
            let weights = weights(&scene, 0.5, [160, 96], [20, 12]).unwrap();
            assert_eq!(weights.len(), 240);
            let most = weights.iter().copied().fold(0.0, f32::max);
            let mean = weights.iter().sum::<f32>() / 240.0;
            assert!(weights.iter().all(|weight| *weight >= 1.0), "{scene:?}");
            assert!(
                (1.0..=1.0 + 3.0 * SHARE + 1e-3).contains(&mean),
                "{mean} in {scene:?}"
            );
            assert!(!product || most > 2.0, "{most} in {scene:?}");
        }
    }

    #[test]
    fn only_what_belongs_to_it_is_repainted() {
        let both = (0..200).map(|index| Sample::draw(8, index, Split::Train).scene);
        let scene = both
            .filter(|scene| Attribute::Subject.of(scene) == Some(2))
            .find(|scene| Attribute::Hair.of(scene).is_some());
        let scene = scene.unwrap();
        for owner in [Owner::Place, Owner::Character, Owner::Product] {
            let other = scene.repainted(owner);
            for attribute in Attribute::ALL {
                let same = attribute.of(&scene) == attribute.of(&other);
                let is_paint = attribute.is_remembered() && *attribute != Attribute::ProductMarking;
                assert_eq!(
                    same,
                    attribute.owner() != owner || !is_paint,
                    "{attribute:?}"
                );
            }
        }
    }
}
