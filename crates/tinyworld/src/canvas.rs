//! Flat shapes with soft outlines, on a picture.

use storyloom_story::RgbImage;
use tiny_skia::{
    FillRule, LineCap, LineJoin, Mask, Paint, Path, PathBuilder, Pixmap, Stroke, Transform,
};

use super::things::Colour;

/// A colour as red, green and blue.
pub type Rgb = [u8; 3];

/// What everybody's outline and eyes are drawn in.
pub const INK: Rgb = [43, 33, 48];
/// Almost white.
pub const PAPER: Rgb = [250, 247, 240];
/// Light metal.
pub const METAL: Rgb = [168, 174, 186];

/// Units of the drawing that the height of a picture has.
pub const HEIGHT: f32 = 96.0;
/// Units of the drawing that the width of a picture has; a wider picture shows more.
pub const WIDTH: f32 = 160.0;

impl Colour {
    /// How it is painted.
    pub const fn rgb(self) -> Rgb {
        match self {
            Self::Red => [214, 40, 48],
            Self::Orange => [245, 130, 28],
            Self::Yellow => [250, 208, 40],
            Self::Green => [46, 160, 76],
            Self::Blue => [38, 98, 214],
            Self::Purple => [130, 62, 190],
            Self::Pink => [246, 130, 182],
            Self::White => [246, 246, 244],
        }
    }
}

/// `from` turned `share` of the way to `to`.
pub fn mix(from: Rgb, to: Rgb, share: f32) -> Rgb {
    std::array::from_fn(|channel| {
        let (from, to) = (f32::from(from[channel]), f32::from(to[channel]));
        (from + (to - from) * share).round().clamp(0.0, 255.0) as u8
    })
}

/// A darker `colour`, for sides in the shade.
pub fn shade(colour: Rgb) -> Rgb {
    mix(colour, INK, 0.22)
}

/// How light falls: every colour is multiplied with it, each channel from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Tint(pub [f32; 3]);

impl Tint {
    fn of(self, colour: Rgb) -> Rgb {
        std::array::from_fn(|channel| {
            (f32::from(colour[channel]) * self.0[channel])
                .round()
                .clamp(0.0, 255.0) as u8
        })
    }
}

/// A picture that is being drawn.
pub struct Canvas {
    pixmap: Pixmap,
    base: Transform,
}

impl Canvas {
    /// An empty picture; `None` if a side is 0.
    pub fn new(width: u32, height: u32) -> Option<Self> {
        // The middle of the drawing is the middle of the picture, whatever its shape.
        let scale = (width as f32 / WIDTH).max(height as f32 / HEIGHT);
        let base = Transform::from_translate(-WIDTH / 2.0, -HEIGHT / 2.0)
            .post_scale(scale, scale)
            .post_translate(width as f32 / 2.0, height as f32 / 2.0);
        Some(Self {
            pixmap: Pixmap::new(width, height)?,
            base,
        })
    }

    /// A pen that draws with `transform` (in units of the drawing) and `tint`.
    pub fn pen(&mut self, transform: Transform, tint: Tint) -> Pen<'_> {
        Pen {
            transform: self.base.pre_concat(transform),
            pixmap: &mut self.pixmap,
            tint,
            outline: 0.0,
            clip: None,
        }
    }

    /// The finished picture.
    pub fn into_image(self) -> Option<RgbImage> {
        let (width, height) = (self.pixmap.width(), self.pixmap.height());
        let pixels = self.pixmap.pixels();
        let data = pixels
            .iter()
            .flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()])
            .collect();
        RgbImage::new(width, height, data).ok()
    }
}

/// Draws shapes; y points down.
pub struct Pen<'a> {
    pixmap: &'a mut Pixmap,
    transform: Transform,
    tint: Tint,
    outline: f32,
    clip: Option<Mask>,
}

