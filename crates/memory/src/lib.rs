//! The memory bank of storyloom.
//!
//! What a story remembers lies in plain files, the [`ledger`]: content-addressed [`blobs`], keyframe
//! pictures and one [`ShotRecord`] per shot, which is the only proof that the shot exists. The [`index`]
//! (sled or redb) answers quickly and can be rebuilt from the records at any time.
//!
//! What is kept of a shot and what a later one sees decides a [`policy`]: pure functions, one set for each
//! method.

pub mod error;
pub mod ledger;
pub mod policy;

pub use error::{MemoryError, Result};
pub use ledger::bank::{Committed, MemoryBank, Remembered};
pub use ledger::blobs::{BlobRef, BlobStore};
pub use ledger::in_memory::InMemory;
pub use ledger::index::{IndexKind, MemoryIndex};
pub use ledger::record::{
    DigestedRecord, MemoryItem, PictureRecord, References, SeenRecord, ShotRecord,
};
pub use ledger::saved_step::{Basis, StepCheckpoint};
pub use ledger::storage::{Disk, Storage};
pub use ledger::{arrays, bank, blobs, index, pictures, probe, soundness, storage};
pub use policy::onestory::OneStoryPolicy;
pub use policy::storymem::{StoryMemPolicy, select, window};
pub use policy::{Keep, MemoryPolicy, MemorySettings, PolicySettings, Stored, Visible};
