//! Learned queries in a language model: hidden states for pictures, read off beside the text that plans them
//! (Narrative Weaver, arXiv 2603.06688; after MetaQuery).
//!
//! A plan is text in which `<img>` and `</img>` stand where a picture belongs. Between the two the same learned
//! [`QueryRows`] are put in for every picture, and their last hidden states say what the picture shows. Text never
//! sees them, so a plan is the same with and without. What sees what, and where it stands, is the [`Layout`]; a
//! [`PlanConstraint`] keeps a text that is being made to its form; a [`Projector`] makes text rows of a diffusion
//! model of the states.
//!
//! No weights of the method are published, and most numbers of its parts could not be read: what is chosen here
//! is ours (specification `narrative-weaver`, sections 3.1 to 3.4, marked `[O]` there).

mod constraint;
mod layout;
mod plan;
mod projector;
mod rows;
mod states;

#[cfg(test)]
mod tests;

pub use constraint::PlanConstraint;
pub use layout::{Layout, RowClass};
pub use plan::{ImageTokens, PlanText};
pub use projector::{Projected, Projector, ProjectorConfig};
pub use rows::{IntraQuery, QueriesConfig, QueryRows};
pub use states::{TextRows, query_states, states_in_one_pass};
