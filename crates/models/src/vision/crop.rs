//! The middle square of a picture, as the image processors of transformers cut it.

use image::RgbImage;
use image::imageops::crop_imm;
use storyloom_nn::error::Result;
use storyloom_nn::image::{Filter, resize, resolution};
use storyloom_story::Resolution;
use tch::Tensor;

/// Shortest side to `shortest` by Pillow's bicubic filter, then the middle square of `side`, which is at most
/// `shortest`.
///
/// # Errors
/// libtorch fails.
pub(super) fn centre_square(picture: &RgbImage, shortest: u32, side: u32) -> Result<RgbImage> {
    let size = covering(resolution(picture), shortest);
    let resized = resize(picture, size, Filter::Bicubic)?;
    let [left, top] = margins(size, side);
    Ok(crop_imm(&resized, left, top, side, side).to_image())
}

/// The size whose shortest side is `side`, the other in proportion and truncated.
pub(super) fn covering(size: Resolution, side: u32) -> Resolution {
    let shortest = u64::from(size.width.min(size.height)).max(1);
    let scaled = |length: u32| (u64::from(length) * u64::from(side) / shortest) as u32;
    Resolution {
        width: scaled(size.width),
        height: scaled(size.height),
    }
}

/// Left and top of the middle square.
pub(super) fn margins(size: Resolution, side: u32) -> [u32; 2] {
    [size.width, size.height].map(|length| (length - side) / 2)
}

/// Squares in [0, 1], `[pictures, 3, side, side]`, less `mean`, over `std`, both of red, green and blue.
///
/// # Errors
/// The squares have another shape.
pub(super) fn normalised(squares: &Tensor, mean: &[f32; 3], std: &[f32; 3]) -> Result<Tensor> {
    let column = |values: &[f32; 3]| Tensor::f_from_slice(values)?.f_view([1, 3, 1, 1]);
    Ok(squares.f_sub(&column(mean)?)?.f_div_(&column(std)?)?)
}
