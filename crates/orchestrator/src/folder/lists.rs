//! The stories of a start, as they were asked for: one file for all of them, written at once.
//!
//! ```text
//! DIR/lists/DIGEST.jsonl   one `story.json` a line, each not begun
//! ```
//!
//! Ten thousand files cannot be written durably in a moment, one can. `run.json` names the lists that
//! still count, the newest first. A story has a file of its own from when somebody takes it; until
//! then everybody reads it from here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use storyloom_memory::Storage;
use storyloom_story::{Line, StoryId};

use crate::error::RunError;
use crate::folder::folder_file::FOLDER_FORMAT;
use crate::folder::story_file::StoryFile;

/// A list that is to be written.
#[derive(Debug)]
pub(crate) struct List {
    /// blake3 over its stories, in order.
    pub(crate) digest: String,
    /// Its text.
    bytes: Vec<u8>,
}

impl List {
    /// The list of these stories.
    pub(crate) fn of(lines: &[Line]) -> Self {
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), Vec::new());
        for line in lines {
            // Serialising plain data into memory does not fail.
            let story = serde_json::to_vec(&StoryFile::pending(line)).unwrap_or_default();
            hasher.update(&story);
            bytes.extend(story);
            bytes.push(b'\n');
        }
        Self {
            digest: hasher.finalize().to_hex().to_string(),
            bytes,
        }
    }

    /// Writes it below the run folder `root`, unless it is there.
    pub(crate) fn write(&self, root: &Path, storage: &dyn Storage) -> Result<(), RunError> {
        storage.create(&path(root, &self.digest), &self.bytes)?;
        Ok(())
    }
}

fn path(root: &Path, digest: &str) -> PathBuf {
    root.join("lists").join(format!("{digest}.jsonl"))
}

/// Stories by name.
type Stories = HashMap<StoryId, StoryFile>;

/// The lists of a run that count, read when somebody first asks for a story.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// As `run.json` said last; `None` if nobody has looked.
    names: Option<Vec<String>>,
    stories: Option<Arc<Stories>>,
}

impl Lists {
    /// Takes note of what `run.json` says now.
    pub(crate) fn are(&self, names: &[String]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.names.as_deref() != Some(names) {
            *known = Known {
                names: Some(names.to_vec()),
                stories: None,
            };
        }
    }

    /// Whether anybody has taken note of `run.json`.
    pub(crate) fn are_known(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.names.is_some()
    }

    /// A story of the newest list that has it.
    pub(crate) fn story(
        &self,
        story: &StoryId,
        root: &Path,
        storage: &dyn Storage,
    ) -> Result<Option<StoryFile>, RunError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stories = match &known.stories {
            Some(stories) => stories.clone(),
            None => {
                let names = known.names.as_deref().unwrap_or_default();
                let stories = Arc::new(read(names, root, storage)?);
                known.stories = Some(stories.clone());
                stories
            }
        };
        Ok(stories.get(story).cloned())
    }
}

fn read(names: &[String], root: &Path, storage: &dyn Storage) -> Result<Stories, RunError> {
    let mut stories = Stories::new();
    for name in names {
        let path = path(root, name);
        let bytes = storage.read(&path)?;
        let lines = bytes.split(|&byte| byte == b'\n').enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let wrong = |reason: String| RunError::Folder {
                path: path.clone(),
                reason: format!("line {}: {reason}", number + 1),
            };
            let story: StoryFile =
                serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
            if story.format != FOLDER_FORMAT {
                return Err(wrong(format!("format {} is not known", story.format)));
            }
            stories.entry(story.id.clone()).or_insert(story);
        }
    }
    Ok(stories)
}
