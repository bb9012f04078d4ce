//! Text of others, shown so that it does nothing to a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with control characters, and marks that turn the direction of writing, as `\u{1b}`; line ends
/// and tabs stay. What messages quote goes through this: a manifest may have been written by somebody else,
/// and a terminal carries out what is printed to it.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts(c) {
            // Writing to a text cannot fail.
            true => drop(write!(shown, "{}", c.escape_unicode())),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Whether a terminal does something else with it than showing it.
fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || is_control(c)
}

/// Whether it is a control character that no text has: line ends and tabs are none of these.
pub fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_text() {
        for (text, shown) in [
            ("plain\n\ttext, schön 日本", "plain\n\ttext, schön 日本"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            (
                "a\r\u{7}\u{9b}b\u{7f}\0",
                "a\\u{d}\\u{7}\\u{9b}b\\u{7f}\\u{0}",
            ),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
        ] {
            assert_eq!(escaped(text), shown);
        }
        assert!(matches!(escaped("plain"), Cow::Borrowed(_)));
    }
}
