//! How characters look. Each stands on the origin, facing us, about 104 units high without a hat.

use super::canvas::{INK, METAL, PAPER, Pen, Rgb, blob, mix, shade};
use super::things::{Character, Hair, Role, Skin};

/// Middle of the head.
const HEAD: (f32, f32) = (0.0, -78.0);
/// Half the width and height of the head.
const HEAD_RADII: (f32, f32) = (23.0, 22.0);

/// Where hands and feet are, in units of the figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// The hand on the left of the picture.
    pub left_hand: (f32, f32),
    /// The hand on the right of the picture.
    pub right_hand: (f32, f32),
    /// How far the left foot is before the right one; from -1 to 1.
    pub stride: f32,
    /// How much the head leans to the right, in degrees.
    pub lean: f32,
}

impl Pose {
    /// Arms down.
    pub const REST: Self = Self {
        left_hand: (-27.0, -27.0),
        right_hand: (27.0, -27.0),
        stride: 0.0,
        lean: 0.0,
    };
}

impl Skin {
    const fn rgb(self) -> Rgb {
        match self {
            Self::Light => [255, 222, 194],
            Self::Brown => [206, 144, 96],
            Self::Dark => [112, 68, 46],
        }
    }
}

impl Hair {
    const fn rgb(self) -> Rgb {
        match self {
            Self::Black => [38, 32, 44],
            Self::Blond => [244, 206, 96],
            Self::Ginger => [204, 88, 30],
            Self::Grey => [176, 180, 190],
        }
    }
}

/// The colours of a character.
struct Paints {
    top: Rgb,
    accent: Rgb,
    skin: Rgb,
    hair: Rgb,
}

/// Draws `character` in `pose`.
pub fn draw(pen: &mut Pen<'_>, character: &Character, pose: &Pose) {
    let paints = Paints {
        top: character.top.rgb(),
        accent: character.accent.rgb(),
        skin: character.skin.map_or(METAL, Skin::rgb),
        hair: character.hair.map_or(METAL, Hair::rgb),
    };
    behind(pen, character.role, &paints);
    legs(pen, character.role, pose, &paints);
    torso(pen, character.role, &paints);
    arms(pen, pose, &paints);
    let lean = tiny_skia::Transform::from_rotate_at(pose.lean, HEAD.0, HEAD.1 + 20.0);
    let mut head = pen.moved(lean);
    face(&mut head, character.role, &paints);
    headwear(&mut head, character.role, &paints);
}

/// Hair and capes behind the body.
fn behind(pen: &mut Pen<'_>, role: Role, paints: &Paints) {
    let (x, y) = HEAD;
    match role {
        Role::Girl => {
            for side in [-1.0, 1.0] {
                pen.ellipse((x + side * 27.0, y + 6.0), (9.0, 15.0), paints.hair);
            }
        }
        Role::Queen => pen.rounded(x - 27.0, y - 16.0, 54.0, 52.0, 18.0, paints.hair),
        Role::Pirate => pen.rounded(x - 25.0, y - 10.0, 50.0, 34.0, 12.0, paints.hair),
        Role::Astronaut => pen.rounded(-28.0, -58.0, 56.0, 36.0, 8.0, METAL),
        _ => {}
    }
}

fn legs(pen: &mut Pen<'_>, role: Role, pose: &Pose, paints: &Paints) {
    let long_robe = matches!(role, Role::Wizard | Role::Queen);
    let trousers = match role {
        Role::Robot | Role::Knight => METAL,
        Role::Astronaut => paints.top,
        Role::Girl => paints.skin,
        _ => [70, 74, 96],
    };
    for (side, ahead) in [(-1.0, pose.stride), (1.0, -pose.stride)] {
        let foot = (side * 10.0 + ahead * 9.0, -4.0 - ahead.max(0.0) * 4.0);
        if !long_robe {
            pen.line(&[(side * 9.0, -24.0), foot], 11.0, trousers);
        }
        pen.ellipse(
            (foot.0 + side * 2.0, foot.1 + 1.0),
            (9.0, 5.5),
            mix(INK, paints.top, 0.15),
        );
    }
}

