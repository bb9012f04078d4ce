//! From the bytes of a file to pixels.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use storyloom_story::Ground;

use crate::colours::Colours;
use crate::format::{jpeg, png, tiff, webp};
use crate::problem::PictureProblem;
use crate::raster::Raster;
use crate::{avif, complete};

/// The formats that are read, as people call them.
pub const FORMATS: &str = "PNG, JPEG, WebP, AVIF and TIFF";

/// Bounds of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest file, in bytes.
    pub bytes: u64,
    /// Most pixels of a decoded picture.
    pub pixels: u64,
    /// Shortest and longest side, in pixels.
    pub sides: (u32, u32),
    /// How many times the shorter side the longer one may be. A film takes its shape from its
    /// picture where its story does not say otherwise.
    pub aspect: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            pixels: 64_000_000,
            sides: (16, 16_384),
            aspect: 8,
        }
    }
}

impl Limits {
    /// Fails for a picture of this size.
    ///
    /// # Errors
    /// Its sides, pixels or shape are out of bounds.
    pub fn check(&self, (width, height): (u32, u32)) -> Result<(), PictureProblem> {
        let (least, longest) = self.sides;
        let side = |side| (least..=longest).contains(&side);
        if !side(width) || !side(height) || pixels_of((width, height)) > self.pixels {
            return Err(PictureProblem::Size {
                width,
                height,
                least,
                longest,
                pixels: self.pixels,
            });
        }
        let most = self.aspect;
        if width.max(height) > width.min(height).saturating_mul(most) {
            return Err(PictureProblem::Aspect {
                width,
                height,
                most,
            });
        }
        Ok(())
    }

    /// Bytes that the decoder of a picture of this size may take: four channels of two bytes, as
    /// much again to convert them, and its tables.
    pub(crate) fn memory(&self, size: (u32, u32)) -> u64 {
        pixels_of(size) * 16 + (16 << 20)
    }
}

fn pixels_of((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Avif,
    Tiff,
}

impl Format {
    /// What a file is by its first bytes, whatever its name says.
    fn of(bytes: &[u8]) -> Result<Self, PictureProblem> {
        let begins = |start: &[u8]| bytes.starts_with(start);
        if begins(b"\x89PNG\r\n\x1a\n") {
            Ok(Self::Png)
        } else if begins(b"\xff\xd8\xff") {
            Ok(Self::Jpeg)
        } else if begins(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Ok(Self::WebP)
        } else if begins(b"II*\0") || begins(b"MM\0*") || begins(b"II+\0") || begins(b"MM\0+") {
            Ok(Self::Tiff)
        } else if bytes.get(4..8) == Some(b"ftyp") && avif::is_one(bytes) {
            Ok(Self::Avif)
        } else {
            Err(PictureProblem::Format { what: guess(bytes) })
        }
    }
}

/// What people name a picture although it is none that is read.
fn guess(bytes: &[u8]) -> &'static str {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).to_lowercase();
    let start = start.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let begins = |wanted: &[&str]| wanted.iter().any(|wanted| start.starts_with(wanted));
    if begins(&["<svg", "<?xml"]) {
        "it is a drawing (SVG) or another XML file"
    } else if begins(&["<!doctype", "<html", "<head", "<body"]) {
        "it is a page (HTML); the download was answered by a web site"
    } else if begins(&["version https://git-lfs"]) {
        "it is a pointer of Git LFS; fetch the file itself"
    } else if begins(&["gif8"]) {
        "it is a GIF"
    } else if begins(&["bm"]) {
        "it is a BMP"
    } else if begins(&["%pdf"]) {
        "it is a PDF"
    } else if bytes.get(4..8) == Some(b"ftyp") {
        "it is a HEIC picture or a video"
    } else {
        "its content is of no format that is known"
    }
}

/// What a file says of its picture.
pub(crate) struct Decoded {
    pub(crate) raster: Raster,
    pub(crate) colours: Colours,
    /// How it is turned to be upright, one after the other.
    pub(crate) turns: Vec<Orientation>,
}

/// Decodes a picture of any format of [`FORMATS`], by its content: upright, in sRGB, what is
/// transparent laid on `ground`. Of several pictures in one file it is the first.
///
/// # Errors
/// It is no such file, or cut off, damaged or out of bounds. Bounds are checked before any pixel is
/// decoded.
pub fn read(bytes: &[u8], limits: &Limits, ground: Ground) -> Result<RgbImage, PictureProblem> {
    let format = Format::of(bytes)?;
    complete::check(format, bytes)?;
    let decoded = match format {
        Format::Png => png::decode(bytes, limits)?,
        Format::Jpeg => jpeg::decode(bytes, limits)?,
        Format::WebP => webp::decode(bytes, limits)?,
        Format::Tiff => tiff::decode(bytes, limits)?,
        Format::Avif => avif::decode(bytes, limits)?,
    };
    // Laid on the ground before anything is resized: hidden colours would bleed in.
    let pixels = decoded.raster.flatten(&decoded.colours, ground)?;
    let mut picture = DynamicImage::ImageRgb8(pixels);
    for turn in decoded.turns {
        picture.apply_orientation(turn);
    }
    Ok(picture.into_rgb8())
}

/// How EXIF data say that a picture is turned; not at all where they say nothing.
pub(crate) fn orientation_of(exif: Option<&[u8]>) -> Orientation {
    // The mark of JPEG files, which some writers put into other files as well.
    const MARK: &[u8] = b"Exif\0\0";
    let found = exif.and_then(|exif| {
        let exif = exif.strip_prefix(MARK).unwrap_or(exif);
        Orientation::from_exif_chunk(exif)
    });
    found.unwrap_or(Orientation::NoTransforms)
}
