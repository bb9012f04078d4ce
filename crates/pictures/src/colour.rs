//! Colours: from the profile of a file to sRGB.

use image::DynamicImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

/// The picture in sRGB. A profile of other channels than the decoded ones (a printer's, where the
/// decoder has already made red, green and blue of the inks) says nothing about these, and a damaged
/// one is as none: the picture stays as it is.
pub fn to_srgb(picture: DynamicImage, profile: Option<&[u8]>) -> DynamicImage {
    let profile = profile.and_then(|bytes| ColorProfile::new_from_slice(bytes).ok());
    let Some(profile) = profile else {
        return picture;
    };
    let converted = match (profile.color_space, picture.color().has_color()) {
        (DataColorSpace::Rgb, true) if picture.color().bytes_per_pixel() > 4 => {
            rgb16(&picture, &profile)
        }
        (DataColorSpace::Rgb, true) => rgb8(&picture, &profile),
        (DataColorSpace::Gray, false) => grey(&picture, &profile),
        _ => None,
    };
    converted.unwrap_or(picture)
}

/// 8 bits a channel; the alpha channel stays.
fn rgb8(picture: &DynamicImage, profile: &ColorProfile) -> Option<DynamicImage> {
    let mut pixels = picture.to_rgba8();
    let options = TransformOptions::default();
    let srgb = ColorProfile::new_srgb();
    let transform = profile
        .create_transform_8bit(Layout::Rgba, &srgb, Layout::Rgba, options)
        .ok()?;
    let source = pixels.clone();
    transform.transform(source.as_raw(), &mut pixels).ok()?;
    Some(DynamicImage::ImageRgba8(pixels))
}

/// 16 bits a channel; the alpha channel stays.
fn rgb16(picture: &DynamicImage, profile: &ColorProfile) -> Option<DynamicImage> {
    let mut pixels = picture.to_rgba16();
    let options = TransformOptions::default();
    let srgb = ColorProfile::new_srgb();
    let transform = profile
        .create_transform_16bit(Layout::Rgba, &srgb, Layout::Rgba, options)
        .ok()?;
    let source = pixels.clone();
    transform.transform(source.as_raw(), &mut pixels).ok()?;
    Some(DynamicImage::ImageRgba16(pixels))
}

/// Grey with a curve of its own.
fn grey(picture: &DynamicImage, profile: &ColorProfile) -> Option<DynamicImage> {
    let source = picture.to_luma_alpha8();
    let mut pixels = picture.to_rgba8();
    let options = TransformOptions::default();
    let srgb = ColorProfile::new_srgb();
    let transform = profile
        .create_transform_8bit(Layout::GrayAlpha, &srgb, Layout::Rgba, options)
        .ok()?;
    transform.transform(source.as_raw(), &mut pixels).ok()?;
    Some(DynamicImage::ImageRgba8(pixels))
}
