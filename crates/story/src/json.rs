//! Reading JSON with places: every mistake is noted where it stands, and reading goes on.

use jsonc_parser::ast::{Array, Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::problem::{Problems, Span, nearest};

/// The value of `text`, or `None` for a text without one (a problem is noted only if the text is
/// not JSON).
///
/// Comments, trailing commas, single quotes and bare names are accepted, as the reference's
/// JSON5 reader does (StoryMem specification, section 1), with a warning; anything looser is not.
pub(crate) fn read<'t>(problems: &mut Problems<'_>, text: &'t str) -> Option<Value<'t>> {
    let options = ParseOptions {
        allow_missing_commas: false,
        allow_non_finite_numbers: false,
        ..ParseOptions::default()
    };
    match parse_to_ast(text, &CollectOptions::default(), &options) {
        Ok(parsed) => {
            warn_of_loose_json(problems, text);
            parsed.value
        }
        Err(error) => {
            note_syntax_error(problems, text, &error);
            None
        }
    }
}

/// Warns at the first form of a text that only JSON5 has: other programs refuse the file for it.
fn warn_of_loose_json(problems: &mut Problems<'_>, text: &str) {
    if text.trim().is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return;
    }
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    // What only serde_json refuses, such as a number with leading zeros, has no name here.
    let Err(error) = parse_to_ast(text, &CollectOptions::default(), &strict) else {
        return;
    };
    let what = match error.kind() {
        ParseErrorKind::CommentsNotAllowed => "a comment",
        ParseErrorKind::TrailingCommasNotAllowed => "a comma behind the last value",
        ParseErrorKind::SingleQuotedStringsNotAllowed => "a text in single quotes",
        ParseErrorKind::ExpectedStringObjectProperty | ParseErrorKind::UnexpectedWord => {
            "a key without quotes"
        }
        _ => "a number or an escape",
    };
    let range = error.range();
    problems.warn(
        (range.start, range.end),
        format!("{what} that JSON does not have; it is read as JSON5"),
        "write plain JSON: other programs refuse this file",
    );
}

fn note_syntax_error(problems: &mut Problems<'_>, text: &str, error: &ParseError) {
    let range = error.range();
    let end = text.trim_end().len();
    let (span, what, help) = match error.kind() {
        ParseErrorKind::UnterminatedObject => (
            (end, end),
            "the text ends inside an object".to_owned(),
            "close it with '}', or look for a missing '}' further up",
        ),
        ParseErrorKind::UnterminatedArray => (
            (end, end),
            "the text ends inside a list".to_owned(),
            "close it with ']', or look for a missing ']' further up",
        ),
        ParseErrorKind::ExpectedComma => (
            (range.start, range.end),
            "a comma is missing".to_owned(),
            "put a comma between the two values",
        ),
        kind => (
            (range.start, range.end),
            lower_first(&kind.to_string()),
            "mend the JSON at this place",
        ),
    };
    problems.add(span, format!("not valid JSON: {what}"), help);
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// The bytes of a value.
pub(crate) fn span(value: &impl Ranged) -> Span {
    (value.start(), value.end())
}

/// The bytes of a property's name.
pub(crate) fn name_span(property: &ObjectProp<'_>) -> Span {
    span(&property.name)
}

/// What a value is, for messages.
pub(crate) fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::StringLit(_) => "a text",
        Value::NumberLit(_) => "a number",
        Value::BooleanLit(_) => "true or false",
        Value::Object(_) => "an object",
        Value::Array(_) => "a list",
        Value::NullKeyword(_) => "null",
    }
}

/// An object whose names have been checked.
pub(crate) struct Fields<'a, 't> {
    object: &'a Object<'t>,
    /// What the object is, for messages: "the scene".
    what: &'static str,
    /// Whether it has names that are not known.
    is_misspelt: bool,
}

