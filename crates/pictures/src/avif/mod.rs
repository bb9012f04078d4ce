//! AVIF: a container of AV1 key frames, one for the colours and perhaps one for the transparency.

mod av1;
mod planes;

use image::metadata::Orientation;
use image::{DynamicImage, RgbaImage};
use mp4parse::{AvifContext, Feature, ImageMirror, ImageRotation, ParseStrictness, read_avif};

use crate::colours::{CodePoints, Colours};
use crate::decode::{Decoded, Limits};
use crate::problem::PictureProblem;
use crate::raster::Raster;
use planes::Matrix;

/// Whether a file that begins with `ftyp` names AVIF among its brands.
pub fn is_one(bytes: &[u8]) -> bool {
    let Some(length) = bytes.first_chunk::<4>() else {
        return false;
    };
    let length = (u32::from_be_bytes(*length) as usize).min(bytes.len());
    // Length, kind and version stand between the brands.
    let brands = bytes.get(8..length).unwrap_or_default().chunks_exact(4);
    brands
        .into_iter()
        .any(|brand| matches!(brand, b"avif" | b"avis"))
}

/// Decodes an AVIF file: transparency as it is, and not turned yet.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, PictureProblem> {
    let damaged = |error: mp4parse::Error| PictureProblem::Damaged(format!("{error:?}"));
    let container = read_avif(&mut &*bytes, ParseStrictness::Normal).map_err(damaged)?;
    // Of the colours or of the transparency: the parser passes over either.
    if container.unsupported_features.contains(Feature::Grid) {
        let kind = "an AVIF picture in a grid of tiles";
        return Err(PictureProblem::Kind(kind.to_owned()));
    }
    let coded = container.primary_item_coded_data().unwrap_or_default();
    if coded.is_empty() {
        let reason = "it has no picture, or one with properties that are not read";
        return Err(PictureProblem::Damaged(reason.to_owned()));
    }
    let colours = av1::decode(coded, limits)?;
    let (width, height) = (colours.width, colours.height);
    let told = told_colours(&container);
    let matrix = told.map_or(colours.matrix, |told| told.matrix);
    let mut pixels: RgbaImage = planes::to_rgb(&colours, matrix)?;
    if let Some(coded) = container.alpha_item_coded_data() {
        let alpha = av1::decode(coded, limits)?;
        if (alpha.width, alpha.height) != (width, height) {
            let reason = "its transparency has another size than its colours";
            return Err(PictureProblem::Damaged(reason.to_owned()));
        }
        planes::add_alpha(&mut pixels, &alpha, container.premultiplied_alpha);
    }
    let profile = container.icc_colour_information().and_then(Result::ok);
    let code_points = told.map_or(colours.code_points, |told| told.code_points);
    Ok(Decoded {
        raster: Raster::of_rgba(DynamicImage::ImageRgba8(pixels)),
        colours: match profile {
            Some(profile) => Colours::of_icc(Some(profile)),
            None => Colours::of_code_points(code_points),
        },
        turns: turns(&container),
    })
}

/// What a container says of colours; it stands above what the AV1 stream says.
#[derive(Debug, Clone, Copy)]
struct Told {
    code_points: CodePoints,
    matrix: Matrix,
}

fn told_colours(container: &AvifContext) -> Option<Told> {
    let information = container.nclx_colour_information_ptr()?.ok()?;
    if information.is_null() {
        return None;
    }
    // SAFETY: the pointer was made from a reference into `container`, which lives on. The structure
    // is `repr(C)` of three `u8` and a `bool`: four initialised bytes without padding, which may be
    // read as bytes.
    let [primaries, transfer, matrix, full_range] = unsafe { information.cast::<[u8; 4]>().read() };
    Some(Told {
        code_points: CodePoints {
            primaries,
            transfer,
        },
        matrix: Matrix {
            coefficients: u32::from(matrix),
            full_range: full_range != 0,
        },
    })
}

/// How the decoded picture is turned and mirrored, in this order (MIAF, section 7.3.6.7).
fn turns(container: &AvifContext) -> Vec<Orientation> {
    // The container counts against the clock.
    let turn = match container.image_rotation() {
        Ok(ImageRotation::D90) => Some(Orientation::Rotate270),
        Ok(ImageRotation::D180) => Some(Orientation::Rotate180),
        Ok(ImageRotation::D270) => Some(Orientation::Rotate90),
        Ok(ImageRotation::D0) | Err(_) => None,
    };
    let mirror = container.image_mirror_ptr().ok();
    // SAFETY: the pointer is null or was made from a reference into `container`, which lives on.
    let mirror = mirror.and_then(|mirror| unsafe { mirror.as_ref() });
    let mirror = mirror.map(|mirror| match mirror {
        ImageMirror::TopBottom => Orientation::FlipVertical,
        ImageMirror::LeftRight => Orientation::FlipHorizontal,
    });
    turn.into_iter().chain(mirror).collect()
}
