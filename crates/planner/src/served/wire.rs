//! The protocol: where questions are sent, and what they look like.

use serde_json::{Value, json};

use super::ServedSettings;
use super::terms::{Form, Knob, Terms};
use crate::chat::{ChatMessage, ChatRequest, Role};

/// Largest answer that is read, in bytes.
pub(super) const LARGEST: u64 = 8 << 20;

/// Where chat completions are, below the address of an API. The whole address is understood, too.
pub(super) fn completions_url(endpoint: &str) -> Result<String, String> {
    let help = "write the address of the API, as in http://127.0.0.1:8000/v1";
    let rest = endpoint
        .strip_prefix("http://")
        .or_else(|| endpoint.strip_prefix("https://"));
    let Some(rest) = rest else {
        return Err(format!(
            "the endpoint {endpoint:?} is no http address; {help}"
        ));
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || rest.contains(['?', '#', ' ']) {
        return Err(format!(
            "the endpoint {endpoint:?} is no plain address; {help}"
        ));
    }
    if host.contains('@') {
        return Err(format!(
            "the endpoint has a name or a password in it; {help}"
        ));
    }
    let base = endpoint.trim_end_matches('/');
    let base = base.strip_suffix("/chat/completions").unwrap_or(base);
    Ok(format!("{}/chat/completions", base.trim_end_matches('/')))
}

/// What to do about an address at which there is nothing, if it looks like a wrong one.
pub(super) fn address_help(url: &str) -> &'static str {
    let base = url.strip_suffix("/chat/completions").unwrap_or(url);
    let path = base.splitn(4, '/').nth(3).unwrap_or_default();
    match path
        .split('/')
        .any(|part| part.starts_with('v') && part[1..].starts_with(|c: char| c.is_ascii_digit()))
    {
        true => {
            "is planner.endpoint the address of the API, and planner.model a model that it serves?"
        }
        false => "most servers want planner.endpoint to end with /v1",
    }
}

/// The body of a request.
pub(super) fn request_body(
    request: &ChatRequest,
    settings: &ServedSettings,
    terms: &Terms,
) -> Result<String, String> {
    let sampling = &settings.sampling;
    let mut body = json!({
        "model": settings.model,
        "messages": messages(request, settings, terms)?,
        "stream": !terms.has(Knob::Stream),
    });
    let mut put = |knob, key: &str, value: Value| {
        if terms.has(knob) {
            body[key] = value;
        }
    };
    put(
        Knob::Temperature,
        "temperature",
        json!(sampling.temperature),
    );
    put(Knob::TopP, "top_p", json!(sampling.top_p));
    if sampling.top_k > 0 {
        put(Knob::TopK, "top_k", json!(sampling.top_k));
    }
    // Some servers keep seeds in 32 bits with a sign.
    put(Knob::Seed, "seed", json!(request.seed & 0x7fff_ffff));
    // Templates without that switch pay no heed to it.
    put(
        Knob::Thinking,
        "chat_template_kwargs",
        json!({"enable_thinking": false}),
    );
    if let Some(key) = terms.limit.key() {
        body[key] = json!(terms.most_for(bytes_of(request)));
    }
    if let Some(format) = format_of(request, terms.form) {
        body["response_format"] = format;
    }
    Ok(body.to_string())
}

/// Bytes of the words of a question.
pub(super) fn bytes_of(request: &ChatRequest) -> usize {
    request.turns.iter().map(|turn| turn.text.len()).sum()
}

fn format_of(request: &ChatRequest, form: Form) -> Option<Value> {
    let schema = &request.schema;
    let value = match form {
        Form::Schema => schema.without_lengths(),
        Form::PlainSchema => schema.without_bounds(),
        Form::Object => return Some(json!({"type": "json_object"})),
        Form::Words => return None,
    };
    Some(json!({
        "type": "json_schema",
        "json_schema": {"name": schema.name, "strict": true, "schema": value},
    }))
}

/// The conversation; the picture goes with the first thing we say.
fn messages(
    request: &ChatRequest,
    settings: &ServedSettings,
    terms: &Terms,
) -> Result<Vec<Value>, String> {
    let picture = request
        .picture
        .as_ref()
        .filter(|_| terms.has(Knob::Picture));
    let picture = picture.map(|picture| picture.data_url(settings.picture_side));
    let mut picture = picture.transpose().map_err(|error| error.to_string())?;
    let turns = turns(request, terms);
    let messages = turns.iter().map(|turn| {
        let content = match picture.take_if(|_| turn.role == Role::User) {
            Some(url) => json!([
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": turn.text},
            ]),
            None => json!(turn.text),
        };
        json!({"role": turn.role.name(), "content": content})
    });
    Ok(messages.collect())
}

/// The turns; the rules of the conversation stand before the first thing we say where the server
/// knows no role for them.
fn turns(request: &ChatRequest, terms: &Terms) -> Vec<ChatMessage> {
    let mut turns = request.turns.clone();
    let has_rules = turns.first().is_some_and(|turn| turn.role == Role::System);
    if has_rules && !terms.has(Knob::System) {
        let rules = turns.remove(0).text;
        if let Some(first) = turns.first_mut() {
            first.text = format!("{rules}\n\n{}", first.text);
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_api_or_of_its_completions() {
        for endpoint in [
            "http://h:1/v1",
            "http://h:1/v1/",
            "http://h:1/v1/chat/completions",
            "http://h:1/v1/chat/completions/",
        ] {
            assert_eq!(
                completions_url(endpoint).unwrap(),
                "http://h:1/v1/chat/completions"
            );
        }
        assert_eq!(
            completions_url("https://h").unwrap(),
            "https://h/chat/completions"
        );
        assert!(address_help("https://h/chat/completions").contains("/v1"));
        assert!(address_help("https://h/api/v2beta/chat/completions").contains("planner.model"));
    }
}
