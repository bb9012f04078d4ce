//! Keeps a text that is being made to the form of a plan.

use storyloom_nn::error::{ModelError, Result};

use super::ImageTokens;
use crate::language::{Constraint, TokenMask};

/// Keeps a text to the form of a plan, so that no slot is ever sampled: after `<img>` only `</img>` comes, which comes
/// nowhere else; the number of pictures is bounded; and neither the first picture nor the end comes before any
/// text.
///
/// The text without the brackets may have a constraint of its own, which does not hear of them.
pub struct PlanConstraint {
    image: ImageTokens,
    end_tokens: Vec<u32>,
    vocabulary: usize,
    most: usize,
    text: Option<Box<dyn Constraint>>,
    pictures: usize,
    is_open: bool,
    has_text: bool,
}

impl PlanConstraint {
    /// A plan of at most `most` pictures, from a model whose embedding has `vocabulary` rows: the tokenizer may know
    /// fewer, and not those of `image`. `end_tokens` end the text.
    ///
    /// # Errors
    /// The model has no rows for the tokens of `image`, or they are not two.
    pub fn new(
        image: ImageTokens,
        end_tokens: &[u32],
        vocabulary: i64,
        most: usize,
    ) -> Result<Self> {
        let ImageTokens { open, close } = image;
        if open == close || i64::from(open.max(close)) >= vocabulary {
            let reason = format!(
                "{open} and {close} cannot stand around pictures in a vocabulary of {vocabulary}"
            );
            return Err(ModelError::input("image_tokens", reason));
        }
        Ok(Self {
            image,
            end_tokens: end_tokens.to_vec(),
            vocabulary: vocabulary as usize,
            most,
            text: None,
            pictures: 0,
            is_open: false,
            has_text: false,
        })
    }

    /// The same, where the text without the brackets is kept to a form of its own.
    #[must_use]
    pub fn with_text(self, text: Box<dyn Constraint>) -> Self {
        Self {
            text: Some(text),
            ..self
        }
    }

    /// Pictures so far.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    fn may_open(&self) -> bool {
        !self.is_open && self.has_text && self.pictures < self.most
    }
}

impl Constraint for PlanConstraint {
    fn mask(&mut self) -> Result<TokenMask> {
        let ImageTokens { open, close } = self.image;
        if self.is_open {
            let mut mask = TokenMask::none(self.vocabulary);
            mask.allow(close);
            return Ok(mask);
        }
        let mut mask = match &mut self.text {
            Some(text) => text.mask()?.over(self.vocabulary),
            None => TokenMask::all(self.vocabulary),
        };
        mask.forbid(close);
        match self.may_open() {
            true => mask.allow(open),
            false => mask.forbid(open),
        }
        if !self.has_text {
            self.end_tokens.iter().for_each(|end| mask.forbid(*end));
        }
        Ok(mask)
    }

    fn commit(&mut self, token: u32) -> Result<bool> {
        let ImageTokens { open, close } = self.image;
        let fits = match token {
            _ if token == open => self.may_open(),
            _ if token == close => self.is_open,
            _ => !self.is_open,
        };
        if !fits {
            let reason = format!("token {token} has no place here");
            return Err(ModelError::input("plan", reason));
        }
        self.is_open = token == open;
        self.pictures += usize::from(token == open);
        if token == open || token == close {
            return Ok(false);
        }
        self.has_text = true;
        match &mut self.text {
            Some(text) => text.commit(token),
            None => Ok(false),
        }
    }
}
