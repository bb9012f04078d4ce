//! The memory bank of storyloom.
//!
//! What a story remembers lies in plain files: content-addressed [`blobs`], keyframe pictures and
//! one [`CommitRecord`] per shot, which is the only proof that the shot exists. The [`index`]
//! (sled or redb) answers quickly and can be rebuilt from the records at any time.
//!
//! Which keyframes are chosen ([`select`]), admitted and seen ([`window`]) are pure functions.

pub mod arrays;
pub mod bank;
pub mod blobs;
pub mod checkpoint;
pub mod commit;
pub mod error;
pub mod index;
pub mod pictures;
pub mod probe;
pub mod select;
pub mod soundness;
pub mod storage;
pub mod window;

pub use bank::{Committed, MemoryBank, Remembered};
pub use blobs::{BlobRef, BlobStore};
pub use checkpoint::{Basis, StepCheckpoint};
pub use commit::{
    CommitRecord, KeyframeRecord, PictureRecord, ReferencesRecord, Sealed, SeenRecord,
};
pub use error::{MemoryError, Result};
pub use index::{IndexKind, MemoryIndex};
pub use storage::{Disk, Storage};
