//! Which tokens may come next.

use storyloom_nn::error::{ModelError, Result};

/// Keeps a text to a form, such as a grammar: asked before every token and told of every choice.
pub trait Constraint: Send {
    /// The tokens that may come next. Where the text may end, tokens that end it are among them.
    ///
    /// # Errors
    /// The constraint is broken; this story fails, the others go on.
    fn mask(&mut self) -> Result<TokenMask>;

    /// Takes note of the token that was chosen; true if the text is complete and nothing may
    /// follow. Not called for a token that ended the text.
    ///
    /// # Errors
    /// The token was not allowed, or the constraint is broken.
    fn commit(&mut self, token: u32) -> Result<bool>;
}

/// A set of tokens: one bit for every entry of the vocabulary, 32 to a word, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// No token of a vocabulary of `size` entries.
    pub fn none(size: usize) -> Self {
        Self {
            words: vec![0; size.div_ceil(32)],
        }
    }

    /// Every token of a vocabulary of `size` entries.
    pub fn all(size: usize) -> Self {
        let mut mask = Self::from_words(vec![u32::MAX; size.div_ceil(32)]);
        mask.cut(size);
        mask
    }

    /// The tokens whose bits are set; tokens beyond the words are not in the set.
    pub fn from_words(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// Adds a token; one beyond the vocabulary is left out.
    pub fn allow(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }

    /// Takes a token out.
    pub fn forbid(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word &= !(1 << (token % 32));
        }
    }

    /// The same tokens of a vocabulary of `size` entries, which may be larger or smaller.
    #[must_use]
    pub fn over(mut self, size: usize) -> Self {
        self.words.resize(size.div_ceil(32), 0);
        self.cut(size);
        self
    }

    /// Takes out what lies beyond `size` entries in the last word.
    fn cut(&mut self, size: usize) {
        if let (Some(word), rest @ 1..) = (self.words.last_mut(), size % 32) {
            *word &= (1 << rest) - 1;
        }
    }

    /// Whether the token is in the set.
    pub fn allows(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / 32).copied().unwrap_or(0);
        word >> (token % 32) & 1 == 1
    }

    /// Makes every token that is not in the set impossible.
    ///
    /// # Errors
    /// No token is left.
    pub(super) fn apply(&self, logits: &mut [f32]) -> Result<()> {
        let mut left = 0;
        for (token, logit) in logits.iter_mut().enumerate() {
            match self.allows(token as u32) {
                true => left += 1,
                false => *logit = f32::NEG_INFINITY,
            }
        }
        if left == 0 {
            return Err(ModelError::input("constraint", "it allows no token at all"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_leave_what_they_allow() {
        let mut mask = TokenMask::none(40);
        mask.allow(3);
        mask.allow(39);
        mask.allow(4000);
        let mut logits = vec![1.0; 50];
        mask.apply(&mut logits).unwrap();
        let left: Vec<usize> = (0..50).filter(|&token| logits[token] == 1.0).collect();
        assert_eq!(left, [3, 39]);
        assert_eq!(TokenMask::from_words(vec![8, 128]), mask);
        assert!(TokenMask::none(40).apply(&mut logits).is_err());
    }

    #[test]
    fn masks_of_other_vocabularies_say_the_same_of_the_tokens_of_both() {
        for size in [31, 32, 33, 64] {
            let mut mask = TokenMask::all(size);
            let allowed = |mask: &TokenMask| (0..99).filter(|&token| mask.allows(token)).count();
            assert_eq!(allowed(&mask), size);
            mask.forbid(5);
            mask.forbid(4000);
            assert_eq!(allowed(&mask), size - 1);
            let larger = mask.clone().over(98);
            assert_eq!(allowed(&larger), size - 1);
            let mut grown = larger;
            grown.allow(97);
            assert!(grown.allows(97) && !grown.allows(5));
            assert_eq!(allowed(&mask.over(7)), 6);
        }
    }
}
