//! WebP: the first frame, if there are several.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder};

use crate::colours::Colours;
use crate::decode::{Decoded, Limits};
use crate::problem::PictureProblem;
use crate::raster::Raster;

pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, PictureProblem> {
    let damaged = PictureProblem::damaged;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let size = decoder.dimensions();
    limits.check(size)?;
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limits.memory(size));
    decoder.set_limits(allowed).map_err(damaged)?;
    // What describes a picture may be damaged without harm to the picture.
    let orientation = decoder.orientation().ok();
    let profile = decoder.icc_profile().ok().flatten();
    let picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    Ok(Decoded {
        raster: Raster::of_rgba(picture),
        colours: Colours::of_icc(profile.as_deref()),
        turns: orientation.into_iter().collect(),
    })
}
