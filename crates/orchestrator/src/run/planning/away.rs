//! A planner that cannot be reached: when it is asked again, and what others are told.
//!
//! ```text
//! DIR/planner-away.json   why nothing is planned, for programs that make stories while others plan
//! ```
//!
//! Those who plan write it at every try that fails, and remove it when something is planned. Those who
//! make stories look at it when nothing else is left to make.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storyloom_story::StoryId;

use crate::error::RunError;
use crate::folder::folder_file::FolderFile;
use crate::folder::run_folder::{FOLDER_FORMAT, RunFolder};

/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after `tries` tries that failed.
pub(crate) fn pause(tries: u32) -> Duration {
    let doubled = 1_u64
        .checked_shl(tries.saturating_sub(1))
        .unwrap_or(u64::MAX);
    Duration::from_secs(doubled).min(LONGEST)
}

/// What those who plan say.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    format: u32,
    /// Why nothing is planned.
    pub(super) reason: String,
    /// Tries that failed since something was planned.
    pub(super) tries: u32,
}

impl FolderFile for Told {}

fn path(folder: &RunFolder) -> PathBuf {
    folder.root().join("planner-away.json")
}

pub(super) fn note(folder: &RunFolder, reason: &str, tries: u32) -> Result<(), RunError> {
    let told = Told {
        format: FOLDER_FORMAT,
        reason: reason.to_owned(),
        tries,
    };
    folder.write_json(&path(folder), &told)
}

pub(super) fn told(folder: &RunFolder) -> Result<Option<Told>, RunError> {
    let path = path(folder);
    match folder.storage().exists(&path) {
        // A program that plans may have removed it since.
        true => Ok(folder.read_json(&path).ok()),
        false => Ok(None),
    }
}

pub(super) fn forget(folder: &RunFolder) -> Result<(), RunError> {
    Ok(folder.storage().remove(&path(folder))?)
}

/// Which briefs are not planned, and what to do.
pub(super) fn what_is_left(briefs: &[StoryId]) -> String {
    const NAMED: usize = 8;
    let names: Vec<&str> = briefs.iter().take(NAMED).map(StoryId::as_str).collect();
    let more = match briefs.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (count, names) = (briefs.len(), names.join(", "));
    let briefs = if count == 1 { "brief is" } else { "briefs are" };
    format!(
        "{count} {briefs} not planned: {names}{more}; see to the planner and run the same command again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses = [1, 2, 3, 6, 7, 500].map(|tries| pause(tries).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
    }

    #[test]
    fn what_is_left_is_named_but_not_without_end() {
        let briefs = |count: usize| -> Vec<StoryId> {
            let names = (0..count).map(|number| StoryId::new(format!("ad-{number}")).unwrap());
            names.collect()
        };
        let one = what_is_left(&briefs(1));
        assert!(one.starts_with("1 brief is not planned: ad-0; "), "{one}");
        let many = what_is_left(&briefs(10));
        assert!(many.contains("ad-6, ad-7 and 2 more; "), "{many}");
    }
}
