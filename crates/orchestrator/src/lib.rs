//! Plan, run, commit and report stories on any [`ShotEngine`].
//!
//! Start with [`shot`]: one function that names the stages of a shot in order. A [`story`] is a
//! chain of shots, a [`run`] a list of stories.

pub mod admission;
mod attempt;
pub mod bench;
pub mod config;
pub mod cost;
mod differences;
pub mod drain;
pub mod engine;
pub mod error;
pub mod estimate;
mod film_size;
mod folder_file;
pub mod forecast;
pub mod gate;
pub mod inputs;
pub mod lease;
mod lists;
mod lost_record;
pub mod memory_view;
mod mend;
pub mod no_keyframes;
pub mod output;
pub mod pipeline;
pub mod planning;
pub mod quarantine;
pub mod repair;
pub mod report;
pub mod run;
pub mod run_folder;
pub mod set_aside;
pub mod shot;
pub mod simulated;
pub mod sizes;
pub mod status;
pub mod story;
pub mod verify;
pub mod watch;
mod work;

pub use config::{
    CheckpointSettings, FilmShape, PictureSettings, PlanningSettings, RunConfig, StopAt, StopFlag,
    Videos,
};
pub use engine::{EngineDescription, EngineError, Scores, ShotEngine, StepObserver};
pub use error::RunError;
pub use planning::{PlannerDescription, StoryPlanner};
pub use run::{Makers, RunOutcome, run};
pub use run_folder::{RunFolder, StoryState};
