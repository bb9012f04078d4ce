//! Stories whose shots were to remember, and that kept nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use storyloom_memory::ShotRecord;

use crate::config::RunConfig;

/// Of a story of several shots with memory on: no frame of any shot was good enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NoKeyframes {
    /// The quality that was asked for, `storymem.quality_threshold`.
    pub threshold: f32,
    /// The best quality of a frame; `None` where an earlier version made the shots, which did not note
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<f32>,
}

impl fmt::Display for NoKeyframes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threshold, best } = self;
        write!(
            f,
            "no keyframe was kept: no frame reached storymem.quality_threshold = {threshold}"
        )?;
        match best {
            Some(best) => write!(f, ", the best scored {best:.4}"),
            None => Ok(()),
        }
    }
}

/// What the shots of a story have kept, one after the other.
pub(crate) struct Keeping {
    threshold: f32,
    is_on: bool,
    shots: usize,
    kept: bool,
    best: Option<f32>,
}

impl Keeping {
    /// No shot yet.
    pub(crate) fn new(config: &RunConfig) -> Self {
        Self {
            threshold: config.selection.quality_threshold,
            is_on: config.window.max_images > 0,
            shots: 0,
            kept: false,
            best: None,
        }
    }

    /// Adds a shot.
    pub(crate) fn add(&mut self, record: &ShotRecord) {
        self.shots += 1;
        let Some(selection) = record.selection() else {
            self.kept |= !record.kept().is_empty();
            return;
        };
        // What was chosen and not admitted is in the memory in the form of something like it.
        self.kept |= !selection.frames.is_empty();
        let best = self.best.into_iter().chain(selection.best_quality);
        self.best = best.reduce(f32::max);
    }

    /// What is to be told of the story.
    pub(crate) fn finding(&self) -> Option<NoKeyframes> {
        // A single shot has none after it that would see them.
        (self.is_on && self.shots > 1 && !self.kept).then_some(NoKeyframes {
            threshold: self.threshold,
            best: self.best,
        })
    }
}
