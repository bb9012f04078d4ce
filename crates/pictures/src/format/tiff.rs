//! TIFF: the first picture of a file, in whole numbers of one to sixteen bits.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use image::metadata::Orientation;
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use crate::colours::Colours;
use crate::decode::{Decoded, Limits};
use crate::problem::PictureProblem;
use crate::raster::{Alpha, Channels, Raster, Samples};

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

/// What is missing of a file.
const ENDS: &str = "it ends before its picture does";

pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, PictureProblem> {
    let palette = palette::as_gray(bytes);
    let bytes = match &palette {
        Some(gray) => Cow::Borrowed(gray.as_slice()),
        None => Cow::Borrowed(bytes),
    };
    let mut decoder = Decoder::new(Cursor::new(&*bytes)).map_err(problem)?;
    let size = decoder.dimensions().map_err(problem)?;
    limits.check(size)?;
    let mut bounds = tiff::decoder::Limits::default();
    let memory = usize::try_from(limits.memory(size)).unwrap_or(usize::MAX);
    bounds.decoding_buffer_size = memory;
    bounds.intermediate_buffer_size = memory;
    decoder = decoder.with_limits(bounds);
    let kind = decoder.colortype().map_err(problem)?;
    let extra = decoder
        .find_tag_unsigned_vec::<u16>(Tag::ExtraSamples)
        .map_err(problem)?
        .unwrap_or_default();
    let form = Form::of(kind, &extra)?;
    let samples = read(&mut decoder, size, form)?;
    let (channels, samples) = match palette {
        Some(_) => (
            Channels::Rgb,
            palette::look_up(&mut decoder, &samples, form.depth)?,
        ),
        None => (form.channels, form.spread(samples)),
    };
    let profile = decoder.find_tag(Tag::IccProfile).map_err(problem)?;
    let profile = profile.and_then(|value| value.into_u8_vec().ok());
    Ok(Decoded {
        raster: Raster {
            size,
            channels,
            alpha: form.alpha,
            samples,
        },
        colours: Colours::of_icc(profile.as_deref()),
        turns: vec![orientation(&mut decoder)?],
    })
}

fn orientation(decoder: &mut Reader<'_>) -> Result<Orientation, PictureProblem> {
    let found = decoder
        .find_tag_unsigned::<u8>(Tag::Orientation)
        .map_err(problem)?;
    let known = found.and_then(Orientation::from_exif);
    Ok(known.unwrap_or(Orientation::NoTransforms))
}

/// What a pixel of the file is.
#[derive(Debug, Clone, Copy)]
struct Form {
    channels: Channels,
    alpha: Alpha,
    /// Bits of a sample.
    depth: u8,
}

impl Form {
    fn of(kind: ColorType, extra: &[u16]) -> Result<Self, PictureProblem> {
        // 1: associated, 2: unassociated.
        let transparent = matches!(extra, [1 | 2, ..]);
        let (channels, depth) = match kind {
            ColorType::Gray(depth @ (1 | 2 | 4 | 8 | 16)) => (Channels::Gray, depth),
            ColorType::GrayA(depth @ (8 | 16)) => (Channels::GrayAlpha, depth),
            ColorType::Multiband {
                bit_depth: depth @ (8 | 16),
                num_samples: 2,
            } if transparent => (Channels::GrayAlpha, depth),
            ColorType::RGB(depth @ (8 | 16)) => (Channels::Rgb, depth),
            ColorType::RGBA(depth @ (8 | 16)) => (Channels::Rgba, depth),
            ColorType::CMYK(depth @ (8 | 16)) => (Channels::Cmyk, depth),
            other => {
                return Err(PictureProblem::Kind(format!(
                    "a TIFF of the kind {other:?}"
                )));
            }
        };
        let alpha = match extra {
            [1, ..] => Alpha::Premultiplied,
            _ => Alpha::Straight,
        };
        Ok(Self {
            channels,
            alpha,
            depth,
        })
    }

    /// Samples over the whole range of their type; ink always in eight bits, as its profiles are.
    fn spread(self, samples: Samples) -> Samples {
        match samples {
            Samples::Bytes(bytes) if self.depth < 8 => {
                let most = u8::MAX >> (8 - self.depth);
                let full = u8::MAX / most;
                Samples::Bytes(bytes.into_iter().map(|level| level * full).collect())
            }
            Samples::Words(words) if self.channels == Channels::Cmyk => {
                let level = |word: u16| ((u32::from(word) + 128) / 257) as u8;
                Samples::Bytes(words.into_iter().map(level).collect())
            }
            samples => samples,
        }
    }
}

