//! How places look: two or three big shapes behind the subject, and the ground it stands on.
//!
//! The ground begins at [`HORIZON`]; everything is in units of the drawing and reaches far beyond
//! its sides, so that a camera may pan and pull back.

use super::canvas::{INK, PAPER, Pen, Rgb, blob, ellipse, mix, poly, shade};
use super::things::{Light, Place, Setting};

/// Where the ground begins, in units from the top.
pub const HORIZON: f32 = 60.0;

const LEFT: f32 = -120.0;
const RIGHT: f32 = 280.0;
const WOOD: Rgb = [176, 122, 74];
const STONE: Rgb = [150, 150, 156];

/// Draws `place` as it is in `light`. The pen is not outlined.
pub fn draw(pen: &mut Pen<'_>, place: &Place, light: Light) {
    let colour = softened(place);
    let sky = sky(light);
    if place.setting.is_indoor() {
        room(pen, place.setting, colour, sky, light);
    } else {
        pen.rect(LEFT, -60.0, RIGHT - LEFT, HORIZON + 61.0, sky);
        celestial(pen, light);
        outdoors(pen, place.setting, colour);
    }
}

/// Paler than the same colour on a subject, which is to stand out.
fn softened(place: &Place) -> Rgb {
    let share = if place.setting.is_indoor() { 0.42 } else { 0.2 };
    mix(place.colour.rgb(), PAPER, share)
}

/// The sky, before the tint of the light.
fn sky(light: Light) -> Rgb {
    match light {
        Light::Morning => [255, 226, 190],
        Light::Day => [148, 208, 246],
        Light::Evening => [255, 160, 110],
        Light::Night => [44, 50, 120],
    }
}

fn celestial(pen: &mut Pen<'_>, light: Light) {
    match light {
        Light::Morning => pen.ellipse((38.0, 30.0), (11.0, 11.0), [255, 244, 200]),
        Light::Day => {
            for (x, y) in [(30.0, 17.0), (122.0, 12.0)] {
                pen.ellipse((x, y), (15.0, 5.0), PAPER);
                pen.ellipse((x + 3.0, y - 4.0), (8.0, 5.0), PAPER);
            }
        }
        Light::Evening => pen.ellipse((122.0, 40.0), (14.0, 14.0), [255, 226, 120]),
        Light::Night => {
            pen.ellipse((128.0, 17.0), (9.0, 9.0), [255, 248, 210]);
            for (x, y) in [
                (20.0, 12.0),
                (48.0, 22.0),
                (84.0, 10.0),
                (104.0, 26.0),
                (8.0, 34.0),
            ] {
                pen.ellipse((x, y), (1.3, 1.3), PAPER);
            }
        }
    }
}

fn ground(pen: &mut Pen<'_>, colour: Rgb) {
    pen.rect(LEFT, HORIZON, RIGHT - LEFT, 120.0, colour);
    pen.rect(LEFT, HORIZON, RIGHT - LEFT, 1.5, shade(colour));
}

