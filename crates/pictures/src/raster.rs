//! A picture as its file has it, and how it becomes what people see.

use image::{DynamicImage, RgbImage};
use storyloom_story::Ground;

use crate::colours::Colours;
use crate::problem::PictureProblem;

/// The channels of a pixel, in their order in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channels {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
    /// Ink: nothing is white.
    Cmyk,
}

impl Channels {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    fn has_alpha(self) -> bool {
        matches!(self, Self::GrayAlpha | Self::Rgba)
    }
}

/// What the colours of half-transparent pixels mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Alpha {
    /// They are the colours of the thing.
    #[default]
    Straight,
    /// They are the colours of the thing on black.
    Premultiplied,
}

/// The samples of all pixels, each over the whole range of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Samples {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

impl Samples {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Words(words) => words.len(),
        }
    }
}

/// A decoded file before its colours are looked at.
#[derive(Debug, Clone)]
pub(crate) struct Raster {
    pub(crate) size: (u32, u32),
    pub(crate) channels: Channels,
    pub(crate) alpha: Alpha,
    pub(crate) samples: Samples,
}

impl Raster {
    /// A picture of eight bits, as some decoders give it.
    pub(crate) fn of_rgba(picture: DynamicImage) -> Self {
        let size = (picture.width(), picture.height());
        let (channels, bytes) = match picture.color().has_alpha() {
            true => (Channels::Rgba, picture.into_rgba8().into_raw()),
            false => (Channels::Rgb, picture.into_rgb8().into_raw()),
        };
        Self {
            size,
            channels,
            alpha: Alpha::Straight,
            samples: Samples::Bytes(bytes),
        }
    }

    /// The picture in sRGB, with what is transparent laid on `ground`.
    pub(crate) fn flatten(
        self,
        colours: &Colours,
        ground: Ground,
    ) -> Result<RgbImage, PictureProblem> {
        let (width, height) = self.size;
        let pixels = width as usize * height as usize;
        if pixels == 0 || self.samples.len() != pixels * self.channels.count() {
            let reason = "it has fewer pixels than its header says";
            return Err(PictureProblem::Damaged(reason.to_owned()));
        }
        let data = match self.samples {
            Samples::Bytes(bytes) if !self.channels.has_alpha() => {
                flatten_bytes(bytes, self.channels, width, colours)?
            }
            samples => {
                let rows = Rows {
                    samples: &samples,
                    channels: self.channels,
                    alpha: self.alpha,
                    width: width as usize,
                };
                rows.flatten(colours, ground)?
            }
        };
        RgbImage::from_raw(width, height, data)
            .ok_or_else(|| PictureProblem::Damaged("its size does not fit its data".to_owned()))
    }
}

/// The common case: eight bits and opaque.
fn flatten_bytes(
    bytes: Vec<u8>,
    channels: Channels,
    width: u32,
    colours: &Colours,
) -> Result<Vec<u8>, PictureProblem> {
    let Some(convert) = colours.bytes(channels)? else {
        return Ok(match channels {
            Channels::Rgb => bytes,
            Channels::Cmyk => bytes.as_chunks::<4>().0.iter().flat_map(of_ink).collect(),
            _ => bytes.iter().flat_map(|&level| [level; 3]).collect(),
        });
    };
    let line = width as usize;
    let wide: Vec<u8>;
    // A profile of RGB is good for grey as well.
    let (source, count) = match convert.reads == channels {
        true => (&bytes, channels.count()),
        false => {
            wide = bytes.iter().flat_map(|&level| [level; 3]).collect();
            (&wide, 3)
        }
    };
    let mut data = vec![0; source.len() / count * 3];
    let rows = source.chunks(line * count).zip(data.chunks_mut(line * 3));
    for (from, to) in rows {
        convert.row(from, to)?;
    }
    Ok(data)
}

/// Ink on white paper, without a profile that says what ink it is.
fn of_ink(&[cyan, magenta, yellow, black]: &[u8; 4]) -> [u8; 3] {
    let light = |ink: u8| {
        let left = u32::from(255 - ink) * u32::from(255 - black);
        ((left + 127) / 255) as u8
    };
    [light(cyan), light(magenta), light(yellow)]
}

const FULL: u64 = u16::MAX as u64;

/// Everything else goes through sixteen bits, row by row.
struct Rows<'a> {
    samples: &'a Samples,
    channels: Channels,
    alpha: Alpha,
    width: usize,
}

impl Rows<'_> {
    fn flatten(&self, colours: &Colours, ground: Ground) -> Result<Vec<u8>, PictureProblem> {
        let convert = colours.words(self.channels);
        let line = self.width * self.channels.count();
        let mut row = vec![[0; 4]; self.width];
        let mut seen = vec![0; self.width * 4];
        let mut data = Vec::with_capacity(self.samples.len() / self.channels.count() * 3);
        for start in (0..self.samples.len()).step_by(line) {
            self.read(start, &mut row);
            if let Some(convert) = &convert {
                convert.row(row.as_flattened(), &mut seen)?;
                row.as_flattened_mut().copy_from_slice(&seen);
            }
            data.extend(row.iter().flat_map(|pixel| over(pixel, ground)));
        }
        Ok(data)
    }

    /// One row as red, green, blue and alpha.
    fn read(&self, start: usize, row: &mut [[u16; 4]]) {
        let count = self.channels.count();
        for (position, pixel) in row.iter_mut().enumerate() {
            let sample = |channel: usize| {
                let at = start + position * count + channel;
                match self.samples {
                    Samples::Bytes(bytes) => u16::from(bytes[at]) * 257,
                    Samples::Words(words) => words[at],
                }
            };
            *pixel = match self.channels {
                Channels::Gray => [sample(0), sample(0), sample(0), u16::MAX],
                Channels::GrayAlpha => [sample(0), sample(0), sample(0), sample(1)],
                Channels::Rgb => [sample(0), sample(1), sample(2), u16::MAX],
                // Ink is never read in sixteen bits.
                Channels::Rgba | Channels::Cmyk => [sample(0), sample(1), sample(2), sample(3)],
            };
            if self.alpha == Alpha::Premultiplied {
                *pixel = straight(*pixel);
            }
        }
    }
}

/// Takes the black away that a premultiplied colour stands on.
fn straight([red, green, blue, alpha]: [u16; 4]) -> [u16; 4] {
    let Some(alpha) = std::num::NonZeroU16::new(alpha) else {
        return [0; 4];
    };
    let whole = u64::from(alpha.get());
    let level = |value: u16| ((u64::from(value) * FULL + whole / 2) / whole).min(FULL) as u16;
    [level(red), level(green), level(blue), alpha.get()]
}

fn over(&[red, green, blue, alpha]: &[u16; 4], ground: Ground) -> [u8; 3] {
    let alpha = u64::from(alpha);
    let mix = |value: u16, below: u8| {
        let sum = u64::from(value) * alpha + u64::from(below) * 257 * (FULL - alpha);
        // 257 sixteen-bit levels are one of eight bits.
        ((sum + FULL * 257 / 2) / (FULL * 257)) as u8
    };
    let [r, g, b] = ground.0;
    [mix(red, r), mix(green, g), mix(blue, b)]
}