impl Pen<'_> {
    /// The same pen in coordinates that `transform` moves.
    pub fn moved(&mut self, transform: Transform) -> Pen<'_> {
        Pen {
            transform: self.transform.pre_concat(transform),
            pixmap: self.pixmap,
            tint: self.tint,
            outline: self.outline,
            clip: self.clip.clone(),
        }
    }

    /// Shapes get an outline of `width` units from here on; 0 for none.
    pub fn outline(&mut self, width: f32) {
        self.outline = width;
    }

    /// Calls `draw` with a pen that draws only inside `path`.
    pub fn inside(&mut self, path: &Path, draw: impl FnOnce(&mut Pen<'_>)) {
        let Some(mut mask) = Mask::new(self.pixmap.width(), self.pixmap.height()) else {
            return;
        };
        mask.fill_path(path, FillRule::Winding, true, self.transform);
        draw(&mut Pen {
            transform: self.transform,
            pixmap: self.pixmap,
            tint: self.tint,
            outline: 0.0,
            clip: Some(mask),
        });
    }

    /// Fills `path`, with the pen's outline around it.
    pub fn path(&mut self, path: &Path, colour: Rgb) {
        self.pixmap.fill_path(
            path,
            &paint(self.tint.of(colour), 255),
            FillRule::Winding,
            self.transform,
            self.clip.as_ref(),
        );
        if self.outline > 0.0 {
            let ink = self.tint.of(mix(colour, INK, 0.78));
            self.stroke(path, ink, self.outline);
        }
    }

    fn stroke(&mut self, path: &Path, colour: Rgb, width: f32) {
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        self.pixmap.stroke_path(
            path,
            &paint(colour, 255),
            &stroke,
            self.transform,
            self.clip.as_ref(),
        );
    }

    /// A see-through ellipse, for shadows and steam; `alpha` from 0 to 255.
    pub fn veil(&mut self, (x, y): (f32, f32), (rx, ry): (f32, f32), colour: Rgb, alpha: u8) {
        if let Some(path) = ellipse((x, y), (rx, ry)) {
            self.pixmap.fill_path(
                &path,
                &paint(self.tint.of(colour), alpha),
                FillRule::Winding,
                self.transform,
                self.clip.as_ref(),
            );
        }
    }

    /// A rectangle from its upper left corner.
    pub fn rect(&mut self, x: f32, y: f32, width: f32, height: f32, colour: Rgb) {
        self.poly(
            &[
                (x, y),
                (x + width, y),
                (x + width, y + height),
                (x, y + height),
            ],
            colour,
        );
    }

    /// A rectangle with round corners.
    pub fn rounded(&mut self, x: f32, y: f32, width: f32, height: f32, radius: f32, colour: Rgb) {
        if let Some(path) = rounded(x, y, width, height, radius) {
            self.path(&path, colour);
        }
    }

    /// An ellipse around its middle.
    pub fn ellipse(&mut self, middle: (f32, f32), radii: (f32, f32), colour: Rgb) {
        if let Some(path) = ellipse(middle, radii) {
            self.path(&path, colour);
        }
    }

    /// A polygon.
    pub fn poly(&mut self, points: &[(f32, f32)], colour: Rgb) {
        if let Some(path) = poly(points) {
            self.path(&path, colour);
        }
    }

    /// A line with round ends, outlined like the shapes.
    pub fn line(&mut self, points: &[(f32, f32)], width: f32, colour: Rgb) {
        let mut builder = PathBuilder::new();
        for (position, &(x, y)) in points.iter().enumerate() {
            if position == 0 {
                builder.move_to(x, y);
            } else {
                builder.line_to(x, y);
            }
        }
        self.open_line(builder, width, colour);
    }

    /// A curved line from `from` over `control` to `to`.
    pub fn arc(
        &mut self,
        from: (f32, f32),
        control: (f32, f32),
        to: (f32, f32),
        width: f32,
        colour: Rgb,
    ) {
        let mut builder = PathBuilder::new();
        builder.move_to(from.0, from.1);
        builder.quad_to(control.0, control.1, to.0, to.1);
        self.open_line(builder, width, colour);
    }

    fn open_line(&mut self, builder: PathBuilder, width: f32, colour: Rgb) {
        let Some(path) = builder.finish() else { return };
        if self.outline > 0.0 {
            let ink = self.tint.of(mix(colour, INK, 0.78));
            self.stroke(&path, ink, width + 2.0 * self.outline * 0.6);
        }
        let colour = self.tint.of(colour);
        self.stroke(&path, colour, width);
    }
}

