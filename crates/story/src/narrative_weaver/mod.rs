//! What Narrative Weaver decides without tensors (arXiv 2603.06688): how the memory of earlier pictures shrinks
//! with their age, and the lines that its samples are written in.
//!
//! Where the paper is silent, or could not be read, the choices are ours (specification `narrative-weaver`, marked
//! `[O]` there).

mod bank;
mod sample;
mod sample_reader;

pub(crate) use sample::SCHEMA;

pub use bank::{BankError, BankLevels, BankSettings, Level, Pooling, TokenGrid, frame_ids};
pub use sample::{
    ConditionImage, FilterNotes, Reference, Role, RunNotes, Sample, SampleError, SamplePlan,
    SampleProduct, SampleShot, Task, Use,
};
pub use sample_reader::{SampleFiles, read_samples};
