//! From luma and chroma to red, green and blue (ITU-T H.273, sections 8.3 and 8.4).

use image::{Rgba, RgbaImage};

use crate::colours::CodePoints;
use crate::problem::PictureProblem;

/// How samples become colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// MatrixCoefficients of H.273.
    pub coefficients: u32,
    /// Whether samples use all of their values.
    pub full_range: bool,
}

impl Matrix {
    /// The number of a matrix that is not told.
    pub const UNTOLD: u32 = 2;
    /// Green, blue and red instead of luma and chroma.
    const IDENTITY: u32 = 0;

    /// Shares of red and blue in luma.
    fn shares(self) -> Result<(f32, f32), PictureProblem> {
        match self.coefficients {
            1 => Ok((0.2126, 0.0722)),
            // Most programs mean BT.601 where they do not say.
            Self::UNTOLD | 5 | 6 => Ok((0.299, 0.114)),
            7 => Ok((0.212, 0.087)),
            9 => Ok((0.2627, 0.0593)),
            other => Err(PictureProblem::Damaged(format!(
                "its colour matrix {other} is not known"
            ))),
        }
    }
}

/// Samples of one kind, row by row.
#[derive(Debug, Clone)]
pub struct Plane {
    /// Samples of a row.
    pub width: usize,
    /// All samples.
    pub samples: Vec<u16>,
}

impl Plane {
    fn height(&self) -> usize {
        self.samples.len() / self.width.max(1)
    }

    fn at(&self, x: usize, y: usize) -> f32 {
        f32::from(self.samples[y * self.width + x])
    }

    /// The sample at a place of the whole picture, of a plane that may have half of its width and
    /// height. Between samples it is their mean by distance; samples lie in the middle of the pixels
    /// that they stand for.
    fn between(&self, (x, y): (usize, usize), (width, height): (usize, usize)) -> f32 {
        let (x0, x1, right) = neighbours(x, width, self.width);
        let (y0, y1, below) = neighbours(y, height, self.height());
        let above = self.at(x0, y0) * (1.0 - right) + self.at(x1, y0) * right;
        let under = self.at(x0, y1) * (1.0 - right) + self.at(x1, y1) * right;
        above * (1.0 - below) + under * below
    }
}

/// The two samples beside a pixel, and the weight of the second.
fn neighbours(at: usize, pixels: usize, samples: usize) -> (usize, usize, f32) {
    if pixels == samples {
        return (at, at, 0.0);
    }
    let exact = (at as f32 + 0.5) / 2.0 - 0.5;
    let first = exact.floor();
    let last = samples - 1;
    let clamp = |place: f32| (place.max(0.0) as usize).min(last);
    (clamp(first), clamp(first + 1.0), exact - first)
}

/// A decoded frame.
#[derive(Debug)]
pub struct Planes {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bits of a sample.
    pub depth: u32,
    /// Brightness.
    pub luma: Plane,
    /// Differences of blue and red; `None` for grey.
    pub chroma: Option<[Plane; 2]>,
    /// What the stream says of its samples.
    pub matrix: Matrix,
    /// What the stream says of its colours.
    pub code_points: CodePoints,
}

impl Planes {
    /// Zero and full brightness, and the range of chroma around its middle.
    fn range(&self, full: bool) -> (f32, f32, f32) {
        let unit = f32::from(1_u16 << (self.depth - 8));
        let most = f32::from((1_u32 << self.depth) as u16).max(256.0) - 1.0;
        if full {
            (0.0, most, most)
        } else {
            (16.0 * unit, 219.0 * unit, 224.0 * unit)
        }
    }
}

/// Opaque pixels of 8 bits.
pub fn to_rgb(planes: &Planes, matrix: Matrix) -> Result<RgbaImage, PictureProblem> {
    let (zero, luma, chroma) = planes.range(matrix.full_range);
    let middle = f32::from(1_u16 << (planes.depth - 1));
    let size = (planes.width as usize, planes.height as usize);
    let level = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
    let identity = matrix.coefficients == Matrix::IDENTITY;
    let (red, blue) = match &planes.chroma {
        Some(_) if !identity => matrix.shares()?,
        _ => (0.0, 0.0),
    };
    let green = 1.0 - red - blue;
    Ok(RgbaImage::from_fn(planes.width, planes.height, |x, y| {
        let place = (x as usize, y as usize);
        let brightness = (planes.luma.at(place.0, place.1) - zero) / luma;
        let Some([first, second]) = &planes.chroma else {
            let grey = level(brightness);
            return Rgba([grey, grey, grey, 255]);
        };
        let (first, second) = (first.between(place, size), second.between(place, size));
        if identity {
            let [b, r] = [first, second].map(|sample| (sample - zero) / luma);
            return Rgba([level(r), level(brightness), level(b), 255]);
        }
        let [cb, cr] = [first, second].map(|sample| (sample - middle) / chroma);
        let r = brightness + 2.0 * (1.0 - red) * cr;
        let b = brightness + 2.0 * (1.0 - blue) * cb;
        let g = (brightness - red * r - blue * b) / green;
        Rgba([level(r), level(g), level(b), 255])
    }))
}

/// Sets the transparency; of colours that were multiplied by it, it is taken out again.
pub fn add_alpha(pixels: &mut RgbaImage, alpha: &Planes, premultiplied: bool) {
    let (zero, luma, _) = alpha.range(alpha.matrix.full_range);
    for (x, y, pixel) in pixels.enumerate_pixels_mut() {
        let share = (alpha.luma.at(x as usize, y as usize) - zero) / luma;
        let share = share.clamp(0.0, 1.0);
        let [r, g, b, _] = pixel.0;
        let colours = [r, g, b].map(|level| match premultiplied && share > 0.0 {
            true => (f32::from(level) / share).round().min(255.0) as u8,
            false => level,
        });
        let [r, g, b] = colours;
        pixel.0 = [r, g, b, (share * 255.0).round() as u8];
    }
}
