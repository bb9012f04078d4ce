//! What comes back: an answer in one piece, or a stream of pieces although none was asked for.
//!
//! Servers differ in what they leave out and add, so whatever can be understood is: counts that are
//! null, a content in parts, an unknown reason for the end. What remains without words is an answer
//! with a [flaw](Flaw), which concerns its question alone.

use serde_json::Value;

use super::refusal::{Complaint, excerpt};
use super::retry::Fault;
use crate::chat::{ChatReply, Flaw, TokenCount};

/// The answer in what a server sent.
pub(super) fn read_reply(text: &str) -> Result<ChatReply, Fault> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if is_stream(text) {
        return read_stream(text);
    }
    let garbage = |reason: &str| {
        let said = Complaint::of_text(text).said;
        Fault::Garbage(format!("{reason} in {}", excerpt(&said)))
    };
    let value: Value = serde_json::from_str(text).map_err(|error| garbage(&error.to_string()))?;
    let mut gathered = Gathered::default();
    if !gathered.take(&value, text)? {
        return Err(garbage("there are no \"choices\""));
    }
    Ok(gathered.reply())
}

/// Whether a text is a stream of events.
fn is_stream(text: &str) -> bool {
    const FIELDS: [&str; 5] = ["data:", "event:", "id:", "retry:", ":"];
    FIELDS.iter().any(|field| text.starts_with(field))
}

/// An answer in pieces. One that breaks off is a connection that broke.
fn read_stream(text: &str) -> Result<ChatReply, Fault> {
    let mut gathered = Gathered::default();
    let mut ended = false;
    for line in text.lines() {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            continue;
        };
        if data == "[DONE]" {
            ended = true;
            break;
        }
        if data.is_empty() {
            continue;
        }
        let piece: Value = serde_json::from_str(data)
            .map_err(|error| Fault::Garbage(format!("{error} in {}", excerpt(data))))?;
        gathered.take(&piece, data)?;
    }
    if !ended && gathered.end.is_none() {
        let reason = "the stream of the answer broke off".to_owned();
        return Err(Fault::Connection(reason));
    }
    Ok(gathered.reply())
}

/// What was said in all pieces of an answer.
#[derive(Default)]
struct Gathered {
    text: String,
    refusal: String,
    thoughts: bool,
    tools: Vec<String>,
    /// Why the model ended, in the server's words.
    end: Option<String>,
    tokens: TokenCount,
}

impl Gathered {
    /// Takes in a piece; false if it is none.
    fn take(&mut self, piece: &Value, text: &str) -> Result<bool, Fault> {
        if let Some(error) = piece.get("error").filter(|error| !error.is_null()) {
            return Err(hidden_error(error, piece, text));
        }
        let usage = &piece["usage"];
        let count = |key: &str| usage[key].as_f64().map(|count| count as u64);
        let TokenCount { prompt, completion } = self.tokens;
        self.tokens = TokenCount {
            prompt: count("prompt_tokens").unwrap_or(prompt),
            completion: count("completion_tokens").unwrap_or(completion),
        };
        let Some(choices) = piece["choices"].as_array() else {
            return Ok(false);
        };
        if let Some(choice) = choices.first() {
            self.take_choice(choice);
        }
        Ok(true)
    }

    fn take_choice(&mut self, choice: &Value) {
        for message in [&choice["message"], &choice["delta"], choice] {
            self.take_message(message);
        }
        if let Some(end) = choice["finish_reason"].as_str() {
            self.end = Some(end.to_lowercase());
        }
    }

    fn take_message(&mut self, message: &Value) {
        let (content, thoughts) = words_of(&message["content"]);
        self.text.push_str(&content);
        self.text
            .push_str(message["text"].as_str().unwrap_or_default());
        self.refusal
            .push_str(message["refusal"].as_str().unwrap_or_default());
        let aloud = ["reasoning_content", "reasoning", "thinking"];
        self.thoughts |= thoughts || aloud.iter().any(|key| is_something(&message[*key]));
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        let calls = calls.map(|call| &call["function"]);
        for call in calls.chain([&message["function_call"]]) {
            self.tools.extend(call["name"].as_str().map(str::to_owned));
        }
    }

