//! What a shot of OneStory chose of its history, derived again from the scores that it stored.

use std::fmt;

use serde::Serialize;
use storyloom_memory::policy::onestory::SELECT;
use storyloom_memory::{
    BlobStore, MemoryError, MemoryItem, OneStoryPolicy, PolicySettings, ShotRecord,
};
use storyloom_story::onestory::{Choice, ChoiceError, History, Kernel};
use storyloom_story::{HostTensor, LatentGrid, ShotId};

use crate::folder::run_file::RunFile;
use crate::folder::terms::MethodTerms;

/// What the next shot of a story may choose from, as its records say.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    history: History,
    shots: Vec<ShotId>,
}

/// A latent frame that a shot saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChosenFrameView {
    /// The shot that it is of.
    pub shot: ShotId,
    /// The latent frame in that shot, from 0.
    pub frame: usize,
    /// How relevant the selector found it.
    pub score: f32,
    /// How finely it was seen.
    pub kernel: Kernel,
}

impl fmt::Display for ChosenFrameView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shot,
            frame,
            score,
            kernel,
        } = self;
        write!(
            f,
            "{shot}, latent frame {frame}: {kernel}, score {score:.3}"
        )
    }
}

/// A shot that a later one chose from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EarlierShot {
    /// Which one.
    pub shot: ShotId,
    /// Its latent frames.
    pub frames: usize,
}

/// What a shot chose, and of what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChoiceView {
    /// The shots that it chose from, oldest first.
    pub history: Vec<EarlierShot>,
    /// What it chose, in the order of time.
    pub frames: Vec<ChosenFrameView>,
}

/// Why nobody can say what a shot chose.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Underivable {
    /// Its scores cannot be read.
    #[error(transparent)]
    Scores(#[from] MemoryError),
    /// They are not those of what the story had made.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
}

impl Offered {
    /// Before the first shot, of what the story begins with.
    pub(crate) fn new(references: &[MemoryItem]) -> Self {
        let mut references_of = references.iter();
        let history = History {
            references: references.len(),
            first_shot: references_of.position(|item| item.first_shot().is_some()),
            shots: Vec::new(),
        };
        Self {
            history,
            shots: Vec::new(),
        }
    }

    /// After a shot.
    pub(crate) fn add(&mut self, record: &ShotRecord, grid: LatentGrid) {
        let request = record.request();
        for _ in record.kept() {
            self.history.shots.push(latent_frames(record, grid));
            self.shots.push(request.shot);
        }
    }

    /// What the shot of a record chose; `None` where no pass of it has scored the history.
    pub(crate) fn choice(
        &self,
        record: &ShotRecord,
        policy: &OneStoryPolicy,
        blobs: &BlobStore,
        grid: LatentGrid,
    ) -> Result<Option<Choice>, Underivable> {
        let Some(scores) = stored_scores(record, blobs)? else {
            return Ok(None);
        };
        let plane = grid.plane(record.request().video.resolution());
        Ok(Some(policy.choose(&scores, &self.history, plane)?))
    }

    /// The same for readers, where it can be said.
    pub(crate) fn view(
        &self,
        record: &ShotRecord,
        run: &RunFile,
        blobs: &BlobStore,
    ) -> Option<ChoiceView> {
        let terms = run.terms(record.request().method)?;
        let policy = policy_of(&terms)?;
        let choice = match self.choice(record, policy, blobs, run.identity.grid) {
            Ok(choice) => choice?,
            Err(error) => {
                let request = record.request();
                tracing::warn!(%error, story = %request.story, shot = %request.shot, "nobody can say what it saw");
                return None;
            }
        };
        let frames = choice.frames.iter().map(|seen| ChosenFrameView {
            shot: self.shots[seen.shot],
            frame: seen.frame,
            score: seen.score,
            kernel: seen.kernel,
        });
        let shots = self.shots.iter().zip(&self.history.shots);
        let history = shots.map(|(&shot, &frames)| EarlierShot { shot, frames });
        Some(ChoiceView {
            history: history.collect(),
            frames: frames.collect(),
        })
    }
}

/// Latent frames that are kept of the shot of a record.
pub(crate) fn latent_frames(record: &ShotRecord, grid: LatentGrid) -> usize {
    grid.latent_frames(record.request().video.frames) as usize
}

/// The policy by whose scores a method chooses, if it does.
pub(crate) fn policy_of(terms: &MethodTerms) -> Option<&OneStoryPolicy> {
    match &terms.memory {
        PolicySettings::OneStory(policy) => Some(policy),
        _ => None,
    }
}

/// The scores that the shot of a record has stored, if a pass of it made some.
pub(crate) fn stored_scores(
    record: &ShotRecord,
    blobs: &BlobStore,
) -> Result<Option<HostTensor>, MemoryError> {
    let passes = record.passes();
    let select = passes.iter().find(|pass| pass.pass == SELECT);
    select.map(|pass| blobs.array(pass.latents)).transpose()
}
