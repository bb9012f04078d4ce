//! What a report remembers for the next one: the rows of stories whose files did not change.

use std::collections::HashMap;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use storyloom_memory::Storage;
use storyloom_story::StoryId;

use super::story::Row;
use crate::error::RunError;

/// A story as the last report saw it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Known {
    /// Of the files that its page was made from.
    pub fingerprint: String,
    pub row: Row,
}

/// All stories as the last report saw them.
#[derive(Debug, Default)]
pub(super) struct Cache {
    stories: HashMap<String, Known>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    form: String,
    stories: Vec<Known>,
}

impl Cache {
    /// Reads the cache if it is of the same form; whatever is wrong with it, it counts as empty.
    pub(super) fn read(storage: &dyn Storage, path: &Path, form: &str) -> Self {
        let stored = storage.read(path).ok();
        let stored = stored.and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
        let stories = stored
            .filter(|stored| stored.form == form)
            .map_or_else(Vec::new, |stored| stored.stories);
        let stories = stories
            .into_iter()
            .map(|known| (known.row.id.clone(), known));
        Self {
            stories: stories.collect(),
        }
    }

    /// The row of a story whose files still have this fingerprint.
    pub(super) fn row(&self, id: &StoryId, fingerprint: &str) -> Option<&Row> {
        let known = self.stories.get(id.as_str())?;
        (known.fingerprint == fingerprint).then_some(&known.row)
    }

    /// Writes the cache for the next report.
    pub(super) fn write(
        storage: &dyn Storage,
        path: &Path,
        form: String,
        stories: Vec<Known>,
    ) -> Result<(), RunError> {
        let stored = Stored { form, stories };
        let bytes = serde_json::to_vec(&stored).map_err(|error| RunError::Folder {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(storage.write_unsynced(path, &bytes)?)
    }
}

/// Digests names, sizes and times of the files that tell of a story. Records are created once, so
/// that reading them all would find nothing more.
///
/// The records are those that a listing has: one that it does not have yet is in the next one, which makes
/// another digest.
pub(super) fn files(storage: &dyn Storage, story: &Path) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    let mut stamp = |path: &Path| stamp(storage, &mut hasher, path);
    stamp(&story.join("story.json"));
    stamp(&story.join("plan.json"));
    let commits = story.join("commits");
    for record in storage.list(&commits).unwrap_or_default() {
        stamp(&commits.join(record));
    }
    hasher
}

fn stamp(storage: &dyn Storage, hasher: &mut blake3::Hasher, path: &Path) {
    hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    let Some(metadata) = storage.metadata(path) else {
        hasher.update(b" is not there");
        return;
    };
    let changed = metadata.modified;
    let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    hasher.update(&metadata.bytes.to_le_bytes());
    hasher.update(&changed.map_or(0, |since| since.as_nanos()).to_le_bytes());
}