/// All samples, one a byte or a word, channel by channel within a pixel.
fn read(
    decoder: &mut Reader<'_>,
    (width, height): (u32, u32),
    form: Form,
) -> Result<Samples, PictureProblem> {
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(problem)?;
    let pixels = width as usize * height as usize;
    let count = form.channels.count();
    let missing = || PictureProblem::damaged("it has fewer samples than its header says");
    let samples = match result {
        DecodingResult::U8(packed) if form.depth < 8 => {
            Samples::Bytes(unpack(&packed, width as usize, form.depth))
        }
        DecodingResult::U8(bytes) if layout.planes > 1 => {
            Samples::Bytes(interleave(&bytes, pixels, count).ok_or_else(missing)?)
        }
        DecodingResult::U8(bytes) => Samples::Bytes(bytes),
        DecodingResult::U16(words) if layout.planes > 1 => {
            Samples::Words(interleave(&words, pixels, count).ok_or_else(missing)?)
        }
        DecodingResult::U16(words) => Samples::Words(words),
        _ => {
            let kind = "a TIFF of signed, floating-point or very deep numbers";
            return Err(PictureProblem::Kind(kind.to_owned()));
        }
    };
    match samples.len() == pixels * count {
        true => Ok(samples),
        false => Err(missing()),
    }
}

/// Every row begins with a byte of its own.
fn unpack(packed: &[u8], width: usize, depth: u8) -> Vec<u8> {
    let each = usize::from(8 / depth);
    let rows = packed.chunks(width.div_ceil(each));
    let row = |row: &[u8]| -> Vec<u8> {
        let sample = |at: usize| {
            let shift = 8 - usize::from(depth) * (at % each + 1);
            row.get(at / each)
                .map(|byte| (byte >> shift) & (u8::MAX >> (8 - depth)))
        };
        (0..width).map_while(sample).collect()
    };
    rows.flat_map(row).collect()
}

/// Planes one after the other become pixels; `None` where there are too few samples.
fn interleave<T: Copy>(planes: &[T], pixels: usize, count: usize) -> Option<Vec<T>> {
    let planes: Vec<&[T]> = planes.chunks_exact(pixels).take(count).collect();
    let whole = planes.len() == count;
    whole.then(|| {
        let pixel = |at| planes.iter().map(move |plane: &&[T]| plane[at]);
        (0..pixels).flat_map(pixel).collect()
    })
}

fn problem(error: TiffError) -> PictureProblem {
    match error {
        TiffError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            PictureProblem::Cut(ENDS)
        }
        TiffError::UnsupportedError(feature) => {
            PictureProblem::Kind(format!("a TIFF with {feature}"))
        }
        error => PictureProblem::damaged(error),
    }
}

/// Palettes, which the crate does not read: the indices are read as grey, then looked up.
mod palette {
    use super::{PictureProblem, Reader, Samples, Tag, problem};

    const PHOTOMETRIC: u16 = 262;
    const PALETTE: u16 = 3;
    const BLACK_IS_ZERO: u16 = 1;

    /// The file with its indices called grey, if it has a palette.
    pub(super) fn as_gray(bytes: &[u8]) -> Option<Vec<u8>> {
        let little = bytes.starts_with(b"II*\0");
        if !little && !bytes.starts_with(b"MM\0*") {
            return None;
        }
        let word = |at: usize| -> Option<u16> {
            let pair = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
            Some(if little {
                u16::from_le_bytes(pair)
            } else {
                u16::from_be_bytes(pair)
            })
        };
        let four = bytes.get(4..8)?.try_into().ok()?;
        let directory = if little {
            u32::from_le_bytes(four)
        } else {
            u32::from_be_bytes(four)
        };
        let directory = directory as usize;
        let entries = usize::from(word(directory)?);
        let entry = |number: usize| directory + 2 + number * 12;
        let found = (0..entries)
            .map(entry)
            .find(|at| word(*at) == Some(PHOTOMETRIC))?;
        let value = found + 8;
        if word(value)? != PALETTE {
            return None;
        }
        let mut gray = bytes.to_owned();
        let pair = if little {
            BLACK_IS_ZERO.to_le_bytes()
        } else {
            BLACK_IS_ZERO.to_be_bytes()
        };
        gray.get_mut(value..value + 2)?.copy_from_slice(&pair);
        Some(gray)
    }

    /// The colours of indices.
    pub(super) fn look_up(
        decoder: &mut Reader<'_>,
        samples: &Samples,
        depth: u8,
    ) -> Result<Samples, PictureProblem> {
        let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(problem)?;
        let colours = 1_usize << depth.min(8);
        let Samples::Bytes(indices) = samples else {
            return Err(PictureProblem::Kind(
                "a TIFF with a palette of words".to_owned(),
            ));
        };
        if map.len() < colours * 3 {
            return Err(PictureProblem::damaged("its palette is too short"));
        }
        let colour = |index: &u8| {
            let index = usize::from(*index) % colours;
            [0, 1, 2].map(|channel| map[channel * colours + index])
        };
        Ok(Samples::Words(indices.iter().flat_map(colour).collect()))
    }
}
