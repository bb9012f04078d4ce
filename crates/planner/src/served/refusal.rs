//! What a server means when it refuses a question: an option of ours, the model, or this question.

use serde_json::Value;

use super::terms::{Knob, TABLE, Terms};

/// What a server said about an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Complaint {
    /// In a line, for people.
    pub(super) said: String,
    /// All of it, in lower case.
    words: String,
    /// What it calls the parts of the question that it means.
    parts: Vec<String>,
    /// Its own code for the error.
    code: String,
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A part of the question that may be left out.
    Option(Knob),
    /// The answer would have too many tokens; the number that is allowed, if it is given.
    Less(Option<u32>),
    /// Question and answer do not fit into the model's window.
    Window {
        /// Tokens of the window.
        tokens: u32,
        /// Tokens of the question, if it says so.
        question: Option<u32>,
    },
    /// The question alone is too long.
    TooLong,
    /// There is no such model.
    Model,
    /// The words of this question are not allowed.
    Filtered,
    /// Nobody knows.
    Unknown,
}

const FILTERS: [&str; 8] = [
    "content_filter",
    "content filter",
    "content_policy",
    "content policy",
    "content management policy",
    "responsibleai",
    "moderation",
    "safety system",
];
const NO_MODEL: [&str; 7] = [
    "does not exist",
    "not found",
    "no such model",
    "unknown model",
    "invalid model",
    "not a valid model",
    "is not supported by any provider",
];
const WINDOWS: [&str; 7] = [
    "context length",
    "context_length",
    "context window",
    "context size",
    "maximum context",
    "maximum model length",
    "`inputs` tokens",
];
/// Words by which an option itself is refused, and not its value.
const UNKNOWN_OPTION: [&str; 18] = [
    "unimplemented",
    "unsupported",
    "not supported",
    "does not support",
    "doesn't support",
    "not support",
    "instead",
    "unknown",
    "unrecognized",
    "unrecognised",
    "unexpected",
    "not permitted",
    "not allowed",
    "not available",
    "extra",
    "deprecated",
    "cannot find field",
    "not implemented",
];
/// Words by which a value is refused.
const WRONG_VALUE: [&str; 7] = [
    "invalid", "must be", "only", "cannot", "can't", "failed", "missing",
];
/// Words by which a number is too large.
const TOO_MUCH: [&str; 12] = [
    "too large",
    "too big",
    "too high",
    "at most",
    "exceed",
    "maximum",
    "less than",
    "greater than",
    "range",
    "<=",
    "≤",
    "reduce",
];

impl Complaint {
    /// Out of the body of an answer that is none.
    pub(super) fn of_text(text: &str) -> Self {
        match serde_json::from_str::<Value>(text) {
            Ok(value) => Self::of_value(&value, text),
            Err(_) => Self {
                said: excerpt(&without_tags(text)),
                words: text.to_lowercase(),
                ..Self::default()
            },
        }
    }

