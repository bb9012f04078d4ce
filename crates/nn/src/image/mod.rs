//! Pictures as files, as tensors, and resized in the ways the references use.
//!
//! The references resize in four different ways, and none replaces another: [`Filter`] is PIL's
//! 8-bit resampling with antialias, [`resize_bilinear`] is libtorch's, [`stretch_bicubic`] and
//! [`stretch_bilinear`] are libtorch's without antialias.

mod resample;

use image::RgbImage;
use storyloom_story::{Resolution, RgbImage as StoryPicture};
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

pub use resample::{Filter, resize};

/// Width and height of a picture.
pub fn resolution(picture: &RgbImage) -> Resolution {
    Resolution {
        width: picture.width(),
        height: picture.height(),
    }
}

/// A picture as f32 `[3, height, width]` in [0, 1].
pub fn to_unit_tensor(picture: &RgbImage) -> Result<Tensor> {
    unit(&levels(picture)?)
}

/// The bytes of a picture as `[3, height, width]`, the colours of a pixel side by side in memory.
fn levels(picture: &RgbImage) -> Result<Tensor> {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err(ModelError::input("picture", "it has no pixels"));
    }
    let size = [i64::from(height), i64::from(width), 3];
    Ok(Tensor::f_from_slice(picture.as_raw().as_slice())?
        .f_view(size)?
        .f_permute([2, 0, 1])?)
}

/// Bytes as f32 in [0, 1].
fn unit(levels: &Tensor) -> Result<Tensor> {
    Ok(levels
        .f_to_kind(Kind::Float)?
        .f_contiguous()?
        .f_div_scalar_(255.0)?)
}

/// A picture resized to exactly `size`, whatever its shape, f32 `[3, height, width]` in [0, 1]: as
/// `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` resizes 8-bit frames on the CPU.
///
/// The filter is that of [`Filter::Bilinear`], and the result has 8 bits as well. libtorch's weights
/// have 16 bits and PIL's 22, so that a level differs by one now and then.
pub fn resize_bilinear(picture: &RgbImage, size: Resolution) -> Result<Tensor> {
    let levels = levels(picture)?.f_unsqueeze(0)?;
    let resized = levels.f_internal_upsample_bilinear2d_aa(extent(size), false, None, None)?;
    unit(&resized.f_squeeze_dim(0)?)
}

/// A picture as f32 `[3, height, width]` in [-1, 1], the range of the VAE.
pub fn to_tensor(picture: &RgbImage) -> Result<Tensor> {
    Ok(to_unit_tensor(picture)?
        .f_mul_scalar_(2.0)?
        .f_sub_scalar_(1.0)?)
}

/// A tensor `[3, height, width]` in [-1, 1] as a picture: clamped, then `(x + 1) / 2 * 255`
/// truncated, as the original writer does. Not-a-number is an error.
pub fn to_picture(tensor: &Tensor) -> Result<RgbImage> {
    let size = tensor.size();
    let &[3, height, width] = size.as_slice() else {
        let reason = format!("[3, height, width] is needed, found {size:?}");
        return Err(ModelError::input("picture tensor", reason));
    };
    let bytes = to_bytes(&tensor.f_unsqueeze(1)?)?;
    picture_of(bytes, height, width)
}

/// A tensor `[3, height, width]` in [-1, 1] as a picture: halved, moved to [0, 1] and clamped, then times 255 and
/// rounded, halves to even, as diffusers' image pipelines do. Not-a-number is an error.
///
/// Where [`to_picture`] truncates, a level is one higher every other time.
pub fn to_rounded_picture(tensor: &Tensor) -> Result<RgbImage> {
    let size = tensor.size();
    let &[3, height, width] = size.as_slice() else {
        let reason = format!("[3, height, width] is needed, found {size:?}");
        return Err(ModelError::input("picture tensor", reason));
    };
    let levels = finite(&tensor.f_unsqueeze(1)?)?
        .f_div_scalar(2.0)?
        .f_add_scalar(0.5)?
        .f_clamp(0.0, 1.0)?
        .f_mul_scalar(255.0)?
        .f_round()?;
    picture_of(interleaved(&levels)?, height, width)
}

/// A clip `[3, frames, height, width]` in [-1, 1] as pictures, in the manner of [`to_picture`].
pub fn to_pictures(clip: &Tensor) -> Result<Vec<RgbImage>> {
    let size = clip.size();
    let &[3, frames, height, width] = size.as_slice() else {
        let reason = format!("[3, frames, height, width] is needed, found {size:?}");
        return Err(ModelError::input("clip tensor", reason));
    };
    (0..frames)
        .map(|frame| {
            let bytes = to_bytes(&clip.f_narrow(1, frame, 1)?)?;
            picture_of(bytes, height, width)
        })
        .collect()
}

