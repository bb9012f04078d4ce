//! A door for the fuzz targets of `tests/fuzz`.

use super::constraint::Grammars;

/// Tokens of the small model that a tokenizer is read for.
const SIZE: usize = 1024;

/// Reads a `tokenizer.json` for the grammars of answers.
pub fn grammars(bytes: &[u8]) {
    // Whatever is wrong with it is an error.
    let _ = Grammars::new(bytes, SIZE, &[2]);
}
