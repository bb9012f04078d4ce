//! Whether a file has an end. Decoders of photos go on with grey where a file was cut off, so that a
//! broken download would become a product with half a face.

use crate::decode::Format;
use crate::problem::PictureProblem;

/// Fails if the file ends before its picture does, as far as its frame tells. What TIFF and AVIF
/// files lack, their decoders tell.
pub fn check(format: Format, bytes: &[u8]) -> Result<(), PictureProblem> {
    let (whole, what) = match format {
        Format::Png => (has_image_end(bytes), "its last chunk is missing"),
        Format::Jpeg => (has_end_of_image(bytes), "the end of the picture is missing"),
        Format::WebP => (fills_riff(bytes), "it is shorter than it says"),
        Format::Tiff | Format::Avif => (true, ""),
    };
    if whole {
        Ok(())
    } else {
        Err(PictureProblem::Cut(what))
    }
}

/// Whether the chunks of a PNG follow each other to its `IEND`.
fn has_image_end(bytes: &[u8]) -> bool {
    const SIGNATURE: usize = 8;
    let mut at = SIGNATURE;
    while let Some(&[a, b, c, d, k0, k1, k2, k3]) =
        bytes.get(at..).and_then(|rest| rest.first_chunk::<8>())
    {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        // Length, kind and checksum.
        let Some(next) = at.checked_add(length).and_then(|end| end.checked_add(12)) else {
            return false;
        };
        if [k0, k1, k2, k3] == *b"IEND" {
            return next <= bytes.len();
        }
        at = next;
    }
    false
}

/// Whether the segments of a JPEG follow each other to its end marker. Pictures inside of segments,
/// such as a camera's preview, have ends of their own and are stepped over.
fn has_end_of_image(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xD9;
    const START_OF_SCAN: u8 = 0xDA;
    let mut at = 2;
    loop {
        // Filling bytes may stand before a marker.
        let Some(skipped) = bytes.get(at..).and_then(marker_in) else {
            return false;
        };
        at += skipped + 2;
        let marker = bytes[at - 1];
        match marker {
            END_OF_IMAGE => return true,
            // Markers without a length: restarts, and one of old arithmetic coders.
            0x01 | 0xD0..=0xD8 => {}
            _ => {
                let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes(*length));
                if marker == START_OF_SCAN {
                    at += scan_length(bytes.get(at..).unwrap_or_default());
                }
            }
        }
    }
}

/// Where the next marker begins.
fn marker_in(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(2)
        .position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF))
}

/// Bytes of the data of a scan: up to a marker that is no restart.
fn scan_length(bytes: &[u8]) -> usize {
    let ends = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF | 0xD0..=0xD7);
    bytes.windows(2).position(ends).unwrap_or(bytes.len())
}

/// Whether a RIFF file has as many bytes as it says.
fn fills_riff(bytes: &[u8]) -> bool {
    let size = bytes.get(4..).and_then(|rest| rest.first_chunk::<4>());
    size.is_some_and(|size| bytes.len() as u64 >= u64::from(u32::from_le_bytes(*size)) + 8)
}