fn torso(pen: &mut Pen<'_>, role: Role, paints: &Paints) {
    let outline: &[(f32, f32)] = match role {
        Role::Wizard | Role::Queen => &[(-15.0, -64.0), (15.0, -64.0), (38.0, 0.0), (-38.0, 0.0)],
        Role::Girl => &[(-14.0, -64.0), (14.0, -64.0), (36.0, -16.0), (-36.0, -16.0)],
        Role::Robot => &[(-25.0, -60.0), (25.0, -60.0), (25.0, -16.0), (-25.0, -16.0)],
        _ => &[(-18.0, -64.0), (18.0, -64.0), (24.0, -16.0), (-24.0, -16.0)],
    };
    pen.poly(outline, paints.top);
    match role {
        Role::Courier => {
            pen.line(&[(-15.0, -60.0), (21.0, -24.0)], 6.0, paints.accent);
            pen.rounded(12.0, -32.0, 20.0, 17.0, 4.0, paints.accent);
        }
        Role::Baker => pen.rounded(-13.0, -46.0, 26.0, 32.0, 6.0, PAPER),
        Role::Gardener => {
            pen.rect(-13.0, -42.0, 26.0, 26.0, [70, 74, 96]);
        }
        Role::Pirate => pen.rect(-24.0, -30.0, 48.0, 7.0, INK),
        Role::Knight => pen.rect(-5.0, -58.0, 10.0, 42.0, paints.accent),
        Role::Astronaut => pen.rounded(-12.0, -46.0, 24.0, 18.0, 4.0, METAL),
        Role::Robot => pen.ellipse((0.0, -38.0), (10.0, 10.0), paints.accent),
        Role::Queen => pen.rect(-22.0, -42.0, 44.0, 7.0, paints.accent),
        Role::Wizard => pen.line(&[(-19.0, -34.0), (19.0, -34.0)], 5.0, paints.accent),
        Role::Girl => {}
    }
}

fn arms(pen: &mut Pen<'_>, pose: &Pose, paints: &Paints) {
    for (side, hand) in [(-1.0, pose.left_hand), (1.0, pose.right_hand)] {
        let shoulder = (side * 17.0, -54.0);
        let elbow = (
            f32::midpoint(shoulder.0, hand.0) + side * 5.0,
            f32::midpoint(shoulder.1, hand.1),
        );
        pen.line(&[shoulder, elbow, hand], 9.0, paints.top);
        pen.ellipse(hand, (6.5, 6.5), paints.skin);
    }
}

fn face(pen: &mut Pen<'_>, role: Role, paints: &Paints) {
    let (x, y) = HEAD;
    if role == Role::Astronaut {
        pen.ellipse((x, y), (29.0, 28.0), paints.accent);
    }
    match role {
        Role::Robot => {
            pen.rounded(x - 25.0, y - 20.0, 50.0, 40.0, 7.0, METAL);
            for side in [-1.0, 1.0] {
                pen.ellipse((x + side * 10.0, y - 3.0), (7.0, 7.0), PAPER);
                pen.ellipse((x + side * 10.0, y - 3.0), (2.6, 2.6), INK);
            }
            pen.rect(x - 11.0, y + 9.0, 22.0, 4.0, INK);
            return;
        }
        Role::Wizard => {
            pen.ellipse(HEAD, HEAD_RADII, paints.skin);
            let beard = [
                (x - 28.0, y - 4.0),
                (x - 10.0, y + 8.0),
                (x + 10.0, y + 8.0),
                (x + 28.0, y - 4.0),
                (x + 22.0, y + 24.0),
                (x, y + 42.0),
                (x - 22.0, y + 24.0),
            ];
            if let Some(beard) = blob(&beard) {
                pen.path(&beard, paints.hair);
            }
        }
        _ => pen.ellipse(HEAD, HEAD_RADII, paints.skin),
    }
    if matches!(
        role,
        Role::Girl | Role::Queen | Role::Courier | Role::Baker | Role::Gardener
    ) {
        fringe(pen, role, paints);
    }
    eyes(pen, role);
}

fn fringe(pen: &mut Pen<'_>, role: Role, paints: &Paints) {
    let (x, y) = HEAD;
    let low = match role {
        Role::Courier | Role::Baker | Role::Gardener => 3.0,
        _ => -4.0,
    };
    // From temple to temple over the top.
    let hair = [
        (x - 27.0, y + low),
        (x - 25.0, y - 30.0),
        (x + 25.0, y - 30.0),
        (x + 27.0, y + low),
        (x + 17.0, y + low + 3.0),
        (x + 16.0, y - 11.0),
        (x - 16.0, y - 11.0),
        (x - 17.0, y + low + 3.0),
    ];
    if let Some(hair) = blob(&hair) {
        pen.path(&hair, paints.hair);
    }
}

