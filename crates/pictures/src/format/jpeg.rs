//! JPEG.

use std::io::{Cursor, ErrorKind};

use jpeg_decoder::{Decoder, Error, PixelFormat};

use crate::colours::Colours;
use crate::decode::{Decoded, Limits, orientation_of};
use crate::problem::PictureProblem;
use crate::raster::{Alpha, Channels, Raster, Samples};

/// What is missing of a file.
const ENDS: &str = "it ends before its picture does";

pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, PictureProblem> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.read_info().map_err(problem)?;
    let info = decoder.info().ok_or(PictureProblem::Cut(ENDS))?;
    let size = (u32::from(info.width), u32::from(info.height));
    limits.check(size)?;
    let memory = usize::try_from(limits.memory(size)).unwrap_or(usize::MAX);
    decoder.set_max_decoding_buffer_size(memory);
    let samples = decoder.decode().map_err(problem)?;
    let channels = match info.pixel_format {
        PixelFormat::L8 | PixelFormat::L16 => Channels::Gray,
        PixelFormat::RGB24 => Channels::Rgb,
        PixelFormat::CMYK32 => Channels::Cmyk,
    };
    let profile = decoder.icc_profile();
    Ok(Decoded {
        raster: Raster {
            size,
            channels,
            alpha: Alpha::Straight,
            samples: match info.pixel_format {
                PixelFormat::L16 => Samples::Words(words(&samples)),
                _ => Samples::Bytes(samples),
            },
        },
        colours: Colours::of_icc(profile.as_deref()),
        turns: vec![orientation_of(decoder.exif_data())],
    })
}

fn words(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| u16::from_ne_bytes(*pair)).collect()
}

fn problem(error: Error) -> PictureProblem {
    match error {
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => PictureProblem::Cut(ENDS),
        Error::Unsupported(feature) => {
            PictureProblem::Kind(format!("a JPEG of the kind {feature:?}"))
        }
        error => PictureProblem::damaged(error),
    }
}
