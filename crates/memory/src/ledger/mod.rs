//! What a run has made, as files that any later program can prove: records, the blobs and pictures that
//! they name, and an index that answers quickly. It knows no method.

pub mod arrays;
pub mod bank;
mod blob_array;
pub mod blobs;
pub mod in_memory;
pub mod index;
pub mod pictures;
pub mod probe;
pub mod record;
pub mod saved_step;
pub mod soundness;
pub mod storage;
