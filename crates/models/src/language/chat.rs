//! Chat templates: conversations written out the way a model was taught.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::checkpoint::read_json;
use crate::error::{ModelError, Result};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Rules for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// A piece of what somebody says.
#[derive(Debug, Clone)]
pub enum Content {
    /// Words.
    Text(String),
    /// A picture, for models with a vision tower.
    Image(RgbImage),
}

/// What somebody says.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What, in order.
    pub content: Vec<Content>,
}

impl Message {
    /// Words alone.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![Content::Text(text.into())],
        }
    }

    /// As templates want it: a string where there are words alone, else a list of parts.
    fn value(&self) -> Value {
        let content = match self.content.as_slice() {
            [Content::Text(text)] => Value::from(text.as_str()),
            parts => parts.iter().map(part_value).collect(),
        };
        let role = match self.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        Value::from_pairs([("role", Value::from(role)), ("content", content)])
    }
}

fn part_value(part: &Content) -> Value {
    match part {
        Content::Text(text) => Value::from_pairs([
            ("type", Value::from("text")),
            ("text", Value::from(text.as_str())),
        ]),
        Content::Image(_) => Value::from_pairs([("type", Value::from("image"))]),
    }
}

/// What a template is told beside the messages.
#[derive(Debug, Clone)]
pub struct ChatOptions {
    /// End with the opening of the model's own turn.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking` of Qwen3.
    pub variables: BTreeMap<String, serde_json::Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            variables: BTreeMap::new(),
        }
    }
}

/// The chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like.
    tokens: BTreeMap<String, String>,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` or of
    /// `chat_template.json`; `None` where there is none of them.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match config_path.exists() {
            true => read_json(&config_path)?,
            false => serde_json::Value::Null,
        };
        let tokens = special_tokens(&config);
        let file = folder.join("chat_template.jinja");
        if file.exists() {
            let source = std::fs::read_to_string(&file);
            let source = source.map_err(|error| ModelError::io(&file, error))?;
            return Self::new(source, tokens, &file).map(Some);
        }
        if let Some(source) = in_config(&config) {
            return Self::new(source, tokens, &config_path).map(Some);
        }
        let file = folder.join("chat_template.json");
        if !file.exists() {
            return Ok(None);
        }
        match in_config(&read_json(&file)?) {
            Some(source) => Self::new(source, tokens, &file).map(Some),
            None => Err(ModelError::bad_file(&file, "no chat_template in it")),
        }
    }

    fn new(source: String, tokens: BTreeMap<String, String>, path: &Path) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets up jinja2.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment
            .set_syntax(syntax.map_err(|error| ModelError::bad_file(path, error.to_string()))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        let added = environment.add_template_owned(NAME, source);
        added.map_err(|error| ModelError::bad_file(path, format!("chat template: {error}")))?;
        Ok(Self {
            environment,
            tokens,
        })
    }

    /// The conversation as one text.
    ///
    /// # Errors
    /// The template refuses the messages, or uses something that is not there.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, token) in &self.tokens {
            context.insert(name, Value::from(token.as_str()));
        }
        for (name, value) in &options.variables {
            context.insert(name, Value::from(Serde(value)));
        }
        context.insert("messages", messages.iter().map(Message::value).collect());
        context.insert(
            "add_generation_prompt",
            options.add_generation_prompt.into(),
        );
        let template = self.environment.get_template(NAME);
        let text = template.and_then(|template| template.render(context));
        text.map_err(|error| ModelError::input("chat template", format!("{error:#}")))
    }
}

/// The template in a JSON file: a text, or a list of named ones of which `default` counts.
fn in_config(config: &serde_json::Value) -> Option<String> {
    let template = config.get("chat_template")?;
    if let Some(list) = template.as_array() {
        let named = |entry: &&serde_json::Value| entry["name"] == "default";
        return list
            .iter()
            .find(named)?
            .get("template")?
            .as_str()
            .map(str::to_owned);
    }
    template.as_str().map(str::to_owned)
}

/// Every `…_token` of a tokenizer's config, which is a text or an object with one.
fn special_tokens(config: &serde_json::Value) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten();
    let token = |(name, value): (&String, &serde_json::Value)| {
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        name.ends_with("_token")
            .then(|| (name.clone(), text.to_owned()))
    };
    entries.filter_map(token).collect()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as Python writes it: a space after commas and colons, letters as they are.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    };
    let indent: Option<usize> = options.get("indent")?;
    // Python's own options that do not change what is written here.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    match indent {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let format = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            let mut writer = serde_json::Serializer::with_formatter(&mut bytes, format);
            value.serialize(&mut writer).map_err(failed)?;
        }
        None => {
            let mut writer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
            value.serialize(&mut writer).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(
        String::from_utf8_lossy(&bytes).into_owned(),
    ))
}

/// `{"a": 1, "b": [1, 2]}`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// What stands before an entry of a list or an object.
fn separate<W: ?Sized + std::io::Write>(writer: &mut W, first: bool) -> std::io::Result<()> {
    writer.write_all(if first { b"" } else { b", " })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let config = serde_json::json!({
            "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
        });
        let path = Path::new("chat_template.jinja");
        ChatTemplate::new(source.to_owned(), special_tokens(&config), path).unwrap()
    }

    #[test]
    fn words_alone_are_a_string_and_the_rest_a_list() {
        let template = template(
            "{{ bos_token }}{% for m in messages %}\n{{ m.role }}:{% if m.content is string %}\
             {{ m.content.strip() }}{% else %}{% for part in m.content %}[{{ part.type }}]\
             {% endfor %}{% endif %}{% endfor %}{{ eos_token }}{{ pad_token }}",
        );
        let mut said = Message::text(Role::User, " look ");
        let system = Message::text(Role::System, "  be brief");
        let text = |said: &Message| {
            template
                .render(&[system.clone(), said.clone()], &ChatOptions::default())
                .unwrap()
        };
        assert_eq!(text(&said), "<s>system:be briefuser:look</s>");
        said.content.push(Content::Image(RgbImage::new(1, 1)));
        assert_eq!(text(&said), "<s>system:be briefuser:[text][image]</s>");
    }

    #[test]
    fn json_is_written_as_python_does() {
        let template = template("{{ x | tojson }}|{{ x | tojson(indent=2) }}");
        let mut options = ChatOptions::default();
        let x = serde_json::json!({"a": [1, "<ü'>"], "b": null});
        options.variables.insert("x".to_owned(), x);
        let text = template.render(&[], &options).unwrap();
        let plain = r#"{"a": [1, "<ü'>"], "b": null}"#;
        assert!(text.starts_with(&format!("{plain}|{{\n  \"a\"")), "{text}");
    }

    #[test]
    fn templates_may_refuse() {
        let template = template("{{ raise_exception('roles must alternate') }}");
        let error = template
            .render(&[], &ChatOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("roles must alternate"), "{error}");
        let bad = ChatTemplate::new("{% if %}".into(), BTreeMap::new(), Path::new("t.jinja"));
        assert!(bad.unwrap_err().to_string().contains("t.jinja"));
    }
}