fn eyes(pen: &mut Pen<'_>, role: Role) {
    let (x, y) = HEAD;
    for side in [-1.0, 1.0] {
        if role == Role::Pirate && side > 0.0 {
            pen.line(&[(x - 14.0, y - 12.0), (x + 20.0, y - 2.0)], 2.5, INK);
            pen.ellipse((x + 9.0, y + 1.0), (6.0, 6.0), INK);
        } else {
            pen.ellipse((x + side * 8.5, y + 1.0), (3.0, 4.0), INK);
        }
    }
    if role != Role::Wizard {
        pen.arc(
            (x - 5.0, y + 11.0),
            (x, y + 15.0),
            (x + 5.0, y + 11.0),
            1.8,
            INK,
        );
    }
}

fn headwear(pen: &mut Pen<'_>, role: Role, paints: &Paints) {
    let (x, y) = HEAD;
    let accent = paints.accent;
    match role {
        Role::Courier => {
            dome(pen, y - 10.0, 24.0, 20.0, accent);
            pen.rounded(x - 4.0, y - 15.0, 36.0, 8.0, 4.0, shade(accent));
        }
        Role::Baker => {
            pen.rounded(x - 25.0, y - 46.0, 50.0, 24.0, 12.0, accent);
            pen.rect(x - 20.0, y - 28.0, 40.0, 16.0, accent);
        }
        Role::Girl => {
            pen.poly(
                &[(x, y - 22.0), (x - 19.0, y - 34.0), (x - 19.0, y - 12.0)],
                accent,
            );
            pen.poly(
                &[(x, y - 22.0), (x + 19.0, y - 34.0), (x + 19.0, y - 12.0)],
                accent,
            );
            pen.ellipse((x, y - 22.0), (5.0, 5.0), accent);
        }
        Role::Gardener => {
            dome(pen, y - 14.0, 19.0, 20.0, accent);
            pen.ellipse((x, y - 13.0), (36.0, 6.5), accent);
        }
        Role::Wizard => {
            pen.poly(
                &[
                    (x - 22.0, y - 12.0),
                    (x + 5.0, y - 58.0),
                    (x + 22.0, y - 12.0),
                ],
                accent,
            );
            pen.ellipse((x, y - 12.0), (31.0, 5.5), accent);
        }
        Role::Pirate => {
            let hat = [
                (x - 38.0, y - 8.0),
                (x - 34.0, y - 26.0),
                (x, y - 48.0),
                (x + 34.0, y - 26.0),
                (x + 38.0, y - 8.0),
                (x, y - 13.0),
            ];
            if let Some(hat) = blob(&hat) {
                pen.path(&hat, accent);
            }
            pen.ellipse((x, y - 24.0), (5.0, 5.0), PAPER);
        }
        Role::Queen => pen.poly(
            &[
                (x - 19.0, y - 14.0),
                (x - 24.0, y - 38.0),
                (x - 10.0, y - 26.0),
                (x, y - 42.0),
                (x + 10.0, y - 26.0),
                (x + 24.0, y - 38.0),
                (x + 19.0, y - 14.0),
            ],
            accent,
        ),
        Role::Knight => knight(pen, accent),
        Role::Robot => {
            pen.line(&[(x, y - 20.0), (x, y - 32.0)], 4.0, METAL);
            pen.ellipse((x, y - 36.0), (8.0, 8.0), accent);
        }
        Role::Astronaut => {}
    }
}

fn knight(pen: &mut Pen<'_>, accent: Rgb) {
    let (x, y) = HEAD;
    let plume = [
        (x - 6.0, y - 18.0),
        (x - 14.0, y - 42.0),
        (x + 14.0, y - 54.0),
        (x + 34.0, y - 34.0),
        (x + 12.0, y - 32.0),
        (x + 6.0, y - 18.0),
    ];
    if let Some(plume) = blob(&plume) {
        pen.path(&plume, accent);
    }
    dome(pen, y - 7.0, 26.0, 22.0, METAL);
    pen.rect(x - 26.0, y - 8.0, 9.0, 24.0, METAL);
    pen.rect(x + 17.0, y - 8.0, 9.0, 24.0, METAL);
}

/// The upper half of an ellipse.
fn dome(pen: &mut Pen<'_>, y: f32, half_width: f32, height: f32, colour: Rgb) {
    let mut builder = tiny_skia::PathBuilder::new();
    builder.move_to(-half_width, y);
    builder.cubic_to(
        -half_width,
        y - height * 1.3,
        half_width,
        y - height * 1.3,
        half_width,
        y,
    );
    builder.close();
    if let Some(path) = builder.finish() {
        pen.path(&path, colour);
    }
}