    /// Out of the JSON of an error, in any of the forms that servers use.
    pub(super) fn of_value(value: &Value, text: &str) -> Self {
        // Some gateways send a list with one error.
        let value = value.get(0).unwrap_or(value);
        let error = value.get("error").filter(|error| error.is_object());
        let error = error.unwrap_or(value);
        let said = ["message", "detail", "error", "msg", "title"]
            .into_iter()
            .find_map(|key| message(error.get(key)?));
        let mut parts = Vec::new();
        parts.extend(error["param"].as_str().map(str::to_lowercase));
        for key in ["detail", "message"] {
            let detail = error
                .get(key)
                .map(|detail| detail.get("detail").unwrap_or(detail));
            parts.extend(
                detail
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(place),
            );
        }
        let code = [&error["code"], &error["type"]];
        let code: Vec<_> = code.iter().filter_map(|code| code.as_str()).collect();
        let said = said.unwrap_or_else(|| text.to_owned());
        Self {
            words: said.to_lowercase(),
            said: excerpt(&said),
            parts,
            code: code.join(" ").to_lowercase(),
        }
    }

    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.words.contains(word))
    }

    /// What it means for a question that was asked with `terms`, for `most` tokens of answer.
    pub(super) fn meaning(&self, terms: &Terms, most: u32) -> Meaning {
        if self.has(&FILTERS) || FILTERS.iter().any(|word| self.code.contains(word)) {
            return Meaning::Filtered;
        }
        if self.is_about_the_model() {
            return Meaning::Model;
        }
        if self.has(&WINDOWS) || self.code.contains("context") {
            return self.window(most);
        }
        match self.option(terms) {
            Some(Knob::Limit) if self.is_about_a_number() => Meaning::Less(self.bound_below(most)),
            Some(knob) => Meaning::Option(knob),
            None => Meaning::Unknown,
        }
    }

    /// Whether a server that calls it an error of its own has stumbled over a part of the question:
    /// some cannot make a grammar of a schema, or have no eyes for a picture.
    pub(super) fn blames_a_part(&self, terms: &Terms) -> bool {
        let refused = self.has(&UNKNOWN_OPTION) || self.has(&WRONG_VALUE);
        refused && matches!(self.option(terms), Some(Knob::Format | Knob::Picture))
    }

    fn is_about_the_model(&self) -> bool {
        let named = self.parts.iter().any(|part| part == "model");
        let missing = self.words.contains("model") && self.has(&NO_MODEL);
        named || missing || self.code.contains("model_not_found")
    }

    /// The part of the question that is meant: what the server says it is, else the first that its
    /// words name.
    fn option(&self, terms: &Terms) -> Option<Knob> {
        let parts = self.parts.iter().flat_map(|part| identifiers(part));
        let named = parts.filter_map(|word| knob_called(word, terms)).next();
        if named.is_some() {
            return named;
        }
        if terms.has(Knob::System)
            && self.has(&[
                "roles must alternate",
                "system role",
                "role system",
                "system message",
            ])
        {
            return Some(Knob::System);
        }
        let refuses = self.has(&UNKNOWN_OPTION) || self.has(&WRONG_VALUE) || self.has(&TOO_MUCH);
        let words = identifiers(&self.words);
        let mut found = words.filter_map(|word| {
            let knob = knob_called(word, terms)?;
            // What is also a plain word means an option only where something is refused.
            (word.contains('_') || refuses).then_some(knob)
        });
        found.next()
    }

    fn is_about_a_number(&self) -> bool {
        let renamed = self.has(&[
            "instead",
            "unsupported parameter",
            "unknown",
            "unrecognized",
        ]);
        !renamed && self.has(&TOO_MUCH)
    }

    /// The largest number below `most`.
    fn bound_below(&self, most: u32) -> Option<u32> {
        let numbers = numbers(&self.words).map(|number| number.value);
        numbers.filter(|value| (1..most).contains(value)).max()
    }

    fn window(&self, most: u32) -> Meaning {
        let numbers: Vec<_> = numbers(&self.words).collect();
        let marks = WINDOWS.iter().chain(&["<=", "n_ctx"]);
        let mark = marks.filter_map(|mark| self.words.find(mark)).min();
        let after = |at: usize| numbers.iter().position(|number| number.start >= at);
        let tokens = mark.and_then(after).or_else(|| {
            let smaller = |number: &&Number<'_>| (64..most).contains(&number.value);
            let largest = numbers
                .iter()
                .filter(smaller)
                .max_by_key(|number| number.value)?;
            numbers
                .iter()
                .position(|number| number.start == largest.start)
        });
        let Some(tokens) = tokens else {
            return Meaning::Less(None);
        };
        let question = (0..numbers.len())
            .filter(|position| *position != tokens)
            .find(|position| numbers[*position].counts_the_question());
        let question = question.map(|position| numbers[position].value);
        let tokens = numbers[tokens].value;
        match question {
            Some(question) if question.saturating_add(super::terms::LEAST) > tokens => {
                Meaning::TooLong
            }
            _ => Meaning::Window { tokens, question },
        }
    }
}

/// A text wherever servers put it: plain, in an object of its own, or in a list of details.
fn message(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Object(_) => ["message", "detail", "msg"]
            .into_iter()
            .find_map(|key| message(value.get(key)?)),
        Value::Array(list) => {
            let told = list.iter().filter_map(|item| {
                let said = message(item)?;
                Some(place(item).map_or(said.clone(), |place| format!("{place}: {said}")))
            });
            let told: Vec<_> = told.collect();
            (!told.is_empty()).then(|| told.join("; "))
        }
        _ => None,
    }
}

/// The place that a detail is about, as FastAPI writes it: `["body", "seed"]`.
fn place(detail: &Value) -> Option<String> {
    let steps = detail.get("loc")?.as_array()?;
    let steps = steps
        .iter()
        .filter_map(Value::as_str)
        .filter(|step| *step != "body");
    let steps: Vec<_> = steps.collect();
    (!steps.is_empty()).then(|| steps.join(".").to_lowercase())
}

/// The words of a text that may be names of options.
fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty())
}

