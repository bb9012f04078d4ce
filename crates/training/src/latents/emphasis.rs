//! How much each part of a picture counts while a transformer learns.
//!
//! A marking is a few dozen pixels and a wall thousands, and yet a product without its marking is
//! another product. So each thing weighs more the smaller it is seen.

use storyloom_nn::tch::Tensor;
use storyloom_story::RgbImage;
use storyloom_tinyworld::{Owner, Scene, Story};

use crate::clips::{ClipSource, picture};
use crate::error::Result;

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
            let mut last = Vec::new();
            for frame in 0..frames {
                // Each latent ends at a frame: the first alone, later ones after a group of frames.
                let moment = frame as f32 / (frames - 1).max(1) as f32;
                last = weights(&shot.scene, moment, source.size, grid)?;
                clips.extend_from_slice(&last);
            }
            if frames == 1 {
                last = weights(&shot.scene, 1.0, source.size, grid)?;
            }
            lasts.extend(last);
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
/// Share of a cell that has to show a thing for all of the cell to count.
const SEEN: f32 = 0.25;

/// The weights of one picture in the rows of a grid of `grid` columns and rows.
fn weights(scene: &Scene, moment: f32, size: [u32; 2], grid: [usize; 2]) -> Result<Vec<f32>> {
    let is = picture(scene, moment, size)?;
    let mut weights = vec![1.0; grid[0] * grid[1]];
    for would_be in repainted(scene) {
        let shares = shares(&is, &picture(&would_be, moment, size)?, grid);
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

/// The scene with each of its things painted otherwise. Trim and marking of a product are a thing of
/// their own, on top of it.
fn repainted(scene: &Scene) -> Vec<Scene> {
    let mut scenes = vec![scene.repainted(Owner::Place)];
    if scene.subject.character().is_some() {
        scenes.push(scene.repainted(Owner::Character));
    }
    if scene.subject.product().is_some() {
        scenes.push(scene.repainted(Owner::Product));
        scenes.push(scene.retrimmed());
    }
    scenes
}

/// How much of each cell of `grid` differs, 1 from [`SEEN`] of its pixels on.
fn shares(a: &RgbImage, b: &RgbImage, [columns, rows]: [usize; 2]) -> Vec<f32> {
    let (width, height) = (a.width() as usize, a.height() as usize);
    let mut shares = vec![0.0; columns * rows];
    let pixel = (columns * rows) as f32 / (width * height) as f32;
    let pixels = [a, b].map(|image| image.data().as_chunks::<3>().0.iter());
    let [a, b] = pixels;
    for (at, (a, b)) in a.zip(b).enumerate() {
        if a.iter().zip(b).any(|(a, b)| a.abs_diff(*b) > SHOWS) {
            let (x, y) = (at % width, at / width);
            shares[y * rows / height * columns + x * columns / width] += pixel / SEEN;
        }
    }
    shares.iter().map(|share| share.min(1.0)).collect()
}

#[cfg(test)]
mod tests {
    use storyloom_tinyworld::{Attribute, Sample, Split};

    use super::*;

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
                (1.0..=1.0 + 4.0 * SHARE + 1e-3).contains(&mean),
                "{mean} in {scene:?}"
            );
            assert!(!product || most > 2.0, "{most} in {scene:?}");
            assert_eq!(
                repainted(&scene).len(),
                1 + usize::from(scene.subject.character().is_some()) + 2 * usize::from(product)
            );
        }
    }

    #[test]
    fn a_marking_counts_on_top_of_its_product() {
        let all = (0..400).map(|index| Sample::draw(9, index, Split::Train).scene);
        let mut marked = 0;
        for scene in all.filter(|scene| scene.subject.product().is_some()) {
            let is = picture(&scene, 0.5, [160, 96]).unwrap();
            let [product, trim] = [scene.repainted(Owner::Product), scene.retrimmed()]
                .map(|scene| shares(&is, &picture(&scene, 0.5, [160, 96]).unwrap(), [20, 12]));
            let weights = weights(&scene, 0.5, [160, 96], [20, 12]).unwrap();
            let area = product.iter().sum::<f32>() / 240.0;
            let least = 1.0 + 2.0 * (SHARE / area).min(MOST);
            for (weight, _) in weights.iter().zip(&trim).filter(|(_, trim)| **trim == 1.0) {
                assert!(*weight > least - 1e-3, "{weight} of {least} in {scene:?}");
                marked += 1;
            }
        }
        assert!(marked > 100, "{marked}");
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
