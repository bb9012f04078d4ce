//! Framings, movements and what else is chosen by lot, without repeating itself.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

use super::fields::Field;

/// Things to choose from: every one is used once, in an order of its own, before any comes again.
pub(super) struct Deck<T: 'static> {
    pub(super) cards: Vec<T>,
    next: usize,
}

impl<T: Copy> Deck<T> {
    pub(super) fn new(cards: &[T], random: &mut ChaCha8Rng) -> Self {
        let mut cards = cards.to_vec();
        for last in (1..cards.len()).rev() {
            let other = (random.next_u64() % (last as u64 + 1)) as usize;
            cards.swap(last, other);
        }
        Self { cards, next: 0 }
    }

    pub(super) fn draw(&mut self) -> T {
        let card = self.cards[self.next % self.cards.len()];
        self.next += 1;
        card
    }
}

const WIDE: [&str; 4] = [
    "Wide shot at eye level",
    "Wide shot from a high corner",
    "Slow wide shot, low to the ground",
    "Wide symmetrical shot",
];
const MEDIUM: [&str; 5] = [
    "Medium shot",
    "Medium shot over the shoulder",
    "Medium shot from a low angle",
    "Medium shot in profile",
    "Medium shot through a doorway",
];
const CLOSE: [&str; 5] = [
    "Close-up",
    "Extreme close-up",
    "Close-up from above",
    "Close-up with a shallow focus",
    "Low close-up",
];
const MOVES: [&str; 7] = [
    "The camera pushes in slowly",
    "The camera drifts from left to right",
    "The camera circles by a quarter turn",
    "The camera stays still",
    "The camera rises a little",
    "The camera follows the movement by hand",
    "The camera pulls back gently",
];
const SURFACES: [&str; 5] = [
    "light runs along {its} edge while all behind {them} falls out of focus",
    "{its} material fills the frame, every fine mark of it in focus",
    "focus wanders from one end of {them} to the other",
    "a shadow passes over {them} and gives {them} back to the light",
    "a reflection of the place slides across {them}",
];
const REACTIONS: [&str; 4] = [
    "looks up from {them} and smiles at nobody in particular",
    "lets out a long breath and nods",
    "laughs quietly and shakes the head",
    "stands still for a moment and just looks",
];

/// Everything that is drawn for the shots of a film.
pub(super) struct Decks {
    pub(super) wide: Deck<&'static str>,
    pub(super) medium: Deck<&'static str>,
    pub(super) close: Deck<&'static str>,
    pub(super) moves: Deck<&'static str>,
    pub(super) surfaces: Deck<&'static str>,
    pub(super) reactions: Deck<&'static str>,
    pub(super) arrivals: Deck<&'static str>,
    pub(super) uses: Deck<&'static str>,
    pub(super) lights: Vec<Deck<&'static str>>,
}

impl Decks {
    pub(super) fn new(
        field: &Field,
        lights: Vec<Deck<&'static str>>,
        random: &mut ChaCha8Rng,
    ) -> Self {
        Self {
            wide: Deck::new(&WIDE, random),
            medium: Deck::new(&MEDIUM, random),
            close: Deck::new(&CLOSE, random),
            moves: Deck::new(&MOVES, random),
            surfaces: Deck::new(&SURFACES, random),
            reactions: Deck::new(&REACTIONS, random),
            arrivals: Deck::new(&field.arrivals, random),
            uses: Deck::new(&field.uses, random),
            lights,
        }
    }
}
