//! The nouns of storyloom.
//!
//! Everything here is plain data: it is parsed, checked once and then passed around by the other
//! crates. No file is read, nothing is asynchronous and there is no tensor library.
//!
//! - a [`Manifest`](manifest::Manifest) lists stories, each a [`StoryScript`](script::StoryScript);
//! - a [`Brief`](brief::Brief) is what a planner makes a script from;
//! - a story is a chain of shots, each named by a [`ShotId`](ids::ShotId);
//! - a [`ShotRequest`](request::ShotRequest) is the one value that crosses from the orchestrator
//!   to the models, and [`ShotInputs`](request::ShotInputs) adds what the memory bank holds for it.

pub mod brief;
mod brief_reader;
pub mod clean;
mod escape;
pub mod fit;
pub mod guard;
pub mod host;
pub mod ids;
mod json;
pub mod latent_grid;
pub mod manifest;
pub mod manifest_reader;
pub mod method;
pub mod narrative_weaver;
pub mod notes;
pub mod onestory;
pub mod onestory_script;
pub mod pass;
pub mod plan;
pub mod problem;
pub mod request;
pub mod script;
pub mod script_files;
pub mod script_reader;
pub mod seed;
pub mod stage;
pub mod stored;
mod table;
pub mod video;
pub mod work;

pub use brief::{Brief, BriefKind, Language};
pub use clean::plain_text;
pub use escape::{escaped, is_control};
pub use fit::{Fit, Ground};
pub use host::{Clip, HostTensor, LoopState, RgbImage, ShapeMismatch};
pub use ids::{ShotId, StoryId};
pub use latent_grid::LatentGrid;
pub use manifest::{LeftOut, Line, Manifest, StoryEntry};
pub use manifest_reader::{
    InputFiles, Layout, parse_lines, parse_manifest, read_briefs, read_lines,
};
pub use method::{Continuation, Media, Method, MethodProfile, Opening};
pub use notes::{ShotNotes, StoryNotes, StoryPattern};
pub use onestory_script::onestory_line;
pub use pass::{Capacities, PassName};
pub use plan::{PlanError, PlanRequest, PlannedScript, PlannerDescription, Settle, TokenCount};
pub use problem::{Findings, Problem, SourceLocation, nearest};
pub use request::{MemoryFrame, ShotInputs, ShotRequest};
pub use script::{Scene, ShotScript, StoryScript};
pub use script_files::{manifest_from_scripts, read_scripts};
pub use script_reader::parse_script;
pub use seed::Seed;
pub use stage::{ErrorClass, Outlook, Stage};
pub use stored::{ArraySource, StoredArray, UnreadableArray};
pub use table::Separator;
pub use video::{Resolution, VideoSpec};
pub use work::{NetworkWork, PartFlops, TransformerShape};
