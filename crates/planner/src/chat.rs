//! Asking a language model, wherever it runs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storyloom_pictures::Picture;
use storyloom_story::{ErrorClass, Outlook};

use crate::schema::Schema;

pub use storyloom_story::TokenCount;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The rules of the conversation.
    System,
    /// We.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates and endpoints use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What somebody says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

impl ChatMessage {
    /// Something that we say.
    pub fn user(text: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            text: text.into(),
        }
    }

    /// Something that the model said.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self {
            role: Role::Assistant,
            text: text.into(),
        }
    }
}

/// One question: everything said so far, and the form of the answer.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The conversation; ends with what we say.
    pub turns: Vec<ChatMessage>,
    /// A picture that belongs to the first thing we say.
    pub picture: Option<Arc<Picture>>,
    /// What the answer must look like.
    pub schema: Schema,
    /// Where the randomness of the answer comes from.
    pub seed: u64,
    /// Whether the question makes no sense without its picture.
    pub needs_picture: bool,
}

/// What is wrong with an answer besides its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It was cut off: the model had used all the tokens that an answer may have.
    CutOff,
    /// A filter of the service kept it back.
    Filtered,
    /// The model declined to answer; its text says so.
    Refused,
    /// There are only calls of these tools in it.
    ToolCalls(Vec<String>),
    /// There are only thoughts in it.
    OnlyThoughts,
    /// There is nothing in it.
    Empty,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatReply {
    /// Its text; may be empty where it has a flaw.
    pub text: String,
    /// What it took, if the model says so.
    pub tokens: TokenCount,
    /// What is wrong with it, if that is known.
    pub flaw: Option<Flaw>,
    /// How it was asked for otherwise than the settings say, since the server takes no other
    /// question.
    pub departures: Vec<String>,
    /// Whether the picture of the question was kept from the model.
    pub unseen: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ChatError {
    /// What that means for the brief and for others.
    pub class: ErrorClass,
    /// What happened, and what to do about it.
    pub message: String,
    /// What another seed would do.
    pub outlook: Outlook,
}

impl ChatError {
    /// An error with its class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            outlook: Outlook::Open,
        }
    }

    /// The brief cannot be planned, whatever the seed.
    pub(crate) fn hopeless(message: impl Into<String>) -> Self {
        Self {
            outlook: Outlook::Hopeless,
            ..Self::new(ErrorClass::Shot, message)
        }
    }

    /// Anyone who asks has been told to stop.
    pub(crate) fn stopped() -> Self {
        let message = "asked to stop before the model answered";
        Self::new(ErrorClass::Interrupted, message)
    }
}

/// How answers are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Share of the probability that is drawn from, from 0 to 1.
    pub top_p: f64,
    /// Number of tokens that are drawn from; 0 for all.
    pub top_k: u32,
    /// Most tokens of an answer.
    pub max_tokens: u32,
}

/// Which model answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Its name; of a model in this program, that of its folder.
    pub name: String,
    /// blake3 of its files in hexadecimal; unknown for a model that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Where it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The numbers that it computes with, as the config calls them; known of a model in this
    /// program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Longest side of the pictures that it is shown, in pixels; none where it sees none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_side: Option<u32>,
}

/// A language model that answers questions, several at once.
pub trait Chat: Send + Sync {
    /// Which model it is.
    fn identity(&self) -> ModelIdentity;

    /// Questions that it likes to work on at once.
    fn capacity(&self) -> usize;

    /// Forgets that it could not be reached: a caller that asks now has waited.
    fn try_anew(&self) {}

    /// Answers one question; called from several threads.
    ///
    /// # Errors
    /// There is no answer.
    fn ask(&self, request: &ChatRequest) -> Result<ChatReply, ChatError>;
}