    fn reply(self) -> ChatReply {
        let flaw = self.flaw();
        let words = if self.text.trim().is_empty() {
            self.refusal
        } else {
            self.text
        };
        ChatReply {
            text: words.trim().to_owned(),
            tokens: self.tokens,
            flaw,
            ..ChatReply::default()
        }
    }

    fn flaw(&self) -> Option<Flaw> {
        match self.end.as_deref() {
            Some("length" | "max_tokens" | "max_output_tokens") => return Some(Flaw::CutOff),
            Some("content_filter" | "safety" | "prohibited_content" | "blocklist") => {
                return Some(Flaw::Filtered);
            }
            _ => {}
        }
        if !self.text.trim().is_empty() {
            return None;
        }
        Some(if !self.refusal.trim().is_empty() {
            Flaw::Refused
        } else if !self.tools.is_empty() {
            Flaw::ToolCalls(self.tools.clone())
        } else if self.thoughts {
            Flaw::OnlyThoughts
        } else {
            Flaw::Empty
        })
    }
}

/// The words of a content, which may come in parts, and whether there are thoughts among them.
fn words_of(content: &Value) -> (String, bool) {
    match content {
        Value::String(text) => (text.clone(), false),
        // Some gateways unpack the JSON that a model writes.
        Value::Object(_) => (content.to_string(), false),
        Value::Array(parts) => {
            let mut words = String::new();
            let mut thoughts = false;
            for part in parts {
                let kind = part["type"].as_str().unwrap_or_default();
                thoughts |= kind.contains("thinking") || kind.contains("reasoning");
                let text = part.as_str().or_else(|| part["text"].as_str());
                words.push_str(text.unwrap_or_default());
            }
            (words, thoughts)
        }
        _ => (String::new(), false),
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => false,
    }
}

