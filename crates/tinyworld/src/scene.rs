//! One shot of the world: what is where, and what it looks like at a moment.

use serde::{Deserialize, Serialize};
use storyloom_story::{Clip, RgbImage};
use tiny_skia::Transform;

use super::attribute::Owner;
use super::canvas::{Canvas, HEIGHT, INK, PAPER, Pen, Tint, WIDTH};
use super::character_art::{self, Pose};
use super::place_art::{self, HORIZON};
use super::product_art;
use super::things::{
    Action, Camera, Character, Colour, Framing, Hair, Light, Place, Product, ProductKind, Skin,
};

/// What a shot is about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Subject {
    /// A product alone.
    Product(Product),
    /// A character alone.
    Character(Character),
    /// A character with a product in their hands.
    Both(Character, Product),
}

impl Subject {
    /// The product, if there is one.
    pub const fn product(&self) -> Option<&Product> {
        match self {
            Self::Product(product) | Self::Both(_, product) => Some(product),
            Self::Character(_) => None,
        }
    }

    /// The character, if there is one.
    pub const fn character(&self) -> Option<&Character> {
        match self {
            Self::Character(character) | Self::Both(character, _) => Some(character),
            Self::Product(_) => None,
        }
    }

    /// The same with its product changed, if it has one.
    fn with_product(self, change: impl Fn(Product) -> Product) -> Self {
        match self {
            Self::Product(it) => Self::Product(change(it)),
            Self::Character(who) => Self::Character(who),
            Self::Both(who, it) => Self::Both(who, change(it)),
        }
    }

    /// The same with its character changed, if it has one.
    fn with_character(self, change: impl Fn(Character) -> Character) -> Self {
        match self {
            Self::Product(it) => Self::Product(it),
            Self::Character(who) => Self::Character(change(who)),
            Self::Both(who, it) => Self::Both(change(who), it),
        }
    }
}

/// A colour that is easily told from `colour`.
fn other(colour: Colour) -> Colour {
    next(Colour::ALL, colour.index() + 2)
}

/// Everything that decides the pictures of a shot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Where it is.
    pub place: Place,
    /// When it is.
    pub light: Light,
    /// How near the camera is.
    pub framing: Framing,
    /// What the camera does.
    pub camera: Camera,
    /// What it is about.
    pub subject: Subject,
    /// What the subject does.
    pub action: Action,
    /// When the shot begins, in lengths of a shot: 0, or 1 for one that goes on after another.
    pub begin: f32,
    /// How far the subject is to the right of the middle, in units of a 160x96 picture.
    pub offset: f32,
    /// How far the place is to the right, likewise.
    pub backdrop: f32,
    /// Size of the subject; 1 is usual.
    pub size: f32,
}

impl Scene {
    /// The same scene with all colours of `owner` changed, so that one can see where it is.
    pub fn repainted(&self, owner: Owner) -> Self {
        let mut scene = *self;
        match owner {
            Owner::Place => scene.place.colour = other(self.place.colour),
            Owner::Character => {
                scene.subject = self.subject.with_character(|character| Character {
                    top: other(character.top),
                    accent: other(character.accent),
                    skin: character.skin.map(|skin| next(Skin::ALL, skin.index())),
                    hair: character.hair.map(|hair| next(Hair::ALL, hair.index())),
                    ..character
                });
            }
            Owner::Product => {
                scene.subject = self.subject.with_product(|product| Product {
                    body: other(product.body),
                    second: other(product.second),
                    ..product
                });
            }
            Owner::Shot => {}
        }
        scene
    }

    /// The same scene with the second colour of its product changed: that of trim and marking.
    pub fn retrimmed(&self) -> Self {
        let subject = self.subject.with_product(|product| Product {
            second: other(product.second),
            ..product
        });
        Self { subject, ..*self }
    }

    /// Picture `frame` of `frames`, or `None` if a side is 0.
    pub fn render(&self, frame: usize, frames: usize, width: u32, height: u32) -> Option<RgbImage> {
        let steps = frames.saturating_sub(1).max(1);
        self.render_at(frame as f32 / steps as f32, width, height)
    }

