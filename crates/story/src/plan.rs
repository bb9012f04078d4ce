//! What is asked of a planner, and what comes of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::brief::Brief;
use crate::script::StoryScript;
use crate::seed::Seed;
use crate::stage::{ErrorClass, Outlook};

/// One brief to be planned.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest<'a> {
    /// What is asked for.
    pub brief: &'a Brief,
    /// Where all randomness comes from, see [`Seed::derive_plan`].
    pub seed: Seed,
    /// Which attempt this is, from 0.
    pub attempt: u32,
}

/// A script that keeps all rules, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedScript {
    /// The script.
    pub script: StoryScript,
    /// Prompt of a picture that shows the product or the main character, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// SHA-256 of the picture of the product, as it was read for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// Everything the model said; empty where there is none.
    pub raw: String,
    /// How often the model had to put an answer right.
    pub repairs: u32,
    /// What was mended without the model, and what of the brief was not used.
    pub notes: Vec<String>,
    /// How the model was asked otherwise than the recipe says, since its server takes no other
    /// question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departures: Vec<String>,
    /// Tokens of all questions and answers.
    pub tokens: TokenCount,
}

impl PlannedScript {
    /// A script that no model has written.
    pub fn plain(script: StoryScript) -> Self {
        Self {
            script,
            reference: None,
            picture: None,
            raw: String::new(),
            repairs: 0,
            notes: Vec::new(),
            departures: Vec::new(),
            tokens: TokenCount::default(),
        }
    }
}

/// Tokens of a question and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenCount {
    /// Tokens that were read.
    pub prompt: u64,
    /// Tokens that were written.
    pub completion: u64,
}

impl std::ops::AddAssign for TokenCount {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.completion += other.completion;
    }
}

/// Why a brief has no script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// What that means: [`ErrorClass::Shot`] for this brief only, any other for all of them.
    pub class: ErrorClass,
    /// What happened, and what to do about it.
    pub message: String,
    /// What the model said until then; empty where nobody knows.
    pub raw: String,
    /// What another seed would do.
    pub outlook: Outlook,
}

impl PlanError {
    /// An error of a brief about which no model has said anything yet.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            raw: String::new(),
            outlook: Outlook::Open,
        }
    }

    /// The brief could not be planned by this attempt.
    pub fn of_brief(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Shot, message)
    }

    /// The error of a brief that has no script from any seed.
    pub fn hopeless(message: impl Into<String>) -> Self {
        Self {
            outlook: Outlook::Hopeless,
            ..Self::of_brief(message)
        }
    }
}

/// Identity of a planner; part of the recipe of every plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannerDescription {
    /// What plans: `rules`, `native`, `served` or `simulated`.
    pub backend: String,
    /// Everything else but brief and seed that decides a script, as the back end has it: digest of
    /// the model, version of the templates, how text is drawn from it.
    pub recipe: Value,
}

impl PlannerDescription {
    /// Whether both write the same scripts: where a model is served does not matter, only what it is
    /// called there.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let anywhere = |planner: &Self| {
            let mut recipe = planner.recipe.clone();
            let model = recipe
                .pointer_mut("/model")
                .and_then(|model| model.as_object_mut());
            model.map(|model| model.remove("endpoint"));
            recipe
        };
        self.backend == other.backend && anywhere(self) == anywhere(other)
    }
}

/// Hears what came of a request: its place among the requests, and the script. Called once for each,
/// in any order and from any thread.
pub type Settle<'a> = dyn Fn(usize, Result<PlannedScript, PlanError>) + Sync + 'a;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As `planner.json` has it.
    #[test]
    fn a_description_is_read_as_it_was_written() {
        let text = r#"{"backend":"rules","recipe":{"backend":"rules","rules":2,"repairs":0,"prompt_chars":1200}}"#;
        let read: PlannerDescription = serde_json::from_str(text).unwrap();
        assert_eq!(read.backend, "rules");
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn where_a_model_is_served_does_not_matter() {
        let at = |name: &str, endpoint: &str| PlannerDescription {
            backend: "served".to_owned(),
            recipe: json!({"model": {"name": name, "endpoint": endpoint}, "repairs": 2}),
        };
        let here = at("qwen", "http://a:8000/v1");
        assert!(here.is_same_as(&at("qwen", "https://b/v1")));
        assert!(!here.is_same_as(&at("llama", "http://a:8000/v1")));
        let by_rules = PlannerDescription {
            backend: "rules".to_owned(),
            ..here.clone()
        };
        assert!(!here.is_same_as(&by_rules));
    }
}
