//! Scripts of briefs.
//!
//! A [`Planner`](planner::Planner) takes a [`Brief`](storyloom_story::Brief) and gives a
//! [`StoryScript`](storyloom_story::StoryScript) that keeps all [rules](check): by fixed
//! [rules](rules) for advertisements, or by a language model that is [served](served) somewhere or
//! [runs in this program](native). This crate knows nothing of runs, folders of runs and retries.

pub mod capability;
pub mod chat;
pub mod check;
pub mod dialogue;
mod naming;
pub mod native;
pub mod planner;
pub mod prompts;
pub mod rules;
pub mod schema;
pub mod served;
pub mod stub_models;

pub use capability::CannotWrite;
pub use chat::{
    Chat, ChatError, ChatReply, ChatRequest, Flaw, ModelIdentity, Sampling, TokenCount,
};
pub use dialogue::Steps;
pub use naming::names_a_product;
pub use native::{Native, NativeSettings};
pub use planner::{
    BackendKind, PlanError, PlanRequest, PlannedScript, Planner, PlannerDescription, PlannerRecipe,
    PlannerSettings,
};
pub use prompts::{PromptError, Prompts, TemplateVersion};
pub use served::{ResponseFormat, Secret, Served, ServedSettings, Stop};
