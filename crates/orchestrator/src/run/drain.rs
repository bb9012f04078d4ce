//! Asking all programs of a run, on whatever machine, to finish what they are at and begin nothing
//! new.
//!
//! The request is a file in the run folder, `DIR/drain.json`. It holds for programs that are started
//! later too, until it is withdrawn.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use storyloom_telemetry::process::host_name;
use storyloom_telemetry::shift::now;

use crate::error::RunError;
use crate::folder::run_folder::RunFolder;

/// Who asked, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// Seconds since 1970.
    pub at: f64,
    /// The machine it was asked on.
    pub host: String,
}

fn file(folder: &RunFolder) -> PathBuf {
    folder.root().join("drain.json")
}

/// Asks; tells whether nobody had before.
///
/// # Errors
/// The folder is no run, or it cannot be written.
pub fn request(folder: &RunFolder) -> Result<bool, RunError> {
    folder.run_file()?;
    let request = DrainRequest {
        at: now(),
        host: host_name(),
    };
    // Plain data into memory: this does not fail.
    let text = serde_json::to_vec(&request).unwrap_or_default();
    Ok(folder.storage().create(&file(folder), &text)?)
}

/// Withdraws the request; tells whether there was one.
///
/// # Errors
/// As [`request`].
pub fn withdraw(folder: &RunFolder) -> Result<bool, RunError> {
    folder.run_file()?;
    let asked = is_requested(folder);
    folder.storage().remove(&file(folder))?;
    Ok(asked)
}

/// Whether somebody asked and nobody has withdrawn it.
pub fn is_requested(folder: &RunFolder) -> bool {
    folder.storage().exists(&file(folder))
}
