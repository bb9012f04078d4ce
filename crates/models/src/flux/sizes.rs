//! Sizes of pictures for FLUX.1-Kontext (specification `flux`, 5.1).

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Resolution;

/// Pixels of a side that make one token: 8 of the autoencoder, times two.
const CELL: u32 = 16;

const fn size(width: u32, height: u32) -> Resolution {
    Resolution { width, height }
}

/// The sizes that Kontext was trained with, from narrow to wide.
pub const PREFERRED_SIZES: [Resolution; 17] = [
    size(672, 1568),
    size(688, 1504),
    size(720, 1456),
    size(752, 1392),
    size(800, 1328),
    size(832, 1248),
    size(880, 1184),
    size(944, 1104),
    size(1024, 1024),
    size(1104, 944),
    size(1184, 880),
    size(1248, 832),
    size(1328, 800),
    size(1392, 752),
    size(1456, 720),
    size(1504, 688),
    size(1568, 672),
];

/// The size that a condition picture is resized to: the preferred one whose shape is nearest to that of the picture,
/// cut to whole tokens; the narrower of two that are equally near.
///
/// # Errors
/// A side is shorter than a token.
pub fn condition_size(picture: Resolution) -> Result<Resolution> {
    let cut = cut(picture)?;
    let shape = |size: &Resolution| f64::from(size.width) / f64::from(size.height);
    let distance = |size: &Resolution| (shape(&cut) - shape(size)).abs();
    // The first of equal ones is kept, and they are in the order of their widths.
    let nearest = PREFERRED_SIZES.into_iter().reduce(|best, size| {
        if distance(&size) < distance(&best) {
            size
        } else {
            best
        }
    });
    Ok(nearest.unwrap_or(cut))
}

/// The size that is made for a wish: its shape with `area` pixels, cut to whole tokens. diffusers takes an area of
/// 1024 x 1024 unless it is told another.
///
/// # Errors
/// The wish has no pixels, or a side would be shorter than a token.
pub fn output_size(wish: Resolution, area: u64) -> Result<Resolution> {
    if wish.width == 0 || wish.height == 0 {
        return Err(too_small(wish));
    }
    let shape = f64::from(wish.width) / f64::from(wish.height);
    let side = |square: f64| square.sqrt().round_ties_even() as u32;
    let area = area as f64;
    cut(size(side(area * shape), side(area / shape)))
}

fn cut(picture: Resolution) -> Result<Resolution> {
    let [width, height] = [picture.width, picture.height].map(|side| side / CELL * CELL);
    match width > 0 && height > 0 {
        true => Ok(size(width, height)),
        false => Err(too_small(picture)),
    }
}

fn too_small(picture: Resolution) -> ModelError {
    let Resolution { width, height } = picture;
    let reason = format!("{width}x{height} is less than {CELL} pixels high or wide");
    ModelError::input("picture size", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::vectors::{flux_vector, integers};

    /// Pairs of sizes of an entry.
    fn pairs(name: &str) -> Vec<[Resolution; 2]> {
        let sides = integers(&flux_vector("kontext_sizes")[name]);
        let sides: Vec<u32> = sides.iter().map(|&side| side as u32).collect();
        let pair = |sides: &[u32; 4]| [size(sides[0], sides[1]), size(sides[2], sides[3])];
        sides.as_chunks().0.iter().map(pair).collect()
    }

    #[test]
    fn conditions_get_the_preferred_size_of_their_shape() {
        let preferred = integers(&flux_vector("kontext_sizes/preferred"));
        let found = PREFERRED_SIZES.map(|size| [i64::from(size.width), i64::from(size.height)]);
        assert_eq!(found.as_flattened(), preferred);
        for [picture, expected] in pairs("condition") {
            assert_eq!(condition_size(picture).unwrap(), expected, "{picture:?}");
        }
        // The sides are cut before the shapes are compared; the original compares them as they are.
        let differs = integers(&flux_vector("kontext_sizes/condition_raw_differs"));
        let [width, height, wide, high] = [0, 1, 2, 3].map(|at| differs[at] as u32);
        assert_eq!(
            condition_size(size(width, height)).unwrap(),
            size(wide, high)
        );
        assert!(condition_size(size(640, 15)).is_err());
    }

    #[test]
    fn outputs_have_the_area_that_was_told() {
        for (name, area) in [("output", 1024 * 1024), ("output_area_512x512", 512 * 512)] {
            for [wish, expected] in pairs(name) {
                assert_eq!(
                    output_size(wish, area).unwrap(),
                    expected,
                    "{name} {wish:?}"
                );
            }
        }
        assert!(output_size(size(0, 5), 1024).is_err());
        assert!(output_size(size(1600, 1), 1024).is_err());
    }
}