fn room(pen: &mut Pen<'_>, setting: Setting, colour: Rgb, sky: Rgb, light: Light) {
    let wall = match setting {
        Setting::Library => [236, 220, 190],
        _ => colour,
    };
    pen.rect(LEFT, -60.0, RIGHT - LEFT, HORIZON + 61.0, wall);
    match setting {
        Setting::Kitchen => {
            window(pen, 100.0, sky, light);
            // A board with pots and a stove.
            pen.rect(6.0, 20.0, 52.0, 4.0, WOOD);
            pen.rounded(10.0, 9.0, 12.0, 11.0, 3.0, PAPER);
            pen.rounded(27.0, 6.0, 10.0, 14.0, 3.0, STONE);
            pen.rounded(42.0, 10.0, 12.0, 10.0, 3.0, PAPER);
            pen.rect(4.0, 42.0, 46.0, 20.0, STONE);
            pen.rect(10.0, 48.0, 34.0, 10.0, INK);
            ground(pen, [226, 214, 190]);
        }
        Setting::Bedroom => {
            window(pen, 20.0, sky, light);
            // A bed with its pillow.
            pen.rounded(92.0, 22.0, 10.0, 46.0, 4.0, WOOD);
            pen.rounded(96.0, 44.0, 90.0, 22.0, 6.0, PAPER);
            pen.rounded(102.0, 36.0, 24.0, 12.0, 5.0, mix(PAPER, STONE, 0.25));
            ground(pen, [196, 150, 104]);
        }
        Setting::Library => {
            window(pen, 104.0, sky, light);
            for x in [-62.0, 4.0, 166.0] {
                shelf(pen, x, colour);
            }
            ground(pen, [140, 92, 62]);
        }
        _ => {
            window(pen, 20.0, sky, light);
            // A board with tools.
            pen.rect(86.0, 10.0, 62.0, 30.0, WOOD);
            pen.rect(94.0, 15.0, 4.0, 20.0, INK);
            pen.rect(90.0, 14.0, 12.0, 6.0, STONE);
            pen.ellipse((116.0, 22.0), (7.0, 7.0), STONE);
            pen.ellipse((116.0, 22.0), (3.0, 3.0), WOOD);
            pen.poly(&[(130.0, 14.0), (144.0, 14.0), (137.0, 36.0)], STONE);
            ground(pen, [150, 146, 142]);
        }
    }
}

fn window(pen: &mut Pen<'_>, x: f32, sky: Rgb, light: Light) {
    pen.rect(x - 3.0, 5.0, 46.0, 40.0, PAPER);
    pen.rect(x, 8.0, 40.0, 34.0, sky);
    match light {
        Light::Night => pen.ellipse((x + 29.0, 17.0), (5.0, 5.0), [255, 248, 210]),
        Light::Day => pen.ellipse((x + 12.0, 18.0), (8.0, 3.5), PAPER),
        Light::Morning => pen.ellipse((x + 10.0, 34.0), (6.0, 6.0), [255, 244, 200]),
        Light::Evening => pen.ellipse((x + 30.0, 36.0), (7.0, 7.0), [255, 226, 120]),
    }
    pen.rect(x + 18.5, 8.0, 3.0, 34.0, PAPER);
}

fn shelf(pen: &mut Pen<'_>, x: f32, colour: Rgb) {
    pen.rect(x, 2.0, 62.0, 60.0, colour);
    for y in [8.0, 27.0, 46.0] {
        pen.rect(x + 4.0, y, 54.0, 14.0, shade(shade(colour)));
        for (book, paper) in [
            (6.0, PAPER),
            (15.0, WOOD),
            (24.0, PAPER),
            (40.0, STONE),
            (48.0, PAPER),
        ] {
            pen.rect(x + book, y + 3.0, 6.0, 11.0, paper);
        }
    }
}