/// Pictures of one size as a clip, f32 `[3, frames, height, width]` in [-1, 1].
pub fn to_clip(pictures: &[&RgbImage]) -> Result<Tensor> {
    let frames = pictures.iter().map(|picture| to_tensor(picture));
    let frames = frames.collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&frames, 1)?)
}

/// Pictures as f32 `[3, pictures, height, width]` in [-1, 1]; those of another size are stretched,
/// bicubic without antialias (StoryMem specification, section 4.1).
pub fn pixels(pictures: &[&StoryPicture], size: Resolution, device: Device) -> Result<Tensor> {
    let frame = |picture: &&StoryPicture| -> Result<Tensor> {
        let pixels = to_tensor(&plain_picture(picture)?)?;
        let fits = (picture.width(), picture.height()) == (size.width, size.height);
        if fits {
            Ok(pixels)
        } else {
            stretch_bicubic(&pixels, size)
        }
    };
    let frames = pictures.iter().map(frame).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&frames, 1)?.f_to_device(device)?)
}

/// A picture of a story as one of the image library.
///
/// # Errors
/// Never for a picture that was made with its checks.
pub fn plain_picture(picture: &StoryPicture) -> Result<RgbImage> {
    let data = picture.data().to_vec();
    RgbImage::from_raw(picture.width(), picture.height(), data)
        .ok_or_else(|| ModelError::input("picture", "its size does not fit its data"))
}

/// The inverse of [`plain_picture`].
pub fn story_picture(picture: RgbImage) -> Result<StoryPicture> {
    let (width, height) = picture.dimensions();
    StoryPicture::new(width, height, picture.into_raw())
        .map_err(|error| ModelError::input("picture", error.to_string()))
}

/// `[3, 1, height, width]` in [-1, 1] to interleaved bytes.
fn to_bytes(frame: &Tensor) -> Result<Vec<u8>> {
    let levels = finite(frame)?
        .f_clamp(-1.0, 1.0)?
        .f_add_scalar(1.0)?
        .f_div_scalar(2.0)?
        .f_mul_scalar(255.0)?;
    interleaved(&levels)
}

/// The frame on the host in f32; not-a-number is an error.
fn finite(frame: &Tensor) -> Result<Tensor> {
    let frame = frame.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    if frame.f_isnan()?.f_any()?.f_int64_value(&[])? != 0 {
        let what = "a decoded frame".to_owned();
        return Err(ModelError::NotFinite { what });
    }
    Ok(frame)
}

/// Levels `[3, 1, height, width]` in [0, 255], truncated, the colours of a pixel side by side.
fn interleaved(levels: &Tensor) -> Result<Vec<u8>> {
    let levels = levels
        .f_to_kind(Kind::Uint8)?
        .f_permute([1, 2, 3, 0])?
        .f_contiguous()?;
    let mut bytes = vec![0_u8; levels.numel()];
    levels.f_copy_data(&mut bytes, levels.numel())?;
    Ok(bytes)
}

fn picture_of(bytes: Vec<u8>, height: i64, width: i64) -> Result<RgbImage> {
    RgbImage::from_raw(width as u32, height as u32, bytes)
        .ok_or_else(|| ModelError::input("picture tensor", "its size does not fit its data"))
}

/// Resizes `[3, height, width]` or `[batch, 3, height, width]` to `size` as
/// `torch.nn.functional.interpolate(mode="bicubic")` does: no antialias, half-pixel centres, the
/// shape not kept, values not clamped. StoryMem resizes memory pictures this way (section 4.1).
pub fn stretch_bicubic(tensor: &Tensor, size: Resolution) -> Result<Tensor> {
    batched(tensor, |tensor| {
        Ok(tensor.f_upsample_bicubic2d(extent(size), false, None, None)?)
    })
}

/// As [`stretch_bicubic`] with `mode="bilinear"` (keyframe selection, section 3.2 step 2).
pub fn stretch_bilinear(tensor: &Tensor, size: Resolution) -> Result<Tensor> {
    batched(tensor, |tensor| {
        Ok(tensor.f_upsample_bilinear2d(extent(size), false, None, None)?)
    })
}

fn extent(size: Resolution) -> [i64; 2] {
    [i64::from(size.height), i64::from(size.width)]
}

