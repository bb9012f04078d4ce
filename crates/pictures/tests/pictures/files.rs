//! Files of pictures, written by hand where the image library writes none.
//!
//! Three files were made by other programs (Pillow 12.0.0 with libavif, and the box of its turn
//! written by hand): `cmyk.jpg`, 16 x 16 of one colour; `cut-out.avif`, a disc of one colour on clear
//! cyan; `turned.avif`, the four quarters as a camera stores them that was held upright.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// The profile of Display P3: matrices, and the curve of sRGB.
pub const DISPLAY_P3: &[u8] = include_bytes!("display-p3.icc");

/// A picture in a format of the image library.
pub fn saved(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

pub fn png(picture: &DynamicImage) -> Vec<u8> {
    saved(picture, ImageFormat::Png)
}

pub fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 98);
    picture.write_with_encoder(encoder).unwrap();
    bytes
}

/// Red, green, blue and white quarters, from the upper left with the clock.
pub fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        match (x < width / 2, y < height / 2) {
            (true, true) => Rgb([255, 0, 0]),
            (false, true) => Rgb([0, 255, 0]),
            (false, false) => Rgb([0, 0, 255]),
            (true, false) => Rgb([255, 255, 255]),
        }
    })
}

/// EXIF data that say nothing but how the camera was held.
pub fn exif(orientation: u16) -> Vec<u8> {
    let mut data = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    data.extend(orientation.to_le_bytes());
    data.extend([0; 6]);
    data
}

/// A JPEG with one more segment behind its first marker.
pub fn jpeg_segment(file: &[u8], marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).unwrap().to_be_bytes();
    [&file[..2], &[0xFF, marker], &length, content, &file[2..]].concat()
}

/// A chunk of a PNG.
pub fn png_chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let checked = [kind, content].concat();
    let checksum = crc32(&checked).to_be_bytes();
    [&length[..], &checked, &checksum].concat()
}

/// A PNG with one more chunk behind its header.
pub fn with_chunk(file: &[u8], kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    const HEADER: usize = 8 + 25;
    [&file[..HEADER], &png_chunk(kind, content), &file[HEADER..]].concat()
}

/// The content of an `iCCP` chunk.
pub fn compressed_profile(profile: &[u8]) -> Vec<u8> {
    [b"profile\0\0", &*stored(profile)].concat()
}

/// A PNG of these rows, `(bit depth, colour type)` and chunks.
pub fn raw_png(
    width: u32,
    height: u32,
    (depth, kind): (u8, u8),
    pixels: &[u8],
    chunks: &[(&[u8; 4], &[u8])],
) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([depth, kind, 0, 0, 0]);
    let stride = pixels.len() / height as usize;
    let rows: Vec<u8> = pixels
        .chunks(stride)
        .flat_map(|row| [&[0], row].concat())
        .collect();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(png_chunk(b"IHDR", &header));
    for (kind, content) in chunks {
        file.extend(png_chunk(kind, content));
    }
    file.extend(png_chunk(b"IDAT", &stored(&rows)));
    file.extend(png_chunk(b"IEND", b""));
    file
}

/// Data in the frame of zlib, not made smaller.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = data.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let length = block.len() as u16;
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for &byte in data {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// An uncompressed TIFF of four inks, 8 bits each.
pub fn tiff_cmyk(width: u16, height: u16, inks: [u8; 4]) -> Vec<u8> {
    let size = u32::from(width) * u32::from(height) * 4;
    let fields: [(u16, u16, u32, u32); 10] = [
        (256, 3, 1, width.into()),
        (257, 3, 1, height.into()),
        // Bits of the four samples stand behind the fields.
        (258, 3, 4, 8 + 2 + 10 * 12 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, 5),
        (273, 4, 1, 8 + 2 + 10 * 12 + 4 + 8),
        (277, 3, 1, 4),
        (278, 3, 1, height.into()),
        (279, 4, 1, size),
        (332, 3, 1, 1),
    ];
    let mut file = b"II*\0\x08\0\0\0\x0a\0".to_vec();
    for (tag, kind, count, value) in fields {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    file.extend([8, 0, 8, 0, 8, 0, 8, 0]);
    file.extend(inks.repeat(usize::from(width) * usize::from(height)));
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
