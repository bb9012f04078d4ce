//! The files of leases, for those who take leases and for those who look on.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use storyloom_memory::Storage;
use storyloom_memory::storage::UNFINISHED;
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
        match self.lease(story, last)? {
            Some(lease) if !lease.released => {
                let worker = self.worker(&lease.worker)?;
                Ok(worker.filter(|worker| !worker.is_gone()))
            }
            _ => Ok(None),
        }
    }

    /// Workers whose files are there, dead or alive.
    pub(super) fn workers(&self) -> Result<Vec<Worker>, RunError> {
        let mut workers = Vec::new();
        for name in self.storage.list(&self.root.join("workers"))? {
            if let Some(id) = name.strip_suffix(".json")
                && !name.starts_with(UNFINISHED)
                && let Some(worker) = self.worker(id)?
            {
                workers.push(worker);
            }
        }
        Ok(workers)
    }

    /// The leases that a story has had and that are there, in order.
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

    pub(super) fn worker(&self, id: &str) -> Result<Option<Worker>, RunError> {
        self.read(self.worker_path(id))
    }

    pub(super) fn lease(
        &self,
        story: &StoryId,
        number: u64,
    ) -> Result<Option<LeaseFile>, RunError> {
        self.read(self.path(story, number))
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, path: PathBuf) -> Result<Option<T>, RunError> {
        if !self.storage.exists(&path) {
            return Ok(None);
        }
        match self.storage.read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let reason = format!("not a lease: {error}; remove it if nobody works on the run");
                RunError::Folder { path, reason }
            }),
            // It was there a moment ago.
            Err(_) if !self.storage.exists(&path) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