fn batched(tensor: &Tensor, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match tensor.dim() {
        3 => Ok(change(&tensor.f_unsqueeze(0)?)?.f_squeeze_dim(0)?),
        4 => change(tensor),
        _ => {
            let reason = format!("[(batch,) 3, h, w] is needed, found {:?}", tensor.size());
            Err(ModelError::input("picture tensor", reason))
        }
    }
}

/// Sides of the cells that [`smart_size`] counts in, in pixels.
const CELL: u32 = 28;

/// The nearest size whose sides are multiples of 28 and whose area is between `least` and `most`
/// pixels, the shape about kept (StoryMem specification, sections 3.2 and 3.3).
///
/// 480x832 within [`KEYFRAME_AREA`] is 336x588, and that within [`REWARD_AREA`] is 364x616.
pub fn smart_size(size: Resolution, area: [u32; 2]) -> Resolution {
    within(size, area, f64::from(CELL), 1.0)
}

/// As [`smart_size`] in cells of `cell` pixels, in the way of Qwen2.5-VL: a side of less than half
/// a cell counts as none, so that the picture is enlarged.
pub fn fit_cells(size: Resolution, area: [u32; 2], cell: u32) -> Resolution {
    within(size, area, f64::from(cell), 0.0)
}

/// Whole cells within an area; what is within it as it is has at least `least_cells` a side.
fn within(size: Resolution, area: [u32; 2], cell: f64, least_cells: f64) -> Resolution {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let round = |side: f64| (side / cell).round_ties_even().max(least_cells) * cell;
    let (mut wide, mut high) = (round(width), round(height));
    let [least, most] = area.map(f64::from);
    if wide * high > most {
        let shrink = (width * height / most).sqrt();
        let floor = |side: f64| ((side / shrink / cell).floor() * cell).max(cell);
        (wide, high) = (floor(width), floor(height));
    } else if wide * high < least {
        let grow = (least / (width * height)).sqrt();
        let ceil = |side: f64| (side * grow / cell).ceil() * cell;
        (wide, high) = (ceil(width), ceil(height));
    }
    Resolution {
        width: wide as u32,
        height: high as u32,
    }
}

/// Least and most pixels of a frame that keyframes are selected from.
pub const KEYFRAME_AREA: [u32; 2] = [48 * 28 * 28, 256 * 28 * 28];

