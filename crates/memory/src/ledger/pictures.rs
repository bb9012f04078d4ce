//! Keyframes as PNG files, exactly as they are. What users bring is read by `storyloom-pictures`.

use std::io::Cursor;
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageReader};
use storyloom_story::RgbImage;

use crate::error::{MemoryError, Result};

/// Sides and pixels above this are refused before anything is allocated.
const MAX_SIDE: u32 = 16_384;

/// A lossless PNG of the picture; the same bytes for the same picture.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(
            picture.data(),
            picture.width(),
            picture.height(),
            ExtendedColorType::Rgb8,
        )
        .map_err(|error| MemoryError::damaged("a picture to store", error.to_string()))?;
    Ok(bytes)
}

/// Decodes a keyframe; `path` is for messages.
pub fn decode_picture(path: &Path, bytes: &[u8]) -> Result<RgbImage> {
    let bad = |reason: String| {
        MemoryError::damaged(
            path,
            format!("not a PNG picture that can be read: {reason}"),
        )
    };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| bad(error.to_string()))?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let picture = reader
        .decode()
        .map_err(|error| bad(error.to_string()))?
        .into_rgb8();
    let (width, height) = picture.dimensions();
    RgbImage::new(width, height, picture.into_raw()).map_err(|error| bad(error.to_string()))
}

/// Width and height of a keyframe, from the beginning of its file; `path` is for messages.
///
/// # Errors
/// It is no picture.
pub fn picture_size(path: &Path, bytes: &[u8]) -> Result<(u32, u32)> {
    ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(image::ImageError::from)
        .and_then(ImageReader::into_dimensions)
        .map_err(|error| MemoryError::damaged(path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_is_lossless_and_repeatable() {
        let data = (0..5 * 3 * 3).map(|value| (value * 7) as u8).collect();
        let picture = RgbImage::new(5, 3, data).unwrap();
        let bytes = encode_png(&picture).unwrap();
        assert_eq!(decode_picture(Path::new("x.png"), &bytes).unwrap(), picture);
        assert_eq!(encode_png(&picture).unwrap(), bytes);
        let error = decode_picture(Path::new("x.png"), &bytes[..bytes.len() / 2]).unwrap_err();
        assert!(error.to_string().contains("x.png"));
    }
}
