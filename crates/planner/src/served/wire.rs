//! The protocol: what is sent, and what comes back.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ResponseFormat, ServedSettings};
use crate::chat::{ChatReply, ChatRequest, Role, TokenCount};

/// Largest answer that is read, in bytes.
pub(super) const LARGEST: u64 = 8 << 20;

/// Where chat completions are, below the address of an API.
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
    Ok(format!(
        "{}/chat/completions",
        endpoint.trim_end_matches('/')
    ))
}

/// The body of a request.
pub(super) fn request_body(
    request: &ChatRequest,
    settings: &ServedSettings,
) -> Result<String, String> {
    let picture = request.picture.as_ref();
    let picture = picture.map(|picture| picture.data_url(settings.picture_side));
    let mut picture = picture.transpose().map_err(|error| error.to_string())?;
    let messages: Vec<Value> = request
        .turns
        .iter()
        .map(|turn| {
            let content = match picture.take_if(|_| turn.role == Role::User) {
                Some(url) => json!([
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": turn.text},
                ]),
                None => json!(turn.text),
            };
            json!({"role": turn.role.name(), "content": content})
        })
        .collect();
    let sampling = &settings.sampling;
    let mut body = json!({
        "model": settings.model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        // Some servers keep seeds in 32 bits with a sign.
        "seed": request.seed & 0x7fff_ffff,
        "stream": false,
    });
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    let schema = &request.schema;
    match settings.format {
        ResponseFormat::Schema => {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": {"name": schema.name, "strict": true, "schema": schema.value},
            });
        }
        ResponseFormat::Object => body["response_format"] = json!({"type": "json_object"}),
        ResponseFormat::Off => {}
    }
    Ok(body.to_string())
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// The answer in what a server sent.
pub(super) fn read_reply(text: &str) -> Result<ChatReply, String> {
    let completion: Completion =
        serde_json::from_str(text).map_err(|error| format!("{error} in {}", excerpt(text)))?;
    let choice = completion.choices.into_iter().next();
    let Message { content, refusal } = choice.ok_or("it has no choices")?.message;
    let tokens = completion
        .usage
        .map_or(TokenCount::default(), |usage| TokenCount {
            prompt: usage.prompt_tokens,
            completion: usage.completion_tokens,
        });
    // A refusal is an answer that is no script: the model is asked again, and told why.
    let text = content.or(refusal).ok_or("its message is empty")?;
    Ok(ChatReply { text, tokens })
}

/// What a server said about an error, in a line.
pub(super) fn complaint(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let places = [
        &value["error"]["message"],
        &value["message"],
        &value["detail"],
        &value["error"],
    ];
    let said = places.into_iter().find_map(Value::as_str);
    excerpt(said.unwrap_or(text))
}

fn excerpt(text: &str) -> String {
    const SHOWN: usize = 300;
    let line: String = text.replace(char::is_control, " ");
    let line = line.trim();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
