//! The secret of those who may change what a run does.

use std::fmt;

/// A bearer token. It is never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token in `text`, without white space around it; `None` if nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Whether the header `Authorization` has it. Takes as long for a wrong token as for the right
    /// one, so that nobody finds it letter by letter.
    pub fn is_in(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked(7) else {
            return false;
        };
        let wanted = self.0.as_bytes();
        let pairs = given.iter().zip(wanted);
        let differences = pairs.fold(0, |sum, (a, b)| sum | (a ^ b));
        scheme.eq_ignore_ascii_case(b"Bearer ") && given.len() == wanted.len() && differences == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new(" s3cret\n").unwrap();
        assert!(token.is_in(b"Bearer s3cret") && token.is_in(b"bearer s3cret"));
        for wrong in [
            "Bearer s3cre",
            "Bearer s3cret2",
            "Basic s3cret",
            "Bearer ",
            "s3cret",
            "",
        ] {
            assert!(!token.is_in(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(Token::new(" \n").is_none());
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}
