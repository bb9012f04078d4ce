//! Format 2: what methods write that do not fit format 1. A shot is made in named passes, what is kept of it
//! need be no picture, and each method has a part of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storyloom_story::{Method, PassName, ShotRequest, Stage};

use super::either::PassView;
use super::{MemoryItem, PictureRecord, SeenRecord};
use crate::ledger::blobs::BlobRef;

/// The format of commit records and of records of reference images.
pub const FORMAT: u32 = 2;

/// Everything about one finished shot: what was asked, what it saw, what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// What was asked for; with the engine's fingerprint the recipe of the shot.
    pub request: ShotRequest,
    /// Fingerprint of the engine: weights, sampler, precision.
    pub engine: String,
    /// What else decides the last bits of the numbers: device, threads, how sums are divided among
    /// ranks. Shots of one run may differ in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arithmetic: String,
    /// The memory the shot saw, oldest first.
    pub seen: Vec<SeenRecord>,
    /// What the sampling loops before the last one made, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<PassRecord>,
    /// What the last sampling loop made: the shot.
    pub made: PassRecord,
    /// The video or picture of the shot, relative to the story's folder.
    pub file: PictureRecord,
    /// What entered the memory of the story.
    pub kept: Vec<MemoryItem>,
    /// What only this method has to say.
    pub method: MethodRecord,
    /// Seconds spent in each stage.
    pub seconds: BTreeMap<Stage, f64>,
    /// Digest of the record of the shot before; `None` for the first.
    pub previous: Option<String>,
    /// Digest of the plan that the story follows; `None` where somebody wrote its script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

/// What one sampling loop of a shot made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassRecord {
    /// Which one.
    pub pass: PassName,
    /// Normalised latents `[channels, frames, height, width]`.
    pub latents: BlobRef,
    /// Number of frames that were decoded of them.
    pub frame_count: u32,
    /// Width and height in pixels.
    pub frame_size: (u32, u32),
    /// blake3 over the RGB bytes of these frames in order.
    pub frames_blake3: String,
}

/// The part of a record that one method has alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "name",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum MethodRecord {
    /// Its network chose what the shot saw.
    #[serde(rename = "onestory")]
    OneStory {
        /// How much the story had kept, for the network to choose from.
        offered: u32,
    },
    /// Pictures alone.
    NarrativeWeaver {},
    /// Its shots go on from one keyframe each.
    #[serde(rename = "moviedreamer")]
    MovieDreamer {},
}

impl CommitRecord {
    /// What each sampling loop made, in their order.
    pub fn passes(&self) -> impl Iterator<Item = &PassRecord> {
        self.earlier.iter().chain([&self.made])
    }
}

impl PassRecord {
    pub(super) fn view(&self) -> PassView<'_> {
        PassView {
            pass: self.pass.clone(),
            latents: &self.latents,
            frame_count: self.frame_count,
            frame_size: self.frame_size,
            frames_blake3: &self.frames_blake3,
        }
    }
}

impl MethodRecord {
    /// Whose part it is.
    pub fn method(&self) -> Method {
        match self {
            Self::OneStory { .. } => Method::OneStory,
            Self::NarrativeWeaver {} => Method::NarrativeWeaver,
            Self::MovieDreamer {} => Method::MovieDreamer,
        }
    }

    /// What a method has to say of a shot that could see `offered` items; `None` of a method that writes
    /// [format 1](super::v1).
    pub fn new(method: Method, offered: u32) -> Option<Self> {
        Some(match method {
            Method::StoryMem => return None,
            Method::OneStory => Self::OneStory { offered },
            Method::NarrativeWeaver => Self::NarrativeWeaver {},
            Method::MovieDreamer => Self::MovieDreamer {},
        })
    }
}

/// The user's pictures that stand in the memory before the first shot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferencesRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Fingerprint of the engine.
    pub engine: String,
    /// The pictures in the order of the manifest.
    pub items: Vec<MemoryItem>,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

digested!(CommitRecord, FORMAT);
digested!(ReferencesRecord, FORMAT);
