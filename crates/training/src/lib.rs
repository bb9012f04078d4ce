//! The training of a small model, and of the reader of its pictures, on the drawn world.

pub mod attribute_head;
pub mod clips;
pub mod curve;
pub mod error;
pub mod json;
pub mod latents;
pub mod optimizer;
pub mod params;
pub mod preset;
pub mod reader;
pub mod run;
pub mod shape;
pub mod sheet;
pub mod stage;
pub mod stages;
pub mod words;

pub use preset::Preset;
pub use run::{Form, Pace, Run};
pub use stages::StageName;
