//! One line of a log file.

use serde::Serialize;
use serde_json::{Map, Value};

use super::context::Context;

/// A line as it is written. What is empty is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// When, in UTC (RFC 3339).
    pub at: String,
    /// Severity.
    pub level: &'static str,
    /// What happened.
    pub message: String,
    /// What the run is called.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// What the world of the writer is called.
    pub world: String,
    /// The writer's rank in its world.
    pub rank: usize,
    /// Story, shot, attempt and stage.
    #[serde(flatten)]
    pub context: Context,
    /// The same for all that is ever tried for one shot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The span that ended, if the line says that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<String>,
    /// How long that span took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The span that it happened in, or that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// The span around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// The part of the program.
    pub target: &'static str,
    /// Everything else.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Line {
    /// As it is written, with its line end.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data into memory: this does not fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
