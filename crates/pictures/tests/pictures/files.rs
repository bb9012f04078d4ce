//! Files of pictures, written by hand where the image library writes none.
//!
//! Some files were made by other programs (Pillow 12 and 13 with libjpeg-turbo and libavif, and the box
//! of the turn written by hand): `cmyk.jpg`, 16 x 16 of one colour; `edge.jpg`, 100 x 16 with halved
//! chroma and other colours in its last columns; `cut-out.avif`, a disc of one colour on clear cyan;
//! `turned.avif`, the four quarters as a camera stores them that was held upright; `grid.avif`, one
//! colour in four tiles (`avifenc --grid 2x2` of libavif 0.11).

use std::io::Cursor;

use image::{DynamicImage, ImageEncoder, ImageFormat, Rgb, RgbImage};

/// The profile of Display P3: matrices, and the curve of sRGB.
pub const DISPLAY_P3: &[u8] = include_bytes!("display-p3.icc");

/// Four inks as nobody prints: two levels of each, computed by a product of transmissions, so that
/// cyan is (2, 144, 199) in sRGB and not (0, 255, 255).
pub const INKS: &[u8] = include_bytes!("inks.icc");

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

/// A WebP that says how the camera was held.
pub fn webp_turned(picture: &RgbImage, orientation: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    encoder.set_exif_metadata(exif(orientation)).unwrap();
    picture.write_with_encoder(encoder).unwrap();
    bytes
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
    let checksum = crc32fast::hash(&checked).to_be_bytes();
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

/// An uncompressed TIFF in one strip, of what its fields beyond the size say.
pub struct Tiff {
    pub width: u16,
    pub height: u16,
    /// Bits of a sample: 8 or 16.
    pub bits: u16,
    /// Samples of a pixel.
    pub samples: u16,
    /// PhotometricInterpretation.
    pub photometric: u16,
    /// More fields of words: tag and values.
    pub fields: Vec<(u16, Vec<u16>)>,
    /// The strip.
    pub data: Vec<u8>,
}

impl Tiff {
    pub fn file(&self) -> Vec<u8> {
        let planes = self
            .fields
            .iter()
            .any(|(tag, values)| *tag == 284 && values[0] == 2);
        let strips = if planes { self.samples } else { 1 };
        let mut fields: Vec<(u16, u16, Vec<u32>)> = vec![
            (256, 3, vec![self.width.into()]),
            (257, 3, vec![self.height.into()]),
            (258, 3, vec![self.bits.into(); self.samples.into()]),
            (259, 3, vec![1]),
            (262, 3, vec![self.photometric.into()]),
            (277, 3, vec![self.samples.into()]),
            (278, 3, vec![self.height.into()]),
        ];
        for (tag, values) in &self.fields {
            fields.push((*tag, 3, values.iter().map(|&value| value.into()).collect()));
        }
        let length = self.data.len() as u32 / u32::from(strips);
        fields.push((279, 4, vec![length; strips.into()]));
        fields.push((273, 4, vec![0; strips.into()]));
        fields.sort();
        let size = |kind: u16, count: usize| count * if kind == 3 { 2 } else { 4 };
        let outside = |(_, kind, values): &(u16, u16, Vec<u32>)| {
            Some(size(*kind, values.len())).filter(|size| *size > 4)
        };
        let behind = 8 + 2 + fields.len() * 12 + 4;
        let start = behind + fields.iter().filter_map(outside).sum::<usize>();
        let offsets = (0..u32::from(strips)).map(|strip| start as u32 + strip * length);
        let offsets: Vec<u32> = offsets.collect();
        let (mut table, mut more) = (Vec::new(), Vec::new());
        for (tag, kind, values) in fields {
            let values = if tag == 273 { &offsets } else { &values };
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes()[..size(kind, 1)].to_vec())
                .collect();
            table.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            table.extend((values.len() as u32).to_le_bytes());
            if bytes.len() > 4 {
                table.extend(((behind + more.len()) as u32).to_le_bytes());
                more.extend(bytes);
            } else {
                table.extend([&bytes[..], &[0; 4][bytes.len()..]].concat());
            }
        }
        let count = (table.len() as u16 / 12).to_le_bytes();
        [
            b"II*\0\x08\0\0\0",
            &count[..],
            &table,
            &[0; 4],
            &more,
            &self.data,
        ]
        .concat()
    }

    /// Eight bits a sample, and nothing that is not needed.
    pub fn new((width, height): (u16, u16), samples: u16, photometric: u16, data: &[u8]) -> Self {
        Self {
            width,
            height,
            bits: 8,
            samples,
            photometric,
            fields: Vec::new(),
            data: data.to_owned(),
        }
    }

    pub fn with(mut self, tag: u16, values: &[u16]) -> Self {
        self.fields.push((tag, values.to_owned()));
        self
    }
}

/// A TIFF of red, green and blue.
pub fn tiff(picture: &RgbImage) -> Tiff {
    let size = (picture.width() as u16, picture.height() as u16);
    Tiff::new(size, 3, 2, picture.as_raw())
}