/// The part that is called so, if it is still in the question.
fn knob_called(word: &str, terms: &Terms) -> Option<Knob> {
    let row = TABLE.iter().find(|row| row.names.contains(&word))?;
    terms.has(row.knob).then_some(row.knob)
}

/// A number in a text, and the words next to it.
struct Number<'a> {
    value: u32,
    start: usize,
    before: &'a str,
    after: &'a str,
}

impl Number<'_> {
    /// Whether it is the length of the question.
    fn counts_the_question(&self) -> bool {
        const AFTER: [&str; 3] = ["input", "in the message", "prompt"];
        const BEFORE: [&str; 6] = [
            "resulted in ",
            "prompt (length ",
            "prompt contains ",
            "prompt has ",
            "prompt length is ",
            "input length: ",
        ];
        AFTER.iter().any(|word| self.after.contains(word))
            || BEFORE.iter().any(|words| self.before.ends_with(words))
    }
}

/// The whole numbers of a text; `8,192` is one.
fn numbers(text: &str) -> impl Iterator<Item = Number<'_>> {
    /// Bytes after a number that may say what it counts.
    const NEAR: usize = 30;
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text[at..].find(|c: char| c.is_ascii_digit())?;
            let length = digits(&text[start..]);
            at = start + length;
            let plain = text[start..at].replace(',', "");
            let Ok(value) = plain.parse() else { continue };
            let rest = &text[at..];
            let near = rest
                .char_indices()
                .take_while(|(place, c)| *place < NEAR && !c.is_ascii_digit());
            let end = near.last().map_or(0, |(place, c)| place + c.len_utf8());
            return Some(Number {
                value,
                start,
                before: &text[..start],
                after: &rest[..end],
            });
        }
    })
}

/// Length of the number that begins a text. A comma belongs to it where three digits follow.
fn digits(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    while digit(end)
        || bytes.get(end) == Some(&b',') && (1..4).all(|more| digit(end + more)) && !digit(end + 4)
    {
        end += 1;
    }
    end
}

/// What a page says, without its tags.
fn without_tags(text: &str) -> String {
    if !text.trim_start().starts_with('<') {
        return text.to_owned();
    }
    let mut inside = false;
    let kept = text.chars().filter(|c| {
        inside |= *c == '<';
        let keep = !inside;
        inside &= *c != '>';
        keep
    });
    let words: String = kept.collect();
    let words: Vec<_> = words.split_whitespace().collect();
    format!("a web page: {}", words.join(" "))
}

