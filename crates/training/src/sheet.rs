//! Contact sheets of tensors: pictures side by side in one file.

use std::path::Path;

use storyloom_nn::tch::{Device, Kind, Tensor};
use storyloom_story::RgbImage;
use storyloom_tinyworld::grid;

use crate::error::{Result, TrainError};

/// Writes rows of pictures `[3, height, width]` in [-1, 1], all of one size, as a PNG; nothing if
/// there are none.
pub fn write(path: &Path, rows: &[Vec<Tensor>]) -> Result<()> {
    let rows = rows
        .iter()
        .map(|row| row.iter().map(|picture| plain(picture, path)).collect())
        .collect::<Result<Vec<Vec<_>>>>()?;
    let Some(sheet) = grid(&rows) else {
        return Ok(());
    };
    sheet
        .save(path)
        .map_err(|error| TrainError::bad_file(path, error))
}

/// `[3, height, width]` in [-1, 1] as bytes, colours innermost.
fn plain(picture: &Tensor, path: &Path) -> Result<RgbImage> {
    let (_, height, width) = picture.size3()?;
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
    RgbImage::new(width as u32, height as u32, Vec::try_from(&picture)?)
        .map_err(|error| TrainError::bad_file(path, error))
}