    /// The whole shot, or `None` if a side or the length is 0.
    pub fn clip(&self, frames: usize, width: u32, height: u32) -> Option<Clip> {
        let pictures: Option<Vec<RgbImage>> = (0..frames)
            .map(|frame| self.render(frame, frames, width, height))
            .collect();
        Clip::new(pictures?)
    }

    /// The picture at `moment` of the shot, from 0 to 1.
    pub fn render_at(&self, moment: f32, width: u32, height: u32) -> Option<RgbImage> {
        let time = self.begin + moment;
        let mut canvas = Canvas::new(width, height)?;
        let (backdrop, subject) = tints(self.light);
        let lens = Lens::new(self, time);
        place_art::draw(
            &mut canvas.pen(lens.backdrop(self), backdrop),
            &self.place,
            self.light,
        );
        let mut pen = canvas.pen(lens.subject(), subject);
        match &self.subject {
            Subject::Product(product) => self.product_alone(&mut pen, product, time),
            Subject::Character(character) => self.character_alone(&mut pen, character, time),
            Subject::Both(character, product) => self.both(&mut pen, character, product, time),
        }
        canvas.into_image()
    }

    fn product_alone(&self, pen: &mut Pen<'_>, product: &Product, time: f32) {
        let (height, floor) = match self.framing {
            Framing::Wide => (40.0, 84.0),
            Framing::Medium => (57.0, 87.0),
            Framing::Close => (74.0, 91.0),
        };
        let at = (WIDTH / 2.0 + self.offset, floor);
        let scale = fitted(product.kind, height * self.size);
        let (lift, turn) = match self.action {
            Action::Rock => (0.0, 5.0 * wave(time)),
            Action::Jump => (height * 0.16 * hop(time), 0.0),
            Action::Float => (height * 0.17 * rise(time), 2.5 * wave(time)),
            _ => (0.0, 0.0),
        };
        shadow(pen, at, product_art::extent(product.kind).0 * scale);
        let transform = Transform::from_translate(at.0, at.1 - lift)
            .pre_rotate(turn)
            .pre_scale(scale, scale);
        draw_product(pen, product, transform, scale, time);
    }

    fn character_alone(&self, pen: &mut Pen<'_>, character: &Character, time: f32) {
        let (scale, floor) = match self.framing {
            Framing::Wide => (0.64, 91.0),
            Framing::Medium => (0.98, 126.0),
            Framing::Close => (1.24, 153.0),
        };
        let (step, lift) = match self.action {
            Action::Walk => (12.0 * (time - 0.5), 1.2 * wave(2.0 * time).abs()),
            Action::Jump => (0.0, 9.0 * hop(time)),
            _ => (0.0, 0.0),
        };
        let at = (WIDTH / 2.0 + self.offset + step, floor);
        let scale = scale * self.size;
        shadow(pen, at, 26.0 * scale);
        let mut pen =
            pen.moved(Transform::from_translate(at.0, at.1 - lift).pre_scale(scale, scale));
        pen.outline(1.5 / scale);
        character_art::draw(&mut pen, character, &self.pose(time));
    }

    fn both(&self, pen: &mut Pen<'_>, character: &Character, product: &Product, time: f32) {
        let (scale, floor, height) = match self.framing {
            Framing::Wide => (0.62, 91.0, 34.0),
            _ => (0.92, 122.0, 48.0),
        };
        let scale = scale * self.size;
        let at = (WIDTH / 2.0 + self.offset - 40.0 * scale, floor);
        shadow(pen, at, 26.0 * scale);
        let product_scale = fitted(product.kind, height * self.size);
        let (half_width, full_height) = product_art::extent(product.kind);
        let lift = match self.action {
            Action::Lift => 22.0 * rise(time),
            _ => 1.5 * wave(time),
        };
        // The hand under the product, in units of the figure.
        let reach = 30.0 + half_width * product_scale / scale;
        let hand = (reach, -30.0 - lift);
        let pose = Pose {
            right_hand: hand,
            left_hand: (-26.0, -30.0),
            ..self.pose(time)
        };
        let mut figure = pen.moved(Transform::from_translate(at.0, at.1).pre_scale(scale, scale));
        figure.outline(1.5 / scale);
        character_art::draw(&mut figure, character, &pose);
        let bottom = at.1 + (hand.1 - 3.0) * scale;
        // Tall products may not leave the picture.
        let bottom = bottom.max(full_height * product_scale + 3.0);
        let transform = Transform::from_translate(at.0 + hand.0 * scale, bottom)
            .pre_scale(product_scale, product_scale);
        draw_product(pen, product, transform, product_scale, time);
    }

