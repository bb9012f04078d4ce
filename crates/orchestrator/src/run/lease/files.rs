//! The files of leases, for those who take leases and for readers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use storyloom_memory::Storage;
use storyloom_memory::storage::{UNFINISHED, temporary_name};
use storyloom_story::StoryId;

use super::{LeaseFile, Worker};
use crate::error::RunError;

/// Reads the leases of a run.
#[derive(Debug)]
pub struct LeaseFiles {
    pub(super) root: PathBuf,
    pub(super) storage: Arc<dyn Storage>,
}

impl LeaseFiles {
    /// Those below `root`.
    pub fn new(root: impl Into<PathBuf>, storage: Arc<dyn Storage>) -> Self {
        Self {
            root: root.into(),
            storage,
        }
    }

    /// Who holds a story, as far as files tell; nobody whose process is known to have ended.
    pub fn holder(&self, story: &StoryId) -> Result<Option<Worker>, RunError> {
        let Some(&last) = self.numbers(story)?.last() else {
            return Ok(None);
        };
        match self.lease(story, last) {
            Seen::There(lease) if !lease.released => match self.worker(&lease.worker) {
                Seen::There(worker) => Ok(Some(worker).filter(|worker| !worker.is_gone())),
                Seen::Gone | Seen::Unreadable(_) => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Workers whose files are there by a listing, dead or alive, to be shown and tidied up; those whose
    /// files cannot be read are left out.
    pub(super) fn workers(&self) -> Result<Vec<Worker>, RunError> {
        let mut workers = Vec::new();
        for name in self.storage.list(&self.root.join("workers"))? {
            if let Some(id) = name.strip_suffix(".json")
                && !name.starts_with(UNFINISHED)
                && let Seen::There(worker) = self.worker(id)
            {
                workers.push(worker);
            }
        }
        Ok(workers)
    }

    /// The leases that a story has had and that are there, in order. The last of the listing is the newest:
    /// it leaves out nothing that stays, and a number that was taken meanwhile cannot be taken again.
    pub(super) fn numbers(&self, story: &StoryId) -> Result<Vec<u64>, RunError> {
        let names = self.storage.list(&self.folder(story))?;
        let number = |name: &String| name.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn folder(&self, story: &StoryId) -> PathBuf {
        self.root.join("stories").join(story.as_str())
    }

    pub(super) fn path(&self, story: &StoryId, number: u64) -> PathBuf {
        self.folder(story).join(format!("{number:08}.json"))
    }

    pub(super) fn worker_path(&self, id: &str) -> PathBuf {
        self.root.join("workers").join(format!("{id}.json"))
    }

    pub(super) fn worker(&self, id: &str) -> Seen<Worker> {
        self.read(&self.worker_path(id))
    }

    pub(super) fn lease(&self, story: &StoryId, number: u64) -> Seen<LeaseFile> {
        self.read(&self.path(story, number))
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Seen<T> {
        // Also of what is no file, and of a link that leads nowhere.
        let is_there = || self.storage.is_taken(path);
        if !is_there() {
            return Seen::Gone;
        }
        match self.storage.read(path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(content) => Seen::There(content),
                Err(error) => Seen::Unreadable(format!("{}: {error}", path.display())),
            },
            // It was there a moment ago.
            Err(_) if !is_there() => Seen::Gone,
            Err(error) => Seen::Unreadable(error.to_string()),
        }
    }

    /// Removes a file. What is no file is moved out of the way: nobody knows whose it is.
    pub(super) fn clear(&self, path: &Path) -> Result<(), RunError> {
        let found = self.storage.metadata(path);
        if found.is_some_and(|found| found.is_folder) {
            return Ok(self.storage.give_name(path, &temporary_name(path))?);
        }
        Ok(self.storage.remove(path)?)
    }
}

/// What a look at a file found.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// It is not there, or not any more.
    Gone,
    /// It is whole.
    There(T),
    /// It is there, and cannot be read or is not what it should be: this is why.
    Unreadable(String),
}
