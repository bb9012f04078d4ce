//! Contact sheets: pictures side by side in one file.

use std::path::Path;

use image::{Rgb, RgbImage};
use storyloom_models::tch::{Device, Kind, Tensor};

use crate::error::{Result, TrainError};

/// Pixels between pictures.
const GAP: u32 = 2;

/// Writes rows of pictures `[3, height, width]` in [-1, 1], all of one size, as a PNG.
pub fn write(path: &Path, rows: &[Vec<Tensor>]) -> Result<()> {
    let Some(first) = rows.iter().flatten().next() else {
        return Ok(());
    };
    let (_, height, width) = first.size3()?;
    let (height, width) = (height as u32, width as u32);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let size = [columns * (width + GAP), rows.len() as u32 * (height + GAP)];
    let mut sheet = RgbImage::from_pixel(size[0], size[1], Rgb([255; 3]));
    for (row, pictures) in (0..).zip(rows) {
        for (column, picture) in (0..).zip(pictures) {
            let values = bytes(picture)?;
            for (place, pixel) in (0..).zip(values.as_chunks::<3>().0) {
                let x = column * (width + GAP) + place % width;
                let y = row * (height + GAP) + place / width;
                sheet.put_pixel(x, y, Rgb(*pixel));
            }
        }
    }
    sheet
        .save(path)
        .map_err(|error| TrainError::bad_file(path, error))
}

/// `[3, height, width]` in [-1, 1] to bytes, colours innermost.
fn bytes(picture: &Tensor) -> Result<Vec<u8>> {
    let picture = picture
        .f_to_device(Device::Cpu)?
        .f_add_scalar(1.0)?
        .f_mul_scalar(127.5)?
        .f_clamp(0.0, 255.0)?
        .f_round()?
        .f_to_kind(Kind::Uint8)?
        .f_permute([1, 2, 0])?
        .f_contiguous()?
        .f_flatten(0, -1)?;
    Ok(Vec::try_from(&picture)?)
}
