//! One AV1 key frame by rav1d, whose interface is that of dav1d: pointers and result codes.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use rav1d::include::dav1d::data::Dav1dData;
use rav1d::include::dav1d::dav1d::{Dav1dContext, Dav1dSettings};
use rav1d::include::dav1d::headers::{
    DAV1D_PIXEL_LAYOUT_I400, DAV1D_PIXEL_LAYOUT_I420, DAV1D_PIXEL_LAYOUT_I422, Dav1dSequenceHeader,
};
use rav1d::include::dav1d::picture::Dav1dPicture;
use rav1d::src::lib::{
    dav1d_close, dav1d_data_create, dav1d_data_unref, dav1d_default_settings, dav1d_get_picture,
    dav1d_open, dav1d_parse_sequence_header, dav1d_picture_unref, dav1d_send_data,
};

use super::planes::{Matrix, Plane, Planes};
use crate::colours::CodePoints;
use crate::decode::Limits;
use crate::problem::PictureProblem;

/// What is not said where the decoder has no words.
fn failed(what: &str, code: i32) -> PictureProblem {
    PictureProblem::Damaged(format!("AV1 {what} failed ({code})"))
}

/// Decodes the first picture of `coded`.
pub fn decode(coded: &[u8], limits: &Limits) -> Result<Planes, PictureProblem> {
    limits.check(size_of_stream(coded)?)?;
    let mut decoder = Decoder::open(limits)?;
    decoder.send(coded)?;
    let picture = decoder.picture()?;
    let planes = picture.planes()?;
    // A frame may have another size than its stream announced.
    limits.check((planes.width, planes.height))?;
    Ok(planes)
}

/// Width and height that a stream announces.
fn size_of_stream(coded: &[u8]) -> Result<(u32, u32), PictureProblem> {
    let mut header = MaybeUninit::<Dav1dSequenceHeader>::uninit();
    let bytes = NonNull::from(coded).cast::<u8>();
    // SAFETY: `header` is writable memory of the right type, and `bytes` points to `coded.len()`
    // readable bytes; both live until the call returns.
    let result = unsafe {
        dav1d_parse_sequence_header(NonNull::new(header.as_mut_ptr()), Some(bytes), coded.len())
    };
    if result.0 != 0 {
        return Err(failed("header", result.0));
    }
    // SAFETY: the call has written the header, since it returned no error.
    let header = unsafe { header.assume_init() };
    Ok((
        u32::try_from(header.max_width).unwrap_or(0),
        u32::try_from(header.max_height).unwrap_or(0),
    ))
}

/// A decoder of one stream, on this thread.
struct Decoder(Option<Dav1dContext>);

impl Decoder {
    fn open(limits: &Limits) -> Result<Self, PictureProblem> {
        let mut settings = MaybeUninit::<Dav1dSettings>::uninit();
        let place = NonNull::from(&mut settings).cast::<Dav1dSettings>();
        // SAFETY: `place` is writable memory of the right type.
        unsafe { dav1d_default_settings(place) };
        // SAFETY: the call above has written all of it.
        let mut settings = unsafe { settings.assume_init() };
        settings.n_threads = 1;
        settings.max_frame_delay = 1;
        settings.frame_size_limit = u32::try_from(limits.pixels).unwrap_or(u32::MAX);
        let mut context = None;
        // SAFETY: both are valid for the length of the call and of the types it asks for.
        let result = unsafe {
            dav1d_open(
                Some(NonNull::from(&mut context)),
                Some(NonNull::from(&mut settings)),
            )
        };
        if result.0 == 0 {
            Ok(Self(context))
        } else {
            Err(failed("decoder", result.0))
        }
    }

    fn send(&mut self, coded: &[u8]) -> Result<(), PictureProblem> {
        let mut data = Dav1dData::default();
        // SAFETY: `data` is writable; the buffer that is made belongs to it.
        let buffer = unsafe { dav1d_data_create(Some(NonNull::from(&mut data)), coded.len()) };
        if buffer.is_null() {
            return Err(failed("buffer", 0));
        }
        // SAFETY: `buffer` has `coded.len()` bytes of its own, which nobody else looks at yet.
        unsafe { std::ptr::copy_nonoverlapping(coded.as_ptr(), buffer, coded.len()) };
        // SAFETY: the context is open, and `data` was made by `dav1d_data_create`.
        let result = unsafe { dav1d_send_data(self.0, Some(NonNull::from(&mut data))) };
        // SAFETY: as above; what the decoder has taken over is not in it any more.
        unsafe { dav1d_data_unref(Some(NonNull::from(&mut data))) };
        if result.0 == 0 {
            Ok(())
        } else {
            Err(failed("data", result.0))
        }
    }