/// Pixels of a frame that HPSv3 judges.
pub const REWARD_AREA: [u32; 2] = [256 * 28 * 28, 256 * 28 * 28];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::vectors::{flux_vector, integers, numbers};

    /// Specification `flux`, section 4, and the truncation of the original code.
    #[test]
    fn pictures_are_rounded_or_truncated() {
        let vector = flux_vector("output_pixels");
        let values = numbers(&vector["x"]);
        let row = Tensor::from_slice(&values).view([1, 1, -1]);
        let clip = row.expand([3, 1, values.len() as i64], false);
        for (name, picture) in [
            ("rounded", to_rounded_picture(&clip).unwrap()),
            ("truncated", to_picture(&clip).unwrap()),
        ] {
            let found: Vec<i64> = picture.pixels().map(|pixel| i64::from(pixel[1])).collect();
            assert_eq!(found, integers(&vector[name]), "{name}");
        }
        assert!(to_rounded_picture(&(&clip * f64::NAN)).is_err());
        assert!(to_rounded_picture(&clip.select(0, 0)).is_err());
    }

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([
                (x * 7 % 256) as u8,
                (y * 11 % 256) as u8,
                (x * y % 256) as u8,
            ])
        })
    }

    const fn size(height: u32, width: u32) -> Resolution {
        Resolution { width, height }
    }

    #[test]
    fn pictures_survive_the_way_through_tensors() {
        let picture = gradient(6, 4);
        let tensor = to_tensor(&picture).unwrap();
        assert_eq!(tensor.size(), [3, 4, 6]);
        let back = to_picture(&tensor).unwrap();
        // Truncation may lose one level to rounding.
        for (a, b) in picture.as_raw().iter().zip(back.as_raw()) {
            assert!(a - b <= 1, "{a} {b}");
        }
        let clip = to_clip(&[&picture, &picture]).unwrap();
        assert_eq!(clip.size(), [3, 2, 4, 6]);
        assert_eq!(to_pictures(&clip).unwrap(), [back.clone(), back]);
    }

    #[test]
    fn bytes_are_clamped_and_truncated() {
        let row = [-3.0_f32, -1.0, 0.0, 0.999, 1.0, 7.0];
        let tensor = Tensor::from_slice(&row).view([1, 1, 6]).repeat([3, 1, 1]);
        let picture = to_picture(&tensor).unwrap();
        let levels: Vec<u8> = picture.pixels().map(|pixel| pixel[1]).collect();
        assert_eq!(levels, [0, 0, 127, 254, 255, 255]);
        let bad = Tensor::from_slice(&[f32::NAN; 3]).view([3, 1, 1]);
        assert!(matches!(
            to_picture(&bad),
            Err(ModelError::NotFinite { .. })
        ));
        assert!(to_picture(&tensor.unsqueeze(0)).is_err());
    }

    /// StoryMem specification, section 10 item 18; small frames grow.
    #[test]
    fn sizes_in_cells_of_28() {
        let keyframe = smart_size(size(480, 832), KEYFRAME_AREA);
        assert_eq!(keyframe, size(336, 588));
        assert_eq!(smart_size(keyframe, REWARD_AREA), size(364, 616));
        let grown = smart_size(size(96, 160), KEYFRAME_AREA);
        assert_eq!(grown, size(168, 252));
        assert_eq!(smart_size(size(3, 5000), KEYFRAME_AREA).height, 28);
    }

    /// `torch.nn.functional.interpolate(frames, (h, w), mode="bilinear", antialias=True)` of torch 2.11,
    /// `frames` being bytes `[1, 3, 17, 23]` and `[1, 3, 48, 64]`: green levels of the first row, and
    /// the sum of all. The same with and without AVX2.
    #[test]
    fn antialias_in_8_bits_is_that_of_torch() {
        let source = |width, height| {
            RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([
                    ((x * x * 3 + y * 17) % 256) as u8,
                    ((x * 29 + y * y * 5) % 256) as u8,
                    ((x * y * 7) % 256) as u8,
                ])
            })
        };
        for (from, to, row, total) in TORCH_8_BITS {
            let picture = source(from.width, from.height);
            let resized = resize_bilinear(&picture, to).unwrap() * 255.0;
            let resized = resized.round().to_kind(Kind::Int64);
            let found: Vec<i64> = (0..5).map(|x| resized.int64_value(&[1, 0, x])).collect();
            assert_eq!(found, row, "{to:?}");
            let sum = resized.sum(Kind::Int64).int64_value(&[]);
            assert_eq!(sum, total, "{to:?}");
            // What PIL makes of it is near, and not the same where the frame is shrunk.
            let other = to_unit_tensor(&resize(&picture, to, Filter::Bilinear).unwrap()).unwrap();
            let other = (other * 255.0).round().to_kind(Kind::Int64);
            let apart = (other - &resized).abs();
            assert!(apart.max().int64_value(&[]) <= 1, "{to:?}");
        }
        let small = source(23, 17);
        let pil = resize(&small, size(11, 9), Filter::Bilinear).unwrap();
        let torch = (resize_bilinear(&small, size(11, 9)).unwrap() * 255.0).round();
        let pil = (to_unit_tensor(&pil).unwrap() * 255.0).round();
        assert_eq!((pil - torch).abs().sum(Kind::Int64).int64_value(&[]), 5);
    }

    const TORCH_8_BITS: [(Resolution, Resolution, [i64; 5], i64); 3] = [
        (size(17, 23), size(11, 9), [32, 98, 173, 125, 65], 36_133),
        (size(17, 23), size(20, 40), [0, 11, 27, 44, 61], 290_771),
        (size(48, 64), size(168, 252), [0, 0, 4, 11, 19], 15_932_750),
    ];

    /// `torch.nn.functional.interpolate(torch.arange(6.).view(1, 1, 2, 3), (3, 4), mode=...)`.
    #[test]
    fn stretching_is_that_of_torch() {
        let small = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([1, 2, 3]);
        let bilinear = stretch_bilinear(&small, size(3, 4)).unwrap();
        let values: Vec<f32> = Vec::try_from(bilinear.view([-1])).unwrap();
        for (value, expected) in values.iter().zip([0.0, 0.625, 1.375, 2.0, 1.5, 2.125]) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
        let bicubic = stretch_bicubic(&small, size(3, 4)).unwrap();
        let values: Vec<f64> = Vec::try_from(bicubic.view([-1]).to_kind(Kind::Double)).unwrap();
        let expected = BICUBIC_3X4;
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-5, "{values:?}");
        }
        assert!(stretch_bicubic(&small.view([6]), size(3, 4)).is_err());
    }

    const BICUBIC_3X4: [f64; 12] = [
        -0.332194, 0.269368, 1.209798, 1.811361, 1.428223, 2.029785, 2.970215, 3.571777, 3.188639,
        3.790202, 4.730631, 5.332194,
    ];
}