/// The beginning of a text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 300;
    let line: String = text.replace(char::is_control, " ");
    let line = line.trim();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::served::ResponseFormat;

    fn meaning(text: &str) -> Meaning {
        let terms = Terms::new(ResponseFormat::Schema, 8192);
        Complaint::of_text(text).meaning(&terms, 8192)
    }

    fn said(message: &str) -> String {
        json!({"error": {"message": message, "type": "invalid_request_error"}}).to_string()
    }

    /// Words of real servers, some of them shortened.
    #[test]
    fn options_are_known_by_the_words_of_servers() {
        for (message, knob) in [
            (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                Knob::Limit,
            ),
            (
                "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
                Knob::Temperature,
            ),
            (
                "Unrecognized request argument supplied: chat_template_kwargs",
                Knob::Thinking,
            ),
            ("property 'seed' is unsupported", Knob::Seed),
            (
                "Invalid JSON payload received. Unknown name \"seed\": Cannot find field.",
                Knob::Seed,
            ),
            ("json: unknown field \"top_k\"", Knob::TopK),
            ("response_format json_schema is not supported", Knob::Format),
            (
                "Invalid schema for response_format 'script': In context=(), 'minItems' is not permitted.",
                Knob::Format,
            ),
            (
                "Grammar error: Unimplemented keys: [\"minItems\"]",
                Knob::Format,
            ),
            (
                "[{'type': 'extra_forbidden', 'loc': ('body', 'chat_template_kwargs'), 'msg': 'Extra inputs are not permitted', 'input': {'seed': 3}}]",
                Knob::Thinking,
            ),
            (
                "This model only support stream mode, please enable the stream parameter to access the model.",
                Knob::Stream,
            ),
            ("System role not supported", Knob::System),
            (
                "Conversation roles must alternate user/assistant/user/assistant/...",
                Knob::System,
            ),
            (
                "Invalid content type. image_url is only supported by certain models.",
                Knob::Picture,
            ),
            ("This model does not support image input", Knob::Picture),
            (
                "`temperature` and `top_p` cannot both be specified for this model.",
                Knob::Temperature,
            ),
        ] {
            assert_eq!(meaning(&said(message)), Meaning::Option(knob), "{message}");
        }
    }

    #[test]
    fn options_are_known_by_where_servers_say_they_are() {
        for text in [
            json!({"error": {"message": "no", "param": "seed"}}),
            json!({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
            json!({"object": "error", "message": {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}}),
            json!([{"error": {"code": 400, "message": "Unknown name \"seed\""}}]),
            json!({"message": "seed: extra fields not permitted"}),
            json!({"error": "unknown option: seed"}),
        ] {
            assert_eq!(
                meaning(&text.to_string()),
                Meaning::Option(Knob::Seed),
                "{text}"
            );
        }
        let inside =
            json!({"error": {"message": "no", "param": "response_format.json_schema.schema"}});
        assert_eq!(meaning(&inside.to_string()), Meaning::Option(Knob::Format));
    }

    #[test]
    fn bounds_are_read_out_of_the_words_of_servers() {
        let window = |tokens, question| Meaning::Window { tokens, question };
        for (message, wanted) in [
            (
                "max_tokens is too large: 8192. This model supports at most 4,096 completion tokens, whereas you provided 8192.",
                Meaning::Less(Some(4096)),
            ),
            (
                "`max_tokens` must be less than or equal to `4096`, the maximum value for `max_tokens`",
                Meaning::Less(Some(4096)),
            ),
            ("max_tokens is too large", Meaning::Less(None)),
            (
                "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 4096 tokens and your request has 613 input tokens (8192 > 4096 - 613).",
                window(4096, Some(613)),
            ),
            (
                "This model's maximum context length is 4096 tokens. However, you requested 8705 tokens (513 in the messages, 8192 in the completion). Please reduce the length.",
                window(4096, Some(513)),
            ),
            (
                "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 8705 tokens: 513 tokens from the input messages and 8192 tokens for the completion.",
                window(4096, Some(513)),
            ),
            (
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 513 `inputs` tokens and 8192 `max_new_tokens`",
                window(4096, Some(513)),
            ),
            (
                "max_tokens is too large: 8192; maximum context length is 4096",
                window(4096, None),
            ),
            (
                "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.",
                Meaning::TooLong,
            ),
            (
                "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
                Meaning::TooLong,
            ),
        ] {
            assert_eq!(meaning(&said(message)), wanted, "{message}");
        }
    }

    #[test]
    fn the_model_and_the_words_of_a_question_are_told_apart() {
        for message in [
            "The model `m` does not exist.",
            "model 'm' not found, try pulling it first",
            "Unknown model: m",
        ] {
            assert_eq!(meaning(&said(message)), Meaning::Model, "{message}");
        }
        let param =
            json!({"error": {"message": "m?", "param": "model", "code": "unsupported_parameter"}});
        assert_eq!(meaning(&param.to_string()), Meaning::Model);
        let filtered = json!({"error": {"message": "The response was filtered due to the prompt", "code": "content_filter"}});
        assert_eq!(meaning(&filtered.to_string()), Meaning::Filtered);
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "too many grains of seed",
            "<html><b>Bad</b> request</html>",
            "{\"error\": {\"message\": \"bad luck\"}}",
        ] {
            assert_eq!(meaning(text), Meaning::Unknown, "{text}");
        }
        assert_eq!(
            Complaint::of_text("<html><b>Bad</b>\n request</html>").said,
            "a web page: Bad request"
        );
    }

    #[test]
    fn what_is_left_out_is_not_blamed_again() {
        let mut terms = Terms::new(ResponseFormat::Off, 8192);
        terms.leave_out(Knob::Seed);
        let complaint = |text: &str| Complaint::of_text(&said(text)).meaning(&terms, 8192);
        assert_eq!(
            complaint("property 'seed' is unsupported"),
            Meaning::Unknown
        );
        assert_eq!(
            complaint("response_format is not supported"),
            Meaning::Unknown
        );
    }

    proptest! {
        #[test]
        fn no_complaint_is_too_odd(text in "\\PC{0,120}", most in 1_u32..10_000) {
            let terms = Terms::new(ResponseFormat::Schema, most);
            let _ = Complaint::of_text(&text).meaning(&terms, most);
            let _ = Complaint::of_text(&said(&text)).meaning(&terms, most);
            let _ = Complaint::of_text(&said(&format!("context length {text} 8,192 {text}"))).meaning(&terms, most);
        }
    }
}