fn outdoors(pen: &mut Pen<'_>, setting: Setting, colour: Rgb) {
    match setting {
        Setting::Street => {
            for (x, width, top) in [
                (-70.0, 48.0, 8.0),
                (-18.0, 50.0, 18.0),
                (36.0, 40.0, 4.0),
                (80.0, 50.0, 16.0),
                (134.0, 44.0, 6.0),
                (182.0, 50.0, 14.0),
            ] {
                house(pen, x, width, top, colour);
            }
            ground(pen, [128, 128, 138]);
            pen.rect(LEFT, HORIZON, RIGHT - LEFT, 6.0, [196, 192, 186]);
        }
        Setting::Park => {
            for (x, y) in [(-40.0, 34.0), (22.0, 30.0), (138.0, 32.0), (200.0, 34.0)] {
                pen.rect(x - 3.5, y, 7.0, 32.0, [120, 80, 50]);
                pen.ellipse((x, y - 5.0), (27.0, 22.0), colour);
            }
            ground(pen, [140, 198, 104]);
            path_way(pen, [232, 214, 172]);
        }
        Setting::Beach => {
            pen.rect(LEFT, 40.0, RIGHT - LEFT, 30.0, [60, 160, 200]);
            ground(pen, [244, 220, 160]);
            for x in [-54.0, 26.0, 140.0, 206.0] {
                parasol(pen, x, colour);
            }
        }
        Setting::Forest => {
            for (x, size) in [
                (-44.0, 1.1),
                (-8.0, 0.9),
                (26.0, 1.15),
                (60.0, 0.8),
                (104.0, 0.85),
                (140.0, 1.15),
                (176.0, 0.95),
                (210.0, 1.1),
            ] {
                fir(pen, x, size, colour);
            }
            ground(pen, [96, 132, 76]);
        }
        Setting::Harbor => {
            pen.rect(LEFT, 36.0, RIGHT - LEFT, 40.0, [44, 120, 170]);
            for x in [-50.0, 28.0, 132.0, 214.0] {
                boat(pen, x, colour);
            }
            ground(pen, WOOD);
            for y in [70.0, 82.0] {
                pen.rect(LEFT, y, RIGHT - LEFT, 1.5, shade(WOOD));
            }
        }
        Setting::Mountains => {
            for (x, top, half) in [
                (-60.0, 14.0, 70.0),
                (24.0, 6.0, 60.0),
                (136.0, 10.0, 66.0),
                (226.0, 14.0, 66.0),
            ] {
                peak(pen, x, top, half, colour);
            }
            ground(pen, [170, 178, 160]);
        }
        Setting::Farm => {
            if let Some(hills) = blob(&[
                (-140.0, 66.0),
                (-60.0, 36.0),
                (80.0, 44.0),
                (200.0, 34.0),
                (300.0, 70.0),
            ]) {
                pen.path(&hills, [150, 190, 90]);
            }
            barn(pen, 24.0, colour);
            barn(pen, 150.0, colour);
            barn(pen, -74.0, colour);
            ground(pen, [222, 194, 92]);
        }
        _ => {
            for (x, rx) in [(-40.0, 90.0), (90.0, 80.0), (210.0, 90.0)] {
                pen.ellipse((x, HORIZON + 4.0), (rx, 20.0), [232, 190, 126]);
            }
            for x in [-46.0, 26.0, 142.0, 210.0] {
                tent(pen, x, colour);
            }
            ground(pen, [240, 206, 140]);
        }
    }
}

fn path_way(pen: &mut Pen<'_>, colour: Rgb) {
    pen.poly(
        &[
            (64.0, HORIZON + 1.0),
            (96.0, HORIZON + 1.0),
            (140.0, 140.0),
            (20.0, 140.0),
        ],
        colour,
    );
}

fn house(pen: &mut Pen<'_>, x: f32, width: f32, top: f32, colour: Rgb) {
    let roof = shade(shade(colour));
    pen.rect(x, top + 10.0, width, HORIZON - top - 8.0, colour);
    pen.poly(
        &[
            (x - 3.0, top + 11.0),
            (x + width / 2.0, top - 8.0),
            (x + width + 3.0, top + 11.0),
        ],
        roof,
    );
    for side in [0.18, 0.6] {
        pen.rect(
            x + width * side,
            top + 18.0,
            width * 0.22,
            10.0,
            [255, 240, 180],
        );
    }
    pen.rect(x + width * 0.4, HORIZON - 15.0, width * 0.22, 16.0, roof);
}

fn parasol(pen: &mut Pen<'_>, x: f32, colour: Rgb) {
    pen.rect(x - 1.5, 28.0, 3.0, 44.0, PAPER);
    if let Some(half) = ellipse((x, 34.0), (32.0, 22.0)) {
        let below = poly(&[
            (x - 40.0, 0.0),
            (x + 40.0, 0.0),
            (x + 40.0, 35.0),
            (x - 40.0, 35.0),
        ]);
        if let Some(window) = below {
            pen.inside(&window, |pen| {
                pen.path(&half, colour);
                pen.ellipse((x, 34.0), (11.0, 22.0), PAPER);
                pen.ellipse((x, 34.0), (5.0, 22.0), colour);
            });
        }
    }
}

