//! Plan, run, commit and report stories on any [`ShotEngine`].
//!
//! Start with [`shot`]: one function that names the stages of a shot in order. A [`story`] is a
//! chain of shots, a [`run`](mod@run) a list of stories.

pub mod config;
pub mod engine;
pub mod error;
pub mod folder;
pub mod forecast;
pub mod repair;
pub mod run;
pub mod testing;
pub mod view;

pub use config::{
    CheckpointSettings, FilmShape, PictureSettings, PlanningSettings, RunConfig, StopAt, StopFlag,
    Videos,
};
pub use engine::{
    Encoded, EngineDescription, EngineError, Kept, KeptContent, Pass, PassOutput, Scores,
    ShotEngine, StepObserver,
};
pub use error::RunError;
pub use folder::identity::RunIdentity;
pub use folder::recorded::recorded;
pub use folder::run_folder::{RunFolder, StoryState};
pub use folder::terms::{MethodTerms, RunTerms};
pub use folder::{no_keyframes, output, run_folder, seal, set_aside, sizes};
pub use forecast::{cost, estimate};
pub use run::planning::{PlannerDescription, StoryPlanner};
pub use run::{
    Engines, RunOutcome, admission, drain, gate, inputs, lease, planning, quarantine, run, shot,
    story,
};
pub use testing::{bench, pipeline, simulated};
pub use view::{memory as memory_view, report, rescore, status, verify, watch};