    fn pose(&self, time: f32) -> Pose {
        let sway = wave(time);
        let breath = 0.8 * sway;
        let mut pose = Pose {
            left_hand: (Pose::REST.left_hand.0, Pose::REST.left_hand.1 + breath),
            right_hand: (Pose::REST.right_hand.0, Pose::REST.right_hand.1 + breath),
            ..Pose::REST
        };
        match self.action {
            Action::Walk => {
                let swing = wave(2.0 * time);
                pose.stride = swing;
                pose.left_hand.0 += 7.0 * swing;
                pose.right_hand.0 += 7.0 * swing;
            }
            Action::Wave => {
                pose.right_hand = (42.0 + 7.0 * wave(2.0 * time), -82.0);
                pose.lean = -4.0;
            }
            Action::Jump => {
                let up = hop(time);
                pose.left_hand = (-38.0, -34.0 - 34.0 * up);
                pose.right_hand = (38.0, -34.0 - 34.0 * up);
            }
            _ => pose.lean = 1.5 * sway,
        }
        pose
    }
}

/// The value after `index`, the first after the last.
fn next<T: Copy>(all: &[T], index: usize) -> T {
    all[(index + 1) % all.len()]
}

/// Where the camera is at a moment.
struct Lens {
    zoom: f32,
    pan: f32,
    near: f32,
}

impl Lens {
    fn new(scene: &Scene, time: f32) -> Self {
        let (zoom, pan) = match scene.camera {
            Camera::Fixed => (1.0, 0.0),
            Camera::PushIn => (1.0 + 0.07 * time, 0.0),
            Camera::PanLeft => (1.0, 12.0 * (time - 0.5)),
            Camera::PanRight => (1.0, -12.0 * (time - 0.5)),
        };
        let near = match scene.framing {
            Framing::Wide => 1.0,
            Framing::Medium => 1.15,
            Framing::Close => 1.4,
        };
        Self { zoom, pan, near }
    }

    /// Far things move less.
    fn backdrop(&self, scene: &Scene) -> Transform {
        let zoom = self.near * (1.0 + (self.zoom - 1.0) * 0.6);
        about((WIDTH / 2.0, HORIZON), zoom).pre_translate(scene.backdrop + self.pan, 0.0)
    }

    fn subject(&self) -> Transform {
        about((WIDTH / 2.0, HEIGHT * 0.6), self.zoom).pre_translate(self.pan * 0.45, 0.0)
    }
}

fn about((x, y): (f32, f32), zoom: f32) -> Transform {
    Transform::from_translate(x, y)
        .pre_scale(zoom, zoom)
        .pre_translate(-x, -y)
}

/// Light on the place, and on the subject, whose colours are to stay recognisable.
const fn tints(light: Light) -> (Tint, Tint) {
    match light {
        Light::Morning => (Tint([1.0, 0.95, 0.86]), Tint([1.0, 0.98, 0.93])),
        Light::Day => (Tint([1.0, 1.0, 1.0]), Tint([1.0, 1.0, 1.0])),
        Light::Evening => (Tint([0.97, 0.78, 0.68]), Tint([1.0, 0.91, 0.83])),
        Light::Night => (Tint([0.58, 0.61, 0.88]), Tint([0.86, 0.89, 1.0])),
    }
}

/// The scale at which a product looks about `height` units large.
fn fitted(kind: ProductKind, height: f32) -> f32 {
    let (half_width, full_height) = product_art::extent(kind);
    height / full_height.max(half_width * 1.7)
}

