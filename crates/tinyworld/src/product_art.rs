//! How products look. Each stands on the origin, about 100 units high.

use tiny_skia::Path;

use super::canvas::{self, INK, METAL, PAPER, Pen, Rgb, blob, ellipse, poly, rounded, shade};
use super::things::{Marking, Product, ProductKind};

/// Where the marking of a product goes: its middle, half its width, half its height.
type Panel = ((f32, f32), f32, f32);

/// Draws `product`.
pub fn draw(pen: &mut Pen<'_>, product: &Product) {
    let (body, second) = (product.body.rgb(), product.second.rgb());
    match product.kind {
        ProductKind::Mug => mug(pen, body, second),
        ProductKind::Bottle => bottle(pen, body, second),
        ProductKind::Lamp => lamp(pen, body, second),
        ProductKind::Backpack => backpack(pen, body, second),
        ProductKind::Shoe => shoe(pen, body, second),
        ProductKind::Watch => watch(pen, body, second),
        ProductKind::Chair => chair(pen, body, second),
        ProductKind::Kettle => kettle(pen, body, second),
        ProductKind::Suitcase => suitcase(pen, body, second),
        ProductKind::Cap => cap(pen, body, second),
        ProductKind::Book => book(pen, body, second),
        ProductKind::Ball => ball(pen, body, second),
        ProductKind::Umbrella => umbrella(pen, body, second),
        ProductKind::Drum => drum(pen, body, second),
        ProductKind::Car => car(pen, body, second),
    }
    if let Some(body) = body_path(product.kind) {
        pen.inside(&body, |pen| {
            mark(pen, product.marking, panel(product.kind), second);
        });
    }
}

/// Half the width and the height of a product, for its shadow and for placing it.
pub const fn extent(kind: ProductKind) -> (f32, f32) {
    match kind {
        ProductKind::Mug => (38.0, 78.0),
        ProductKind::Bottle => (26.0, 112.0),
        ProductKind::Lamp => (42.0, 104.0),
        ProductKind::Backpack => (42.0, 100.0),
        ProductKind::Shoe => (56.0, 66.0),
        ProductKind::Watch => (38.0, 108.0),
        ProductKind::Chair => (38.0, 106.0),
        ProductKind::Kettle => (52.0, 92.0),
        ProductKind::Suitcase => (52.0, 88.0),
        ProductKind::Cap => (56.0, 58.0),
        ProductKind::Book => (40.0, 94.0),
        ProductKind::Ball => (44.0, 88.0),
        ProductKind::Umbrella => (56.0, 108.0),
        ProductKind::Drum => (46.0, 72.0),
        ProductKind::Car => (62.0, 62.0),
    }
}

/// The part in the first colour that carries the marking.
fn body_path(kind: ProductKind) -> Option<Path> {
    match kind {
        ProductKind::Mug => rounded(-36.0, -76.0, 62.0, 76.0, 12.0),
        ProductKind::Bottle => rounded(-26.0, -76.0, 52.0, 76.0, 16.0),
        ProductKind::Lamp => poly(&[
            (-42.0, -42.0),
            (42.0, -42.0),
            (25.0, -102.0),
            (-25.0, -102.0),
        ]),
        ProductKind::Backpack => rounded(-38.0, -92.0, 76.0, 92.0, 28.0),
        ProductKind::Shoe => blob(&[
            (-54.0, 4.0),
            (-52.0, -76.0),
            (-4.0, -70.0),
            (2.0, -44.0),
            (58.0, -40.0),
            (58.0, 4.0),
        ]),
        ProductKind::Watch => ellipse((0.0, -54.0), (38.0, 38.0)),
        ProductKind::Chair => rounded(-36.0, -106.0, 72.0, 56.0, 12.0),
        ProductKind::Kettle => blob(&[
            (-48.0, 6.0),
            (-44.0, -40.0),
            (-22.0, -74.0),
            (22.0, -74.0),
            (44.0, -40.0),
            (48.0, 6.0),
        ]),
        ProductKind::Suitcase => rounded(-52.0, -70.0, 104.0, 70.0, 12.0),
        ProductKind::Cap => blob(&[(-46.0, 8.0), (-44.0, -66.0), (28.0, -70.0), (36.0, 8.0)]),
        ProductKind::Book => rounded(-38.0, -92.0, 74.0, 92.0, 5.0),
        ProductKind::Ball => ellipse((0.0, -44.0), (44.0, 44.0)),
        ProductKind::Umbrella => blob(&[
            (-60.0, -46.0),
            (-52.0, -96.0),
            (0.0, -124.0),
            (52.0, -96.0),
            (60.0, -46.0),
            (0.0, -56.0),
        ]),
        ProductKind::Drum => poly(&[(-44.0, -60.0), (44.0, -60.0), (38.0, -4.0), (-38.0, -4.0)]),
        ProductKind::Car => blob(&[(-66.0, -8.0), (-62.0, -50.0), (62.0, -50.0), (66.0, -8.0)]),
    }
}

