//! What the words of a brief say, and sentences made of them.

use storyloom_story::Brief;

use super::fields::{FIELDS, Field};

/// A prompt in the making: sentences are added while there is room.
pub(super) struct Prompt {
    pub(super) text: String,
    most: usize,
}

impl Prompt {
    pub(super) fn new(most: usize, first: String) -> Self {
        Self { text: first, most }
    }

    pub(super) fn and(mut self, sentence: &str) -> Self {
        if !sentence.is_empty() && self.has_room_for(sentence) {
            self.text.push(' ');
            self.text.push_str(sentence);
        }
        self
    }

    pub(super) fn has_room_for(&self, sentence: &str) -> bool {
        self.text.chars().count() + 1 + sentence.chars().count() <= self.most
    }
}

/// The kind of product, by the words of the brief; those of the title count most.
pub(super) fn field_of(brief: &Brief) -> &'static Field {
    let title = brief.title.as_deref().unwrap_or_default().to_lowercase();
    let mut rest = brief.selling_points.join(" ");
    rest.push(' ');
    rest.push_str(brief.instruction.as_deref().unwrap_or_default());
    let rest = rest.to_lowercase();
    let count = |text: &str, field: &Field| {
        let words = text.split(|c: char| !c.is_alphanumeric());
        words
            .filter(|word| {
                field.words.contains(word) || field.words.contains(&word.trim_end_matches('s'))
            })
            .count()
    };
    let score = |field: &Field| 4 * count(&title, field) + count(&rest, field);
    let mut best = &FIELDS[FIELDS.len() - 1];
    for field in &FIELDS {
        if score(field) > score(best) {
            best = field;
        }
    }
    best
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}
