//! Settings of a run: what they are, and the layers they come from.
//!
//! Later layers win: defaults < file < `STORYLOOM_*` < `--set a.b=c`. Every option is defined
//! once, in [`options`]; its documentation there is the one in `docs/config.md`.

mod check;
pub mod choices;
mod document;
mod forms;
pub mod grid;
mod layers;
mod limit;
pub mod options;
pub mod paths;
pub mod resolved;
pub mod value;
mod variables;

pub use document::markdown;
pub use layers::{load, load_layers};
pub use options::Config;
pub use resolved::Resolved;
pub use variables::{METRICS_TOKEN, PLANNER_KEY, strays};