const fn panel(kind: ProductKind) -> Panel {
    match kind {
        ProductKind::Mug => ((-5.0, -38.0), 24.0, 24.0),
        ProductKind::Bottle => ((0.0, -38.0), 22.0, 24.0),
        ProductKind::Lamp => ((0.0, -70.0), 24.0, 21.0),
        ProductKind::Backpack => ((0.0, -54.0), 26.0, 25.0),
        ProductKind::Shoe => ((-22.0, -36.0), 20.0, 18.0),
        ProductKind::Watch => ((0.0, -54.0), 24.0, 24.0),
        ProductKind::Chair => ((0.0, -78.0), 24.0, 20.0),
        ProductKind::Kettle => ((0.0, -30.0), 26.0, 22.0),
        ProductKind::Suitcase => ((0.0, -35.0), 34.0, 24.0),
        ProductKind::Cap => ((-6.0, -30.0), 22.0, 19.0),
        ProductKind::Book => ((4.0, -46.0), 24.0, 25.0),
        ProductKind::Ball => ((0.0, -44.0), 27.0, 27.0),
        ProductKind::Umbrella => ((0.0, -80.0), 30.0, 18.0),
        ProductKind::Drum => ((0.0, -32.0), 26.0, 20.0),
        ProductKind::Car => ((0.0, -29.0), 26.0, 16.0),
    }
}

fn mark(pen: &mut Pen<'_>, marking: Marking, panel: Panel, colour: Rgb) {
    let ((x, y), half_width, half_height) = panel;
    let radius = half_width.min(half_height);
    match marking {
        Marking::Plain => {}
        Marking::Dot => pen.ellipse((x, y), (radius * 0.8, radius * 0.8), colour),
        Marking::Band => pen.rect(x - 80.0, y - radius * 0.36, 160.0, radius * 0.72, colour),
        Marking::Stripes => {
            let width = half_width * 0.42;
            for middle in [-0.78, 0.78] {
                pen.rect(
                    x + half_width * middle - width / 2.0,
                    y - 80.0,
                    width,
                    160.0,
                    colour,
                );
            }
        }
        Marking::Star => fill(pen, canvas::star((x, y), radius * 1.12), colour),
        Marking::Heart => fill(pen, canvas::heart((x, y), radius * 0.95), colour),
    }
}

fn fill(pen: &mut Pen<'_>, path: Option<Path>, colour: Rgb) {
    if let Some(path) = path {
        pen.path(&path, colour);
    }
}

fn body(pen: &mut Pen<'_>, kind: ProductKind, colour: Rgb) {
    fill(pen, body_path(kind), colour);
}

fn mug(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.arc((24.0, -60.0), (62.0, -38.0), (24.0, -14.0), 10.0, second);
    body(pen, ProductKind::Mug, colour);
    pen.ellipse((-5.0, -72.0), (27.0, 5.0), shade(colour));
}

fn bottle(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.rect(-10.0, -94.0, 20.0, 24.0, colour);
    body(pen, ProductKind::Bottle, colour);
    pen.rounded(-15.0, -112.0, 30.0, 22.0, 4.0, second);
}

fn lamp(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.rect(-5.0, -46.0, 10.0, 42.0, second);
    pen.rounded(-28.0, -10.0, 56.0, 10.0, 5.0, second);
    body(pen, ProductKind::Lamp, colour);
}

fn backpack(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.arc((-13.0, -90.0), (0.0, -112.0), (13.0, -90.0), 7.0, second);
    pen.rounded(-46.0, -44.0, 14.0, 38.0, 6.0, second);
    pen.rounded(32.0, -44.0, 14.0, 38.0, 6.0, second);
    body(pen, ProductKind::Backpack, colour);
    pen.rounded(-28.0, -22.0, 56.0, 16.0, 6.0, second);
}