    fn picture(&mut self) -> Result<DecodedPicture, PictureProblem> {
        let mut picture = Dav1dPicture::default();
        // SAFETY: the context is open, and `picture` is writable.
        let result = unsafe { dav1d_get_picture(self.0, Some(NonNull::from(&mut picture))) };
        if result.0 == 0 {
            Ok(DecodedPicture(picture))
        } else {
            Err(failed("frame", result.0))
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the context was made by `dav1d_open` and is closed once.
        unsafe { dav1d_close(Some(NonNull::from(&mut self.0))) };
    }
}

/// A picture that the decoder lends; it keeps its memory when the decoder is closed.
struct DecodedPicture(Dav1dPicture);

impl DecodedPicture {
    fn planes(&self) -> Result<Planes, PictureProblem> {
        let parameters = &self.0.p;
        let side = |side: i32| u32::try_from(side).unwrap_or(0);
        let (width, height) = (side(parameters.w), side(parameters.h));
        let (across, down) = match parameters.layout {
            DAV1D_PIXEL_LAYOUT_I420 => (1, 1),
            DAV1D_PIXEL_LAYOUT_I422 => (1, 0),
            _ => (0, 0),
        };
        let chroma = parameters.layout != DAV1D_PIXEL_LAYOUT_I400;
        let small = (width.div_ceil(1 << across), height.div_ceil(1 << down));
        Ok(Planes {
            width,
            height,
            depth: u32::try_from(parameters.bpc).unwrap_or(8),
            luma: self.plane(0, (width, height))?,
            chroma: match chroma {
                true => Some([self.plane(1, small)?, self.plane(2, small)?]),
                false => None,
            },
            matrix: self.matrix(),
            code_points: self.code_points(),
        })
    }

    fn header(&self) -> Option<&Dav1dSequenceHeader> {
        // SAFETY: the header is null or belongs to the picture, which lives on.
        self.0.seq_hdr.map(|header| unsafe { header.as_ref() })
    }

    fn code_points(&self) -> CodePoints {
        let number = |number: u32| u8::try_from(number).unwrap_or(CodePoints::UNTOLD);
        self.header()
            .map_or(CodePoints::default(), |header| CodePoints {
                primaries: number(header.pri),
                transfer: number(header.trc),
            })
    }

    fn matrix(&self) -> Matrix {
        let header = self.header();
        Matrix {
            coefficients: header.map_or(Matrix::UNTOLD, |header| header.mtrx),
            full_range: header.is_some_and(|header| header.color_range != 0),
        }
    }

    /// Copies one plane, a sample as `u16`.
    fn plane(&self, number: usize, (width, height): (u32, u32)) -> Result<Plane, PictureProblem> {
        let Some(start) = self.0.data[number] else {
            return Err(failed("plane", 0));
        };
        let stride = self.0.stride[number.min(1)];
        let (width, height) = (width as usize, height as usize);
        let mut samples = Vec::with_capacity(width * height);
        for row in 0..height {
            let offset = stride.saturating_mul(row as isize);
            // SAFETY: a plane has `height` rows, `stride` bytes apart, of at least `width` samples:
            // of one byte for 8 bits, and of two aligned bytes for more. The memory belongs to the
            // picture, which lives on, and nobody writes to it any more.
            unsafe {
                let begin = start.as_ptr().byte_offset(offset);
                if self.0.p.bpc > 8 {
                    let row = std::slice::from_raw_parts(begin.cast::<u16>(), width);
                    samples.extend_from_slice(row);
                } else {
                    let row = std::slice::from_raw_parts(begin.cast::<u8>(), width);
                    samples.extend(row.iter().map(|&sample| u16::from(sample)));
                }
            }
        }
        Ok(Plane { width, samples })
    }
}

impl Drop for DecodedPicture {
    fn drop(&mut self) {
        // SAFETY: the picture was made by `dav1d_get_picture` and is given back once.
        unsafe { dav1d_picture_unref(Some(NonNull::from(&mut self.0))) };
    }
}
