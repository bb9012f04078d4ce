//! What a run is asked to do, apart from the stories.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storyloom_memory::IndexKind;
use storyloom_memory::select::SelectionSettings;
use storyloom_memory::window::WindowSettings;
use storyloom_story::{Continuation, VideoSpec};

/// The settings of a run that the orchestrator needs.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The run folder.
    pub out: PathBuf,
    /// Folder that the paths of reference images count from.
    pub input_folder: PathBuf,
    /// Seed from which the seeds of shots are derived.
    pub seed: u64,
    /// Size, length and rate of shots.
    pub video: VideoSpec,
    /// What a shot sees of the bank.
    pub window: WindowSettings,
    /// How keyframes are chosen.
    pub selection: SelectionSettings,
    /// What a shot without a cut continues from.
    pub continuation: Continuation,
    /// How often a shot that fails is tried, each time with other noise.
    pub attempts: u32,
    /// What is finished when the run is asked to stop.
    pub stop_at: StopAt,
    /// The store of the memory index.
    pub index: IndexKind,
    /// Folder of the memory index, if not in the run folder.
    pub index_folder: Option<PathBuf>,
    /// The resolved config as the user would see it, for `run.json`.
    pub resolved: serde_json::Value,
}

/// Where a run stops when it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAt {
    /// After the running step; the shot is made again later.
    Step,
    /// After the running shot.
    Shot,
}

/// Set from outside to ask a run to stop.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that is set by setting `shared`.
    pub fn new(shared: Arc<AtomicBool>) -> Self {
        Self(shared)
    }

    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
