//! How shots are made: methods, the sampling loop, and the ranks that share the work.
//!
//! Knows nothing of folders, records and retries.

pub mod backbone;
pub mod bench;
pub mod guidance;
pub mod method;
pub mod replica;
pub mod sampling;