fn shoe(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    body(pen, ProductKind::Shoe, colour);
    for x in [6.0, 18.0, 30.0] {
        pen.line(&[(x, -42.0), (x + 6.0, -32.0)], 4.0, PAPER);
    }
    pen.rounded(-56.0, -15.0, 114.0, 15.0, 7.0, second);
}

fn watch(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.rounded(-20.0, -108.0, 40.0, 108.0, 8.0, second);
    pen.rounded(34.0, -60.0, 10.0, 12.0, 3.0, METAL);
    body(pen, ProductKind::Watch, colour);
    for (x, y) in [(0.0, -86.0), (0.0, -22.0), (-32.0, -54.0), (32.0, -54.0)] {
        pen.ellipse((x, y), (2.6, 2.6), INK);
    }
}

fn chair(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    for (top, foot) in [(-28.0, -34.0), (28.0, 34.0)] {
        pen.line(&[(top, -36.0), (foot, -4.0)], 8.0, second);
    }
    pen.rect(-28.0, -60.0, 9.0, 22.0, second);
    pen.rect(19.0, -60.0, 9.0, 22.0, second);
    body(pen, ProductKind::Chair, colour);
    pen.rounded(-40.0, -44.0, 80.0, 14.0, 6.0, second);
}

fn kettle(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.arc((-26.0, -56.0), (0.0, -116.0), (26.0, -56.0), 8.0, second);
    pen.poly(
        &[(30.0, -34.0), (60.0, -62.0), (66.0, -54.0), (40.0, -10.0)],
        colour,
    );
    body(pen, ProductKind::Kettle, colour);
    pen.rounded(-20.0, -68.0, 40.0, 9.0, 4.0, second);
}

fn suitcase(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.line(
        &[(-18.0, -70.0), (-18.0, -86.0), (18.0, -86.0), (18.0, -70.0)],
        8.0,
        second,
    );
    body(pen, ProductKind::Suitcase, colour);
    for (x, y) in [(-52.0, -70.0), (36.0, -70.0), (-52.0, -16.0), (36.0, -16.0)] {
        pen.rounded(x, y, 16.0, 16.0, 6.0, second);
    }
}

fn cap(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    body(pen, ProductKind::Cap, colour);
    pen.ellipse((-5.0, -54.0), (7.0, 5.0), second);
    pen.rounded(6.0, -12.0, 60.0, 13.0, 7.0, second);
}

fn book(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.rounded(-30.0, -88.0, 74.0, 88.0, 4.0, PAPER);
    body(pen, ProductKind::Book, colour);
    pen.rect(-38.0, -92.0, 14.0, 92.0, second);
}

fn ball(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    body(pen, ProductKind::Ball, colour);
    if let Some(path) = body_path(ProductKind::Ball) {
        pen.inside(&path, |pen| {
            pen.ellipse((0.0, -94.0), (34.0, 17.0), second);
            pen.ellipse((0.0, 6.0), (34.0, 17.0), second);
        });
    }
}

fn umbrella(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.line(
        &[(0.0, -70.0), (0.0, -6.0), (14.0, -3.0), (20.0, -14.0)],
        7.0,
        second,
    );
    pen.line(&[(0.0, -112.0), (0.0, -106.0)], 6.0, second);
    body(pen, ProductKind::Umbrella, colour);
}

fn drum(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    body(pen, ProductKind::Drum, colour);
    pen.rounded(-42.0, -12.0, 84.0, 12.0, 6.0, second);
    pen.ellipse((0.0, -62.0), (46.0, 12.0), second);
    pen.ellipse((0.0, -63.0), (36.0, 7.5), PAPER);
}

fn car(pen: &mut Pen<'_>, colour: Rgb, second: Rgb) {
    pen.poly(
        &[(-36.0, -44.0), (-24.0, -64.0), (22.0, -64.0), (38.0, -44.0)],
        second,
    );
    pen.poly(
        &[(-24.0, -46.0), (-18.0, -58.0), (16.0, -58.0), (26.0, -46.0)],
        [170, 216, 240],
    );
    body(pen, ProductKind::Car, colour);
    for x in [-34.0, 34.0] {
        pen.ellipse((x, -11.0), (14.0, 14.0), INK);
        pen.ellipse((x, -11.0), (6.0, 6.0), second);
    }
}