fn draw_product(pen: &mut Pen<'_>, product: &Product, transform: Transform, scale: f32, time: f32) {
    let mut pen = pen.moved(transform);
    if matches!(product.kind, ProductKind::Mug | ProductKind::Kettle) {
        steam(&mut pen, product.kind, time);
    }
    pen.outline(1.5 / scale);
    product_art::draw(&mut pen, product);
}

fn steam(pen: &mut Pen<'_>, kind: ProductKind, time: f32) {
    let (x, y) = match kind {
        ProductKind::Mug => (-5.0, -80.0),
        _ => (64.0, -64.0),
    };
    for puff in 0..3 {
        let age = (time + puff as f32 / 3.0).fract();
        let drift = 5.0 * libm::sinf(6.0 * age + puff as f32);
        let alpha = 130.0 * (1.0 - age);
        pen.veil(
            (x + drift, y - 24.0 * age),
            (5.0 + 5.0 * age, 6.0 + 4.0 * age),
            PAPER,
            alpha as u8,
        );
    }
}

fn shadow(pen: &mut Pen<'_>, (x, y): (f32, f32), half_width: f32) {
    pen.veil(
        (x, y),
        (half_width * 1.05, (half_width * 0.16).max(2.0)),
        INK,
        70,
    );
}

/// From 0 up to 1 and down to -1 once in a shot.
fn wave(time: f32) -> f32 {
    libm::sinf(time * std::f32::consts::TAU)
}

/// From 0 up to 1 and back once in a shot.
fn hop(time: f32) -> f32 {
    let half = libm::sinf(time * std::f32::consts::PI);
    half * half
}

/// From 0 up to 1 within a shot; stays there.
fn rise(time: f32) -> f32 {
    let time = time.clamp(0.0, 1.0);
    time * time * (3.0 - 2.0 * time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sample, Split};

    fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
        let pairs = a.data().iter().zip(b.data());
        let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / a.data().len() as f64
    }

    #[test]
    fn pictures_depend_on_the_scene_alone() {
        let scene = Sample::draw(1, 2, Split::Train).scene;
        let picture = scene.render(3, 9, 160, 96).unwrap();
        assert_eq!(scene.render(3, 9, 160, 96).unwrap(), picture);
        assert_eq!((picture.width(), picture.height()), (160, 96));
        assert!(scene.render(0, 9, 0, 96).is_none());
        assert_eq!(scene.clip(9, 32, 32).unwrap().frames().len(), 9);
    }

    #[test]
    fn every_picture_is_full_and_moves_gently() {
        for index in 0..300 {
            let scene = Sample::draw(4, index, Split::HeldOut).scene;
            let clip = scene.clip(9, 80, 48).unwrap();
            for pair in clip.frames().windows(2) {
                let change = mean_difference(&pair[0], &pair[1]);
                assert!(change < 18.0, "{change} in {scene:?}");
            }
            // No pixel stays as the empty canvas was.
            let empty = clip.frames()[0].data().as_chunks::<3>().0;
            assert!(empty.iter().all(|pixel| *pixel != [0, 0, 0]), "{scene:?}");
        }
    }

    #[test]
    fn a_larger_picture_shows_the_same() {
        let scene = Sample::draw(5, 6, Split::Train).scene;
        let small = scene.render_at(0.0, 160, 96).unwrap();
        let large = scene.render_at(0.0, 320, 192).unwrap();
        let halves: Vec<u8> = (0..96 * 160 * 3)
            .map(|at| {
                let (pixel, channel) = (at / 3, at % 3);
                let (x, y) = (pixel % 160 * 2, pixel / 160 * 2);
                let at = |x: usize, y: usize| u32::from(large.data()[(y * 320 + x) * 3 + channel]);
                ((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4) as u8
            })
            .collect();
        let shrunk = RgbImage::new(160, 96, halves).unwrap();
        let change = mean_difference(&small, &shrunk);
        assert!(change < 3.0, "{change}");
    }
}
