//! Format 1: what StoryMem writes, with the keyframes that were chosen and the frames that a shot without a
//! cut goes on from. It stays as it is: records on disk carry digests over these bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storyloom_story::{ShotRequest, Stage};

use super::{MemoryItem, PictureRecord, SeenRecord};
use crate::ledger::arrays::{EMBEDDING, LATENTS};
use crate::ledger::blobs::BlobRef;
use crate::policy::storymem::select::Selection;

/// The format of commit records and of records of reference images.
pub const FORMAT: u32 = 1;

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
    pub memory_seen: Vec<SeenRecord>,
    /// The frames of the shot before that this one continues.
    pub continues: Option<BlobRef>,
    /// Normalised latents `[channels, frames, height, width]`.
    pub latents: BlobRef,
    /// Number of saved frames.
    pub frame_count: u32,
    /// Width and height in pixels.
    pub frame_size: (u32, u32),
    /// blake3 over the RGB bytes of all saved frames in order.
    pub frames_blake3: String,
    /// The last frames, lossless, for a shot that continues this one.
    pub tail: BlobRef,
    /// The video file, relative to the story's folder.
    pub video: PictureRecord,
    /// How keyframes were chosen.
    pub selection: Selection,
    /// Keyframes that entered the bank.
    pub keyframes: Vec<KeyframeRecord>,
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

/// A picture that entered the bank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyframeRecord {
    /// Its number among the selected keyframes of the shot, from 0; gaps are frames that were
    /// too similar to the bank.
    pub position: u32,
    /// Index of the frame in the shot; 0 for reference images.
    pub frame: u32,
    /// Its quality score.
    pub quality: f32,
    /// The PNG file.
    pub picture: PictureRecord,
    /// The picture as one normalised latent frame at the story's size.
    pub latents: BlobRef,
    /// Its embedding, unit length.
    pub embedding: BlobRef,
}

/// The user's pictures that stand in the bank before the first shot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferencesRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Fingerprint of the engine.
    pub engine: String,
    /// The pictures in the order of the manifest.
    pub pictures: Vec<KeyframeRecord>,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

impl KeyframeRecord {
    /// The keyframe that an item of a memory is.
    ///
    /// # Errors
    /// The part that it has not.
    pub fn new(item: MemoryItem) -> std::result::Result<Self, &'static str> {
        let MemoryItem {
            number,
            frame,
            quality,
            picture,
            mut arrays,
        } = item;
        Ok(Self {
            position: number,
            frame: frame.ok_or("frame")?,
            quality: quality.ok_or("quality")?,
            picture: picture.ok_or("picture")?,
            latents: arrays.remove(LATENTS).ok_or(LATENTS)?,
            embedding: arrays.remove(EMBEDDING).ok_or(EMBEDDING)?,
        })
    }

    /// The keyframe as every method's pictures are seen.
    pub fn item(&self) -> MemoryItem {
        let arrays = [(LATENTS, &self.latents), (EMBEDDING, &self.embedding)];
        MemoryItem {
            number: self.position,
            frame: Some(self.frame),
            quality: Some(self.quality),
            picture: Some(self.picture.clone()),
            arrays: arrays
                .map(|(name, blob)| (name.to_owned(), blob.clone()))
                .into(),
        }
    }
}

digested!(CommitRecord, FORMAT);
digested!(ReferencesRecord, FORMAT);