fn fir(pen: &mut Pen<'_>, x: f32, size: f32, colour: Rgb) {
    let foot = HORIZON + 2.0;
    pen.rect(x - 3.0, foot - 12.0, 6.0, 12.0, [104, 70, 48]);
    let dark = shade(colour);
    for (step, (low, half, height)) in [(8.0, 19.0, 26.0), (22.0, 15.0, 24.0), (36.0, 10.0, 22.0)]
        .into_iter()
        .enumerate()
    {
        let low = foot - low * size;
        let points = [
            (x - half * size, low),
            (x, low - height * size),
            (x + half * size, low),
        ];
        pen.poly(&points, if step % 2 == 0 { dark } else { colour });
    }
}

fn boat(pen: &mut Pen<'_>, x: f32, colour: Rgb) {
    pen.rect(x - 1.2, 6.0, 2.4, 46.0, PAPER);
    pen.poly(&[(x + 2.5, 6.0), (x + 28.0, 43.0), (x + 2.5, 43.0)], colour);
    pen.poly(
        &[(x - 2.5, 14.0), (x - 22.0, 43.0), (x - 2.5, 43.0)],
        colour,
    );
    pen.poly(
        &[
            (x - 26.0, 47.0),
            (x + 30.0, 47.0),
            (x + 20.0, 57.0),
            (x - 18.0, 57.0),
        ],
        PAPER,
    );
}

fn peak(pen: &mut Pen<'_>, x: f32, top: f32, half: f32, colour: Rgb) {
    let foot = HORIZON + 2.0;
    pen.poly(&[(x - half, foot), (x, top), (x + half, foot)], colour);
    pen.poly(
        &[(x, top), (x + half, foot), (x + half * 0.25, foot)],
        shade(colour),
    );
    let snow = 0.3;
    let y = top + (foot - top) * snow;
    pen.poly(
        &[
            (x, top),
            (x + half * snow, y),
            (x + half * 0.1, y - 4.0),
            (x - half * 0.08, y + 3.0),
            (x - half * snow, y),
        ],
        PAPER,
    );
}

fn barn(pen: &mut Pen<'_>, x: f32, colour: Rgb) {
    pen.rect(x - 26.0, 30.0, 52.0, 32.0, colour);
    pen.poly(
        &[
            (x - 30.0, 31.0),
            (x - 20.0, 14.0),
            (x, 7.0),
            (x + 20.0, 14.0),
            (x + 30.0, 31.0),
        ],
        shade(shade(colour)),
    );
    pen.rect(x - 10.0, 40.0, 20.0, 22.0, PAPER);
    pen.poly(
        &[
            (x - 10.0, 40.0),
            (x - 6.0, 40.0),
            (x + 10.0, 62.0),
            (x + 6.0, 62.0),
        ],
        colour,
    );
    pen.poly(
        &[
            (x + 10.0, 40.0),
            (x + 6.0, 40.0),
            (x - 10.0, 62.0),
            (x - 6.0, 62.0),
        ],
        colour,
    );
}

fn tent(pen: &mut Pen<'_>, x: f32, colour: Rgb) {
    let foot = HORIZON + 3.0;
    pen.poly(&[(x - 32.0, foot), (x, 20.0), (x + 32.0, foot)], colour);
    pen.poly(
        &[(x - 9.0, foot), (x, 34.0), (x + 9.0, foot)],
        shade(shade(colour)),
    );
    pen.rect(x - 1.0, 12.0, 2.0, 10.0, WOOD);
    pen.poly(&[(x + 1.0, 12.0), (x + 11.0, 15.0), (x + 1.0, 19.0)], PAPER);
}
