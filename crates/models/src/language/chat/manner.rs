//! How a template wants its messages: found out with a conversation that tries it, before anybody
//! asks anything.

use std::borrow::Cow;

use storyloom_nn::error::{ModelError, Result};

use super::{ChatOptions, ChatTemplate, Content, Message, Role};

/// How messages are handed to a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// Where the rules of the conversation go.
    pub system: SystemPlace,
    /// How words are handed over.
    pub contents: Contents,
}

/// Where the words of [`Role::System`] go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SystemPlace {
    /// Into a message of their own.
    #[default]
    Own,
    /// Before the first question, for templates without that role.
    Question,
}

/// How a message of words alone is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contents {
    /// As a text.
    #[default]
    Text,
    /// As a list of one part, for templates that know lists alone.
    Parts,
}

impl SystemPlace {
    /// The messages with the rules in their place.
    pub(super) fn place(self, messages: &[Message]) -> Cow<'_, [Message]> {
        match self {
            Self::Own => Cow::Borrowed(messages),
            Self::Question => Cow::Owned(in_question(messages)),
        }
    }
}

fn in_question(messages: &[Message]) -> Vec<Message> {
    let mut rules: Vec<Content> = Vec::new();
    let mut placed = Vec::new();
    for message in messages {
        match message.role {
            Role::System => rules.extend(message.content.iter().cloned()),
            Role::User if !rules.is_empty() => {
                let mut question = message.clone();
                for rule in std::mem::take(&mut rules).into_iter().rev() {
                    put_before(&mut question.content, rule);
                }
                placed.push(question);
            }
            Role::User | Role::Assistant => placed.push(message.clone()),
        }
    }
    if !rules.is_empty() {
        // Nobody asks anything: the rules are all that there is.
        placed.push(Message {
            role: Role::User,
            content: rules,
        });
    }
    placed
}

/// Puts a rule before the first words, or before all where there are none.
fn put_before(content: &mut Vec<Content>, rule: Content) {
    let words = content.iter_mut().find_map(|part| match part {
        Content::Text(text) => Some(text),
        Content::Image(_) => None,
    });
    match (rule, words) {
        (Content::Text(rule), Some(text)) => *text = format!("{rule}\n\n{text}"),
        (rule, _) => content.insert(0, rule),
    }
}

/// What is said to try a template.
const SAID: [(Role, &str); 4] = [
    (Role::System, "storyloom-rules"),
    (Role::User, "storyloom-question"),
    (Role::Assistant, "storyloom-answer"),
    (Role::User, "storyloom-repair"),
];

impl ChatTemplate {
    /// The first manner in which the template writes out rules, a question, an answer and another
    /// question, and leaves none of them out.
    ///
    /// # Errors
    /// There is none: no conversation can be held with the model. The message says why.
    pub fn manner(&self, options: &ChatOptions) -> Result<Manner> {
        let mut reasons: Vec<String> = Vec::new();
        for system in [SystemPlace::Own, SystemPlace::Question] {
            for contents in [Contents::Text, Contents::Parts] {
                let manner = Manner { system, contents };
                match self.try_manner(manner, options) {
                    Ok(()) => return Ok(manner),
                    Err(reason) if reasons.contains(&reason) => {}
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        let reason = format!(
            "the chat template cannot write out rules, a question, an answer and another question: \
             {}; use another model, or put a template that can into chat_template.jinja",
            reasons.join("; ")
        );
        Err(ModelError::bad_file(&self.path, reason))
    }

    /// Tries the first question alone and the whole conversation.
    fn try_manner(&self, manner: Manner, options: &ChatOptions) -> Result<(), String> {
        let options = ChatOptions {
            manner,
            ..options.clone()
        };
        for said in [&SAID[..2], &SAID] {
            let messages = said.iter().map(|&(role, text)| Message::text(role, text));
            let text = self.write(&messages.collect::<Vec<_>>(), &options);
            let text = text.map_err(|error| format!("{error:#}"))?;
            let lost = said.iter().find(|(_, words)| !text.contains(words));
            if let Some((role, _)) = lost {
                return Err(format!("it leaves out what the {} says", role.name()));
            }
        }
        Ok(())
    }
}
