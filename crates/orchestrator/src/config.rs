//! What a run is asked to do, apart from the stories.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storyloom_memory::select::SelectionSettings;
use storyloom_memory::window::WindowSettings;
use storyloom_memory::{IndexKind, MemorySettings, OneStoryPolicy, StoryMemPolicy};
use storyloom_pictures::InputFolder;
use storyloom_story::{Continuation, Fit, Ground, LatentGrid, LeftOut, Method, VideoSpec};

/// The settings of a run that the orchestrator needs.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The run folder.
    pub out: PathBuf,
    /// What this program is called among the workers of the run, different for every start, see
    /// [`new_worker_id`](crate::run::lease::new_worker_id); `None` to find a name.
    pub worker: Option<String>,
    /// Folder that the paths of reference images count from, and where they may lie.
    pub input_folder: InputFolder,
    /// Stories that are asked for as well, and whose scripts cannot be read: they are set aside.
    pub left_out: Vec<LeftOut>,
    /// Whether only some of the run's stories are asked for: what is noted of the others stays.
    pub part: bool,
    /// How users' pictures are put into the shape of a film.
    pub pictures: PictureSettings,
    /// How shots are conditioned.
    pub method: Method,
    /// Seed from which the seeds of shots are derived.
    pub seed: u64,
    /// Size of the films, frames that are decoded for a shot, and rate.
    pub video: VideoSpec,
    /// How the networks divide videos: it decides the sizes and lengths that shots can have.
    pub grid: LatentGrid,
    /// What a shot of StoryMem sees of the bank.
    pub window: WindowSettings,
    /// How keyframes are chosen.
    pub selection: SelectionSettings,
    /// What a shot of OneStory sees of all that was made.
    pub onestory: OneStoryPolicy,
    /// What a shot without a cut continues from.
    pub continuation: Continuation,
    /// How often a shot that fails is tried, each time with other noise.
    pub attempts: u32,
    /// How briefs are planned.
    pub planning: PlanningSettings,
    /// When a shot that is being made is saved.
    pub checkpoint: CheckpointSettings,
    /// How long a worker may show no sign of life before others take its stories over.
    pub lease_timeout: Duration,
    /// Stories that are made side by side, so that the denoiser need not wait for other stages.
    pub interleave: usize,
    /// Programs of the same world that make stories too: each leaves the others their share.
    pub replicas: usize,
    /// Most stories in quarantine before the run ends; `None`: any number.
    pub quarantine_limit: Option<usize>,
    /// The store of the memory index.
    pub index: IndexKind,
    /// Folder of the memory index, if not in the run folder.
    pub index_folder: Option<PathBuf>,
    /// What video files are.
    pub videos: Videos,
    /// The resolved config as the user would see it, for `run.json`.
    pub resolved: serde_json::Value,
    /// The same as a config file, to try a story in quarantine alone.
    pub config_file: String,
}

impl RunConfig {
    /// What is kept of a shot, and what a later one sees of it, by method.
    pub fn memory(&self) -> MemorySettings {
        MemorySettings {
            storymem: StoryMemPolicy {
                window: self.window,
                selection: self.selection,
            },
            onestory: self.onestory,
        }
    }
}

/// How the briefs of a run are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanningSettings {
    /// Stories that are planned before somebody has time for them, for each program that makes
    /// stories; at least one.
    pub ahead: usize,
    /// How often a brief that cannot be planned is tried, each time with another seed.
    pub attempts: u32,
}

impl Default for PlanningSettings {
    fn default() -> Self {
        Self {
            ahead: 8,
            attempts: 3,
        }
    }
}

/// What the video files of a run are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Videos {
    /// H.264, by ffmpeg.
    #[default]
    Encoded,
    /// A line of text that says so, for tests of everything around the videos.
    Placeholders,
}

impl Videos {
    /// Whether they are videos.
    pub(crate) fn are_encoded(&self) -> bool {
        *self == Self::Encoded
    }
}

/// How users' pictures are put into the shape of a film; a line of the manifest may say otherwise.
/// All of it is part of a run's identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PictureSettings {
    /// What happens where their shapes differ.
    pub fit: Fit,
    /// What stands behind transparent parts and beside a padded picture.
    pub ground: Ground,
    /// What decides the shape of a film whose line of the manifest does not say it.
    pub shape: FilmShape,
}

/// What decides the shape of a film whose line of the manifest has no `size`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilmShape {
    /// Its first reference image, with about as many pixels as the run's videos.
    #[default]
    Picture,
    /// The run's settings, whatever pictures the story has.
    Video,
}

/// When a shot that is being made is saved. It always is when the run stops at a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CheckpointSettings {
    /// After every `n` steps.
    Every(usize),
    /// Whenever the work that a kill would lose is worth more than saving it, at a kill every
    /// `uptime` on average: after `sqrt(2 * uptime * time to save)` (Young 1974).
    Auto {
        /// Mean time between two kills.
        uptime: Duration,
    },
}

/// Where a run stops when it is asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopAt {
    /// After the running step; the shot is saved and goes on there later.
    Step,
    /// After the running shot.
    Shot,
}

/// Set from outside to ask a run to stop.
#[derive(Debug, Clone, Default)]
pub struct StopFlag {
    step: Arc<AtomicBool>,
    shot: Arc<AtomicBool>,
    drain: Arc<AtomicBool>,
}

impl StopFlag {
    /// A flag that is set by setting one of the two.
    pub fn new(step: Arc<AtomicBool>, shot: Arc<AtomicBool>) -> Self {
        Self {
            step,
            shot,
            drain: Arc::default(),
        }
    }

    /// Whether the whole run is asked to take no new shots. That can be withdrawn, until the last
    /// running shot has ended.
    pub fn set_drain(&self, asked: bool) {
        self.drain.store(asked, Ordering::SeqCst);
    }

    /// Whether that is what somebody asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.load(Ordering::SeqCst)
    }

    /// Asks to stop.
    pub fn set(&self, at: StopAt) {
        match at {
            StopAt::Step => self.step.store(true, Ordering::SeqCst),
            StopAt::Shot => self.shot.store(true, Ordering::SeqCst),
        }
    }

    /// Whether somebody asked, and where to stop.
    pub fn asked(&self) -> Option<StopAt> {
        if self.step.load(Ordering::SeqCst) {
            return Some(StopAt::Step);
        }
        let shot = self.shot.load(Ordering::SeqCst) || self.is_draining();
        shot.then_some(StopAt::Shot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_to_drain_can_be_withdrawn_but_no_other() {
        let stop = StopFlag::default();
        stop.set_drain(true);
        assert_eq!(stop.asked(), Some(StopAt::Shot));
        stop.set_drain(false);
        assert_eq!(stop.asked(), None);
        stop.set(StopAt::Shot);
        stop.set_drain(false);
        assert_eq!(stop.asked(), Some(StopAt::Shot));
        stop.set(StopAt::Step);
        assert_eq!(stop.asked(), Some(StopAt::Step));
    }
}
