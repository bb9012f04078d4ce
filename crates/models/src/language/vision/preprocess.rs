//! From a picture to patches, as transformers' `Qwen2VLImageProcessor` does.

use std::path::Path;

use image::RgbImage;
use serde_json::Value;
use storyloom_nn::checkpoint::read_json;
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::image::{Filter, fit_cells, resize, resolution, to_unit_tensor};
use storyloom_story::Resolution;
use tch::Tensor;

use super::VisionConfig;
use crate::vision::clip::{CLIP_MEAN, CLIP_STD};

/// Least and most pixels of a picture that the tower sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelLimits {
    /// Smaller pictures are enlarged to this area.
    pub least: u32,
    /// Larger ones are reduced to this one.
    pub most: u32,
}

impl PixelLimits {
    /// Without `preprocessor_config.json`.
    pub const DEFAULT: Self = Self {
        least: 56 * 56,
        most: 28 * 28 * 1280,
    };

    /// Those of `preprocessor_config.json` of a model's folder, where it has any.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("preprocessor_config.json");
        if !path.exists() {
            return Ok(Self::DEFAULT);
        }
        let json = read_json(&path)?;
        let pixels = |value: Option<&Value>| value.and_then(Value::as_u64);
        let limit = |name: &str, side: &str, default: u32| {
            let found =
                pixels(json.get(name)).or(pixels(json.get("size").and_then(|s| s.get(side))));
            found
                .and_then(|found| u32::try_from(found).ok())
                .unwrap_or(default)
        };
        let least = limit("min_pixels", "shortest_edge", Self::DEFAULT.least);
        let most = limit("max_pixels", "longest_edge", Self::DEFAULT.most);
        if least == 0 || most < least {
            let reason = format!("pictures of {least} to {most} pixels");
            return Err(ModelError::bad_file(path, reason));
        }
        Ok(Self { least, most })
    }
}

/// A picture cut into patches.
#[derive(Debug)]
pub struct ImagePatches {
    /// Normalised pixels, f32 `[patches, channels * frames * side * side]`, the patches of a cell
    /// together.
    pub pixels: Tensor,
    /// Frames, rows and columns of patches.
    pub grid: [i64; 3],
}

/// Sides that differ more than this make no picture.
const LONGEST_SHAPE: u32 = 200;

impl ImagePatches {
    /// Resizes a picture to whole cells within `limits`, and cuts it.
    ///
    /// # Errors
    /// One side is more than 200 times the other.
    pub fn new(picture: &RgbImage, config: &VisionConfig, limits: PixelLimits) -> Result<Self> {
        let Resolution { width, height } = resolution(picture);
        let (long, short) = (width.max(height), width.min(height));
        if short == 0 || long > short * LONGEST_SHAPE {
            let reason = format!("{width}x{height} is too long; crop it");
            return Err(ModelError::input("picture", reason));
        }
        let area = [limits.least, limits.most];
        let size = fit_cells(Resolution { width, height }, area, config.cell() as u32);
        let resized = resize(picture, size, Filter::Bicubic)?;
        let column = |values: &[f32; 3]| Tensor::f_from_slice(values)?.f_view([3, 1, 1]);
        let pixels = to_unit_tensor(&resized)?
            .f_sub(&column(&CLIP_MEAN)?)?
            .f_div_(&column(&CLIP_STD)?)?;
        Self::cut(&pixels, config)
    }

    /// Pictures whose patches lie one after the other, as processors of transformers give them.
    ///
    /// # Errors
    /// The grids have more or fewer patches than there are.
    pub fn split(pixels: &Tensor, grids: &[[i64; 3]]) -> Result<Vec<Self>> {
        let counts: Vec<i64> = grids.iter().map(|grid| grid.iter().product()).collect();
        let (patches, _) = pixels.size2()?;
        if counts.iter().any(|&count| count < 1) || counts.iter().sum::<i64>() != patches {
            let reason = format!("{patches} patches for the grids {grids:?}");
            return Err(ModelError::input("pixel_values", reason));
        }
        let parts = pixels.f_split_with_sizes(&counts, 0)?;
        let picture = |(pixels, &grid)| Self { pixels, grid };
        Ok(parts.into_iter().zip(grids).map(picture).collect())
    }

    /// Cuts `[channels, height, width]` of whole cells.
    fn cut(pixels: &Tensor, config: &VisionConfig) -> Result<Self> {
        let (channels, height, width) = pixels.size3()?;
        let VisionConfig {
            patch,
            merge,
            frames,
            ..
        } = *config;
        let (rows, columns) = (height / patch, width / patch);
        let shape = [
            channels,
            rows / merge,
            merge,
            patch,
            columns / merge,
            merge,
            patch,
        ];
        let patches = pixels
            .f_view(shape.as_slice())?
            .f_permute([1, 4, 2, 5, 0, 3, 6])?
            .f_unsqueeze(5)?;
        let mut repeated = patches.size();
        repeated[5] = frames;
        let pixels = patches
            .f_expand(repeated.as_slice(), false)?
            .f_reshape([rows * columns, channels * frames * patch * patch])?;
        Ok(Self {
            pixels,
            grid: [1, rows, columns],
        })
    }
}