impl<'a, 't> Fields<'a, 't> {
    /// Takes `value` as an object that has no names but `known`, none of them twice.
    pub(crate) fn new(
        problems: &mut Problems<'_>,
        value: &'a Value<'t>,
        what: &'static str,
        known: &[&'static str],
    ) -> Option<Self> {
        Self::with_hints(problems, value, what, known, known)
    }

    /// As [`Fields::new`], where a wrong name may have been meant to be one of `hints`.
    pub(crate) fn with_hints(
        problems: &mut Problems<'_>,
        value: &'a Value<'t>,
        what: &'static str,
        known: &[&'static str],
        hints: &[&'static str],
    ) -> Option<Self> {
        let Value::Object(object) = value else {
            let message = format!("{what} must be an object, but is {}", kind(value));
            problems.add(
                span(value),
                message,
                format!("its keys are {}", known.join(", ")),
            );
            return None;
        };
        let mut is_misspelt = false;
        for (position, property) in object.properties.iter().enumerate() {
            let name = property.name.as_str();
            let earlier = &object.properties[..position];
            if !known.contains(&name) {
                is_misspelt = true;
                note_unknown_key(problems, property, what, hints);
            } else if earlier.iter().any(|other| other.name.as_str() == name) {
                let message = format!("{what} has the key \"{name}\" twice");
                problems.add(name_span(property), message, "remove one of them");
            }
        }
        Some(Self {
            object,
            what,
            is_misspelt,
        })
    }

    /// Whether a name was not known: what seems to be missing may stand there.
    pub(crate) fn is_misspelt(&self) -> bool {
        self.is_misspelt
    }

    /// The value of `name`; `None` when it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value<'t>> {
        let property = self.object.properties.iter();
        let mut found = property.filter(|property| property.name.as_str() == name);
        found
            .next()
            .map(|property| &property.value)
            .filter(|value| !matches!(value, Value::NullKeyword(_)))
    }

    /// The value of `name`; notes a problem when it is absent or null.
    pub(crate) fn require(
        &self,
        problems: &mut Problems<'_>,
        name: &str,
        help: &str,
    ) -> Option<&'a Value<'t>> {
        let value = self.get(name);
        if value.is_none() {
            let start = self.object.range.start;
            let message = format!("{} has no \"{name}\"", self.what);
            problems.add((start, start + 1), message, help);
        }
        value
    }

    /// An optional text.
    pub(crate) fn text(&self, problems: &mut Problems<'_>, name: &str) -> Option<String> {
        let value = self.get(name)?;
        text(problems, value, name)
    }

    /// The bytes of the object.
    pub(crate) fn span(&self) -> Span {
        (self.object.range.start, self.object.range.end)
    }
}

fn note_unknown_key(
    problems: &mut Problems<'_>,
    property: &ObjectProp<'_>,
    what: &str,
    known: &[&'static str],
) {
    let name = property.name.as_str();
    let help = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("the known keys are {}", known.join(", ")),
    };
    let message = format!("{what} has the unknown key \"{name}\"");
    problems.add(name_span(property), message, help);
}

/// Takes `value` as a text.
pub(crate) fn text(problems: &mut Problems<'_>, value: &Value<'_>, name: &str) -> Option<String> {
    if let Value::StringLit(literal) = value {
        return Some(literal.value.clone().into_owned());
    }
    let message = format!("\"{name}\" must be a text, but is {}", kind(value));
    problems.add(span(value), message, "write it in double quotes");
    None
}

/// Takes `value` as a list.
pub(crate) fn list<'a, 't>(
    problems: &mut Problems<'_>,
    value: &'a Value<'t>,
    name: &str,
) -> Option<&'a Array<'t>> {
    if let Value::Array(array) = value {
        return Some(array);
    }
    let message = format!("\"{name}\" must be a list, but is {}", kind(value));
    problems.add(span(value), message, "write it in square brackets");
    None
}

/// Takes `value` as a seed: a number, or its digits as a text, since numbers above 2^53 lose digits
/// in programs that compute with floating point.
pub(crate) fn seed(problems: &mut Problems<'_>, value: &Value<'_>, name: &str) -> Option<u64> {
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Value::StringLit(literal) = value
        && is_digits(&literal.value)
        && let Ok(seed) = literal.value.parse()
    {
        return Some(seed);
    }
    integer(problems, value, name, "a whole number from 0 to 2^64 - 1")
}

/// Takes `value` as a whole number that fits `T`; `range` says in words which are allowed.
pub(crate) fn integer<T: std::str::FromStr>(
    problems: &mut Problems<'_>,
    value: &Value<'_>,
    name: &str,
    range: &str,
) -> Option<T> {
    let found = match value {
        Value::NumberLit(literal) => {
            if let Ok(number) = literal.value.parse() {
                return Some(number);
            }
            literal.value.to_owned()
        }
        other => kind(other).to_owned(),
    };
    let message = format!("\"{name}\" must be {range}, but is {found}");
    problems.add(
        span(value),
        message,
        "write it as plain digits without quotes",
    );
    None
}
