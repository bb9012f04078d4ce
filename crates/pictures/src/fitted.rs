//! The shape of a film, and smaller copies.

use image::imageops::{FilterType, crop_imm, overlay, resize};
use image::{Rgb, RgbImage};
use storyloom_story::{Fit, Ground, Resolution};

/// As wide as the picture is larger than the film, so that nothing aliases.
const FILTER: FilterType = FilterType::Lanczos3;

/// The picture in the shape `size`, filtered once. What it shows keeps its aspect unless `fit` is
/// [`Fit::Stretch`].
pub fn fitted(picture: &RgbImage, size: Resolution, fit: Fit, ground: Ground) -> RgbImage {
    let (width, height) = picture.dimensions();
    if (width, height) == (size.width, size.height) {
        return picture.clone();
    }
    match fit {
        Fit::Stretch => resize(picture, size.width, size.height, FILTER),
        Fit::Pad => {
            let (wide, high) = inside((width, height), size);
            let small = resized(picture, wide, high);
            let mut film = RgbImage::from_pixel(size.width, size.height, Rgb(ground.0));
            let (left, top) = ((size.width - wide) / 2, (size.height - high) / 2);
            overlay(&mut film, &small, i64::from(left), i64::from(top));
            film
        }
        Fit::Crop => {
            let (left, top, wide, high) = middle((width, height), size);
            let cut = crop_imm(picture, left, top, wide, high).to_image();
            resized(&cut, size.width, size.height)
        }
    }
}

/// The picture, made smaller until its longer side has at most `side` pixels.
pub fn shrunk(picture: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let longer = width.max(height);
    if longer <= side {
        return picture.clone();
    }
    let scaled = |length: u32| {
        let exact = u64::from(length) * u64::from(side) / u64::from(longer);
        u32::try_from(exact).unwrap_or(side).max(1)
    };
    resize(picture, scaled(width), scaled(height), FilterType::Triangle)
}

fn resized(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    resize(picture, width, height, FILTER)
}

/// The largest size of the picture's shape inside of the film's, to the nearest pixel.
fn inside((width, height): (u32, u32), size: Resolution) -> (u32, u32) {
    let [width, height] = [width, height].map(u64::from);
    let [wide, high] = [size.width, size.height].map(u64::from);
    let scaled = |side: u64, to: u64, of: u64, most: u64| {
        u32::try_from(((side * to + of / 2) / of).clamp(1, most)).unwrap_or(u32::MAX)
    };
    if width * high >= height * wide {
        (size.width, scaled(height, wide, width, high))
    } else {
        (scaled(width, high, height, wide), size.height)
    }
}

/// The largest part of the film's shape in the middle of the picture: left, top, width and height.
fn middle((width, height): (u32, u32), size: Resolution) -> (u32, u32, u32, u32) {
    let film = Resolution { width, height };
    let (wide, high) = inside((size.width, size.height), film);
    ((width - wide) / 2, (height - high) / 2, wide, high)
}
