//! What a line or a span belongs to.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};

/// Story, shot, attempt and stage, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Context {
    /// The story.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub story: Option<String>,
    /// The shot, as in `01_02`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shot: Option<String>,
    /// Which attempt at the shot, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// The stage of the shot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
}

impl Context {
    /// This, and what is not known here as in `around`.
    pub fn within(self, around: &Self) -> Self {
        Self {
            story: self.story.or_else(|| around.story.clone()),
            shot: self.shot.or_else(|| around.shot.clone()),
            attempt: self.attempt.or(around.attempt),
            stage: self.stage.or_else(|| around.stage.clone()),
        }
    }

    /// The trace of the shot, in hexadecimal: the same for every attempt at it in `run`, on
    /// whichever rank and in whichever world.
    pub fn trace_id(&self, run: &str) -> Option<String> {
        let (story, shot) = (self.story.as_ref()?, self.shot.as_ref()?);
        let name = format!("storyloom trace\n{run}\n{story}\n{shot}");
        Some(blake3::hash(name.as_bytes()).to_hex()[..32].to_owned())
    }
}

/// What is told with a line or a span.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// The text of a line.
    pub message: String,
    /// What it belongs to.
    pub context: Context,
    /// Everything else.
    pub fields: Map<String, Value>,
}

impl Told {
    fn text(&mut self, name: &str, text: String) {
        match name {
            "message" => self.message = text,
            "story" => self.context.story = Some(text),
            "shot" => self.context.shot = Some(text),
            "stage" => self.context.stage = Some(text),
            _ => drop(self.fields.insert(name.to_owned(), text.into())),
        }
    }

    fn value(&mut self, name: &str, value: Value) {
        match (name, value.as_u64()) {
            ("attempt", Some(attempt)) => self.context.attempt = Some(attempt),
            _ => drop(self.fields.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Told {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.value(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.value(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.value(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.value(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(story: &str, shot: &str) -> Context {
        Context {
            story: Some(story.to_owned()),
            shot: Some(shot.to_owned()),
            ..Context::default()
        }
    }

    #[test]
    fn a_shot_has_one_trace_whatever_is_tried() {
        let one = context("ad", "01_02");
        let again = Context {
            attempt: Some(3),
            stage: Some("denoise".to_owned()),
            ..one.clone()
        };
        let id = one.trace_id("run").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(again.trace_id("run"), Some(id.clone()));
        for other in [
            context("ad", "01_03").trace_id("run"),
            context("at", "01_02").trace_id("run"),
            one.trace_id("other"),
        ] {
            assert_ne!(other, Some(id.clone()));
        }
        assert_eq!(Context::default().trace_id("run"), None);
    }

    #[test]
    fn what_is_told_counts_more_than_what_is_around() {
        let around = context("ad", "01_02");
        let told = Context {
            shot: Some("01_03".to_owned()),
            ..Context::default()
        };
        assert_eq!(told.within(&around), context("ad", "01_03"));
    }
}
