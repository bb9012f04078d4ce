//! The records of a story, straight from the run folder, without the bank.

use storyloom_memory::storage::UNFINISHED;
use storyloom_memory::{MemoryItem, References, ShotRecord};
use storyloom_story::{ShotId, StoryId};

use crate::error::RunError;
use crate::folder::run_folder::RunFolder;

/// A commit record, or nothing where there is none or where it is damaged, which `verify` reports.
pub(crate) fn readable_record(
    folder: &RunFolder,
    story: &StoryId,
    shot: ShotId,
) -> Option<ShotRecord> {
    read_record(folder, story, shot).unwrap_or_else(|error| {
        tracing::warn!(%error, %story, %shot, "counted as not made");
        None
    })
}

/// A commit record; a damaged one is an error.
pub(crate) fn read_record(
    folder: &RunFolder,
    story: &StoryId,
    shot: ShotId,
) -> Result<Option<ShotRecord>, RunError> {
    let path = folder
        .story(story)
        .join("commits")
        .join(format!("{shot}.json"));
    if !folder.storage().exists(&path) {
        return Ok(None);
    }
    Ok(Some(ShotRecord::open(
        &path,
        &folder.storage().read(&path)?,
    )?))
}

/// The reference images of a story, in the order of the manifest.
pub(crate) fn references(folder: &RunFolder, story: &StoryId) -> Result<Vec<MemoryItem>, RunError> {
    let path = folder.story(story).join("commits/references.json");
    if !folder.storage().exists(&path) {
        return Ok(Vec::new());
    }
    Ok(References::open(&path, &folder.storage().read(&path)?)?.kept())
}

impl RunFolder {
    /// Whether any shot or the references of a story have a record, whatever script it had: only a listing
    /// can tell, which leaves nothing out ([`Storage::list`](storyloom_memory::Storage::list)).
    pub(crate) fn has_records(&self, story: &StoryId) -> Result<bool, RunError> {
        let commits = self.storage().list(&self.story(story).join("commits"))?;
        Ok(commits.iter().any(|name| is_record(name)))
    }

    /// Whether anything was made of a story: its plan, its references, a shot.
    pub(crate) fn has_results(&self, story: &StoryId) -> Result<bool, RunError> {
        Ok(self.has_records(story)? || self.storage().exists(&self.plan_path(story)))
    }
}

fn is_record(name: &str) -> bool {
    !name.starts_with(UNFINISHED) && name.ends_with(".json")
}