fn paint(colour: Rgb, alpha: u8) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(colour[0], colour[1], colour[2], alpha);
    paint.anti_alias = true;
    paint
}

/// A closed polygon.
pub fn poly(points: &[(f32, f32)]) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let (&(x, y), rest) = points.split_first()?;
    builder.move_to(x, y);
    for &(x, y) in rest {
        builder.line_to(x, y);
    }
    builder.close();
    builder.finish()
}

/// A closed curve through the middles between `points`, drawn to them: a soft polygon.
pub fn blob(points: &[(f32, f32)]) -> Option<Path> {
    let middle = |a: (f32, f32), b: (f32, f32)| ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0);
    let mut builder = PathBuilder::new();
    let last = *points.last()?;
    let start = middle(last, points[0]);
    builder.move_to(start.0, start.1);
    for (position, &point) in points.iter().enumerate() {
        let end = middle(point, points[(position + 1) % points.len()]);
        builder.quad_to(point.0, point.1, end.0, end.1);
    }
    builder.close();
    builder.finish()
}

/// An ellipse around its middle.
pub fn ellipse((x, y): (f32, f32), (rx, ry): (f32, f32)) -> Option<Path> {
    tiny_skia::Rect::from_ltrb(x - rx, y - ry, x + rx, y + ry).and_then(PathBuilder::from_oval)
}

/// A rectangle with round corners.
pub fn rounded(x: f32, y: f32, width: f32, height: f32, radius: f32) -> Option<Path> {
    let r = radius.min(width / 2.0).min(height / 2.0);
    let (right, bottom) = (x + width, y + height);
    let mut builder = PathBuilder::new();
    builder.move_to(x + r, y);
    builder.line_to(right - r, y);
    builder.quad_to(right, y, right, y + r);
    builder.line_to(right, bottom - r);
    builder.quad_to(right, bottom, right - r, bottom);
    builder.line_to(x + r, bottom);
    builder.quad_to(x, bottom, x, bottom - r);
    builder.line_to(x, y + r);
    builder.quad_to(x, y, x + r, y);
    builder.close();
    builder.finish()
}

/// A star of five rays, or a heart, of about radius 1 around the origin, scaled and moved.
pub fn star((x, y): (f32, f32), radius: f32) -> Option<Path> {
    let points: Vec<(f32, f32)> = (0..10)
        .map(|corner| {
            let angle = std::f32::consts::PI * (corner as f32 / 5.0 - 0.5);
            let length = if corner % 2 == 0 {
                radius
            } else {
                radius * 0.45
            };
            (
                x + length * libm::cosf(angle),
                y + length * libm::sinf(angle),
            )
        })
        .collect();
    poly(&points)
}

/// A heart around its middle.
pub fn heart((x, y): (f32, f32), radius: f32) -> Option<Path> {
    let at = |dx: f32, dy: f32| (x + dx * radius, y + dy * radius);
    let mut builder = PathBuilder::new();
    let curve = |builder: &mut PathBuilder, a: (f32, f32), b: (f32, f32), c: (f32, f32)| {
        builder.cubic_to(a.0, a.1, b.0, b.1, c.0, c.1);
    };
    let top = at(0.0, -0.45);
    builder.move_to(top.0, top.1);
    curve(&mut builder, at(0.35, -1.2), at(1.35, -0.75), at(0.95, 0.0));
    curve(&mut builder, at(0.75, 0.4), at(0.3, 0.7), at(0.0, 0.95));
    curve(&mut builder, at(-0.3, 0.7), at(-0.75, 0.4), at(-0.95, 0.0));
    curve(&mut builder, at(-1.35, -0.75), at(-0.35, -1.2), top);
    builder.close();
    builder.finish()
}
