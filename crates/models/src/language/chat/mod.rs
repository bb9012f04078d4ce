//! Chat templates: conversations written out the way a model was taught.

mod dialect;
mod json;
mod manner;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::{Deserialize, Serialize};
use storyloom_nn::error::{ModelError, Result};
use time::OffsetDateTime;

pub use manner::{Contents, Manner, SystemPlace};
use source::Source;

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

impl Role {
    /// The name that templates use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
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

    /// As templates want it: a string where there are words alone, unless `contents` says otherwise,
    /// else a list of parts.
    fn value(&self, contents: Contents) -> Value {
        let content = match (contents, self.content.as_slice()) {
            (Contents::Text, [Content::Text(text)]) => Value::from(text.as_str()),
            (_, parts) => parts.iter().map(part_value).collect(),
        };
        Value::from_pairs([
            ("role", Value::from(self.role.name())),
            ("content", content),
        ])
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
    /// What a template that asks for the time is told; the present, in UTC, if `None`.
    pub now: Option<OffsetDateTime>,
    /// How messages are handed over, see [`ChatTemplate::manner`].
    pub manner: Manner,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            variables: BTreeMap::new(),
            now: None,
            manner: Manner::default(),
        }
    }
}

/// The chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The file that it is from.
    path: PathBuf,
    /// `bos_token` and the like.
    tokens: BTreeMap<String, String>,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json` or of
    /// `chat_template.json`; `None` where there is none of them.
    ///
    /// # Errors
    /// A file cannot be read, has several templates of which none is called `default`, or is no
    /// template.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        Source::find(folder)?.map(Self::new).transpose()
    }

    fn new(source: Source) -> Result<Self> {
        let Source { path, text, tokens } = source;
        let mut environment = dialect::environment();
        let added = environment.add_template_owned(NAME, dialect::without_marks(&text));
        added.map_err(|error| ModelError::bad_file(&path, format!("chat template: {error}")))?;
        Ok(Self {
            environment,
            path,
            tokens,
        })
    }

    /// The conversation as one text.
    ///
    /// # Errors
    /// The template refuses the messages, or uses something that is not there.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        self.write(messages, options)
            .map_err(|error| ModelError::input("chat template", format!("{error:#}")))
    }

    fn write(
        &self,
        messages: &[Message],
        options: &ChatOptions,
    ) -> std::result::Result<String, minijinja::Error> {
        let Manner { system, contents } = options.manner;
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        // Templates ask whether these are none, and not only whether they are there.
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));
        context.insert("strftime_now", dialect::clock(options.now));
        for (name, token) in &self.tokens {
            context.insert(name, Value::from(token.as_str()));
        }
        for (name, value) in &options.variables {
            context.insert(name, Value::from(Serde(value)));
        }
        let messages = system.place(messages);
        let values = messages.iter().map(|message| message.value(contents));
        context.insert("messages", values.collect());
        context.insert(
            "add_generation_prompt",
            options.add_generation_prompt.into(),
        );
        self.environment.get_template(NAME)?.render(context)
    }
}
