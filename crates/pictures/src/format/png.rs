//! PNG; of an animation it is the still picture.

use std::io::Cursor;

use moxcms::{Chromaticity, ColorPrimaries, ColorProfile, curve_from_gamma};
use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Transformations};

use crate::colours::{CodePoints, Colours};
use crate::decode::{Decoded, Limits, orientation_of};
use crate::problem::PictureProblem;
use crate::raster::{Alpha, Channels, Raster, Samples};

/// What is missing of a file.
const ENDS: &str = "it ends before its picture does";

pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, PictureProblem> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(problem)?;
    let size = (header.width, header.height);
    limits.check(size)?;
    let memory = limits.memory(size);
    decoder.set_limits(png::Limits {
        bytes: usize::try_from(memory).unwrap_or(usize::MAX),
    });
    let mut reader = decoder.read_info().map_err(problem)?;
    let length = reader.output_buffer_size();
    let length = length.filter(|length| *length as u64 <= memory);
    let length = length.ok_or_else(|| PictureProblem::damaged("it is too large"))?;
    let mut samples = vec![0; length];
    let frame = reader.next_frame(&mut samples).map_err(problem)?;
    samples.truncate(frame.buffer_size());
    // The end of the file is a part of it, and metadata may stand there.
    reader.finish().map_err(problem)?;
    let info = reader.info();
    Ok(Decoded {
        raster: Raster {
            size,
            channels: channels(frame.color_type)?,
            alpha: Alpha::Straight,
            samples: match frame.bit_depth {
                BitDepth::Sixteen => Samples::Words(words(&samples)),
                _ => Samples::Bytes(samples),
            },
        },
        colours: colours(info),
        turns: vec![orientation_of(info.exif_metadata.as_deref())],
    })
}

fn channels(colour: ColorType) -> Result<Channels, PictureProblem> {
    Ok(match colour {
        ColorType::Grayscale => Channels::Gray,
        ColorType::GrayscaleAlpha => Channels::GrayAlpha,
        ColorType::Rgb => Channels::Rgb,
        ColorType::Rgba => Channels::Rgba,
        ColorType::Indexed => return Err(PictureProblem::damaged("its palette is missing")),
    })
}

fn words(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
}

fn problem(error: DecodingError) -> PictureProblem {
    match error {
        DecodingError::IoError(_) => PictureProblem::Cut(ENDS),
        error => PictureProblem::damaged(error),
    }
}

/// What the colours are, by the order in which the chunks count (PNG, third edition, 4.3).
fn colours(info: &Info<'_>) -> Colours {
    if let Some(points) = &info.coding_independent_code_points {
        return Colours::of_code_points(CodePoints {
            primaries: points.color_primaries,
            transfer: points.transfer_function,
        });
    }
    if info.icc_profile.is_some() {
        return Colours::of_icc(info.icc_profile.as_deref());
    }
    match info.srgb {
        Some(_) => Colours::Srgb,
        None => of_gamma(info),
    }
}

/// The chunks of the time before profiles; a gamma of 1/2.2 alone is what sRGB pictures have.
fn of_gamma(info: &Info<'_>) -> Colours {
    const USUAL: f32 = 0.45455;
    let gamma = info.gama_chunk.map_or(USUAL, |gamma| gamma.into_value());
    let usual = (gamma - USUAL).abs() < 0.01;
    let mut profile = ColorProfile::new_srgb();
    if (usual && info.chrm_chunk.is_none()) || !(0.05..=5.0).contains(&gamma) {
        return Colours::Srgb;
    }
    profile.cicp = None;
    if !usual {
        let curve = curve_from_gamma(1.0 / gamma);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
    }
    if let Some(found) = &info.chrm_chunk {
        let at = |(x, y): (png::ScaledFloat, png::ScaledFloat)| {
            Chromaticity::new(x.into_value(), y.into_value())
        };
        let corners = [found.white, found.red, found.green, found.blue];
        if corners.iter().any(|(_, y)| y.into_value() <= 0.0) {
            return Colours::Srgb;
        }
        let primaries = ColorPrimaries {
            red: at(found.red),
            green: at(found.green),
            blue: at(found.blue),
        };
        profile.update_rgb_colorimetry(at(found.white).to_xyyb(), primaries);
    }
    Colours::of_profile(profile)
}