/// An error that came with the status of an answer, as some gateways send it.
fn hidden_error(error: &Value, piece: &Value, text: &str) -> Fault {
    let code = [
        &error["code"],
        &error["status"],
        &piece["code"],
        &piece["status"],
    ];
    let number = |code: &Value| code.as_u64().or_else(|| code.as_str()?.parse().ok());
    let status = code.into_iter().find_map(number);
    let status = status.and_then(|code| u16::try_from(code).ok());
    Fault::Status {
        status: status
            .filter(|code| (400..600).contains(code))
            .unwrap_or(400),
        wish: None,
        place: None,
        complaint: Box::new(Complaint::of_value(piece, text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> ChatReply {
        read_reply(&value.to_string()).unwrap()
    }

    fn of_message(message: &Value, end: &str) -> ChatReply {
        read(&json!({"choices": [{"message": message, "finish_reason": end}]}))
    }

    #[test]
    fn what_can_be_read_is_read() {
        for message in [
            json!({"content": "{}"}),
            json!({"content": " {}\n", "reasoning_content": "hm", "tool_calls": null, "refusal": null}),
            json!({"content": [{"type": "text", "text": "{"}, {"type": "text", "text": "}"}]}),
            json!({"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "{}"}]}),
            json!({"content": ["{", "}"]}),
            json!({"content": {}}),
        ] {
            for end in ["stop", "eos_token", "whatever"] {
                let reply = of_message(&message, end);
                assert_eq!((reply.text.as_str(), reply.flaw), ("{}", None), "{message}");
            }
        }
        let plain = read(&json!({"choices": [{"text": "{}", "finish_reason": null}]}));
        assert_eq!(plain.text, "{}");
    }

    #[test]
    fn counts_may_be_missing_null_or_odd() {
        let counted = |usage: Value| {
            read(&json!({"choices": [{"message": {"content": "x"}}], "usage": usage})).tokens
        };
        assert_eq!(
            counted(json!({"prompt_tokens": 7, "completion_tokens": 3.0})),
            TokenCount {
                prompt: 7,
                completion: 3
            }
        );
        for odd in [
            json!(null),
            json!({}),
            json!({"prompt_tokens": null, "completion_tokens": null}),
            json!("many"),
            json!({"prompt_tokens": -1}),
        ] {
            assert_eq!(counted(odd), TokenCount::default());
        }
    }

    #[test]
    fn answers_without_words_say_why() {
        for (message, end, flaw) in [
            (json!({"content": null}), "stop", Flaw::Empty),
            (json!({"content": ""}), "unknown", Flaw::Empty),
            (json!(null), "stop", Flaw::Empty),
            (
                json!({"content": null, "reasoning_content": "hm"}),
                "stop",
                Flaw::OnlyThoughts,
            ),
            (
                json!({"content": [{"type": "thinking", "thinking": "hm"}]}),
                "stop",
                Flaw::OnlyThoughts,
            ),
            (
                json!({"content": null, "reasoning": "hm"}),
                "length",
                Flaw::CutOff,
            ),
            (json!({"content": "{\"title\": "}), "length", Flaw::CutOff),
            (json!({"content": null}), "content_filter", Flaw::Filtered),
            (
                json!({"content": null, "refusal": "I cannot"}),
                "stop",
                Flaw::Refused,
            ),
            (
                json!({"content": null, "tool_calls": [{"function": {"name": "search", "arguments": "{}"}}]}),
                "tool_calls",
                Flaw::ToolCalls(vec!["search".to_owned()]),
            ),
            (
                json!({"content": null, "function_call": {"name": "f"}}),
                "function_call",
                Flaw::ToolCalls(vec!["f".to_owned()]),
            ),
        ] {
            assert_eq!(of_message(&message, end).flaw, Some(flaw), "{message}");
        }
        assert_eq!(
            of_message(&json!({"content": null, "refusal": "I cannot"}), "stop").text,
            "I cannot"
        );
        assert_eq!(read(&json!({"choices": []})).flaw, Some(Flaw::Empty));
    }

    #[test]
    fn a_stream_is_read_although_none_was_asked_for() {
        let piece = |delta: Value, end: Value| {
            format!(
                "data: {}\n\n",
                json!({"choices": [{"delta": delta, "finish_reason": end}]})
            )
        };
        let begun = format!(
            ": keep alive\n\n{}{}",
            piece(json!({"role": "assistant", "content": ""}), json!(null)),
            piece(json!({"content": "{"}), json!(null))
        );
        let whole = format!(
            "{begun}{}data: {}\n\ndata: [DONE]\n\n",
            piece(json!({"content": "}"}), json!("stop")),
            json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
        );
        let reply = read_reply(&whole).unwrap();
        assert_eq!(
            (reply.text.as_str(), reply.flaw, reply.tokens.prompt),
            ("{}", None, 7)
        );
        assert_eq!(read_reply(&whole.replace('\n', "\r\n")).unwrap().text, "{}");
        assert!(matches!(read_reply(&begun), Err(Fault::Connection(_))));
        let error = format!(
            "{begun}data: {}\n\n",
            json!({"error": {"message": "gone", "code": 503}})
        );
        assert!(matches!(
            read_reply(&error),
            Err(Fault::Status { status: 503, .. })
        ));
        let cut = format!("{begun}{}", piece(json!({}), json!("length")));
        assert_eq!(read_reply(&cut).unwrap().flaw, Some(Flaw::CutOff));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for garbage in [
            "",
            "ok",
            "<html>busy</html>",
            "[]",
            "null",
            "{}",
            "{\"choices\": null}",
            "{\"id\": \"x\", \"cho",
        ] {
            assert!(
                matches!(read_reply(garbage), Err(Fault::Garbage(_))),
                "{garbage}"
            );
        }
        for (error, wanted) in [
            (json!({"error": {"message": "busy", "code": 502}}), 502),
            (json!({"error": {"message": "busy", "code": "429"}}), 429),
            (json!({"error": "bad luck"}), 400),
            (json!({"error": {"message": "no"}, "choices": []}), 400),
        ] {
            let Err(Fault::Status { status, .. }) = read_reply(&error.to_string()) else {
                panic!("{error}")
            };
            assert_eq!(status, wanted, "{error}");
        }
        assert_eq!(
            read(&json!({"error": null, "choices": [{"message": {"content": "x"}}]})).text,
            "x"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd_to_be_read(text in "\\PC{0,80}", pieces in proptest::collection::vec("\\PC{0,30}", 0..4)) {
            let _ = read_reply(&text);
            let stream: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
            let _ = read_reply(&stream);
        }
    }
}
