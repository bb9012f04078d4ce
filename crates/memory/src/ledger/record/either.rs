//! Both formats of a record in one view.

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_story::{Method, PassName, ShotRequest, Stage};

use super::{DigestedRecord, MemoryItem, PictureRecord, SeenRecord, v1, v2};
use crate::error::{MemoryError, Result};
use crate::ledger::blobs::BlobRef;
use crate::ledger::soundness::Named;
use crate::policy::storymem::select::Selection;

/// The commit record of a shot, in the format of its method.
#[derive(Debug, Clone, PartialEq)]
pub enum ShotRecord {
    /// StoryMem's.
    V1(v1::CommitRecord),
    /// That of a method which does not fit format 1.
    V2(v2::CommitRecord),
}

/// The record of the reference images of a story, in the format of its method.
#[derive(Debug, Clone, PartialEq)]
pub enum References {
    /// StoryMem's.
    V1(v1::ReferencesRecord),
    /// That of a method which does not fit format 1.
    V2(v2::ReferencesRecord),
}

/// A field that both formats have under the same name.
macro_rules! common {
    ($($(#[$doc:meta])* $name:ident: $kind:ty;)+) => {
        $($(#[$doc])*
        pub fn $name(&self) -> &$kind {
            match self {
                Self::V1(record) => &record.$name,
                Self::V2(record) => &record.$name,
            }
        })+
    };
}

/// What records of either format do alike.
macro_rules! of_either_format {
    () => {
        /// Fills in the digest and returns the record as JSON.
        ///
        /// # Errors
        /// It has no JSON form.
        pub fn seal(&mut self) -> Result<Vec<u8>> {
            match self {
                Self::V1(record) => record.seal(),
                Self::V2(record) => record.seal(),
            }
        }

        /// Its format.
        pub fn format(&self) -> u32 {
            match self {
                Self::V1(_) => v1::FORMAT,
                Self::V2(_) => v2::FORMAT,
            }
        }
    };
}

impl ShotRecord {
    common! {
        /// What was asked for; with the engine's fingerprint the recipe of the shot.
        request: ShotRequest;
        /// Fingerprint of the engine: weights, sampler, precision.
        engine: String;
        /// What else decides the last bits of the numbers.
        arithmetic: String;
        /// Seconds spent in each stage.
        seconds: BTreeMap<Stage, f64>;
        /// Digest of the record of the shot before; `None` for the first.
        previous: Option<String>;
        /// Digest of the plan that the story follows; `None` where somebody wrote its script.
        plan: Option<String>;
        /// blake3 of the record.
        digest: String;
    }

    /// Reads a record of either format and checks its digest; `path` is for messages.
    ///
    /// # Errors
    /// It is damaged, or of a format that a later version has.
    pub fn open(path: &Path, bytes: &[u8]) -> Result<Self> {
        let record = open_either(path, bytes, Self::V1, Self::V2)?;
        let method = record.request().method;
        if method.profile().record_format != record.format() || !record.has_part_of(method) {
            let reason = format!("a shot of {method} has no record of this form");
            return Err(MemoryError::damaged(path, reason));
        }
        Ok(record)
    }

    of_either_format!();

    /// Whether it has what this method has to say.
    fn has_part_of(&self, method: Method) -> bool {
        match self {
            Self::V1(_) => true,
            Self::V2(record) => record.method.method() == method,
        }
    }

    /// The memory the shot saw, oldest first.
    pub fn seen(&self) -> &[SeenRecord] {
        match self {
            Self::V1(record) => &record.memory_seen,
            Self::V2(record) => &record.seen,
        }
    }

    /// The frames of the shot before that this one continues.
    pub fn continues(&self) -> Option<&BlobRef> {
        match self {
            Self::V1(record) => record.continues.as_ref(),
            Self::V2(_) => None,
        }
    }

    /// The last frames, for a shot that continues this one.
    pub fn tail(&self) -> Option<&BlobRef> {
        match self {
            Self::V1(record) => Some(&record.tail),
            Self::V2(_) => None,
        }
    }

    /// What each sampling loop made, in their order; the last one made the shot.
    pub fn passes(&self) -> Vec<PassView<'_>> {
        let earlier = match self {
            Self::V1(_) => &[][..],
            Self::V2(record) => &record.earlier,
        };
        let earlier = earlier.iter().map(v2::PassRecord::view);
        earlier.chain([self.made()]).collect()
    }

    /// What the last sampling loop made.
    fn made(&self) -> PassView<'_> {
        match self {
            Self::V1(record) => PassView {
                pass: PassName::SHOT,
                latents: &record.latents,
                frame_count: record.frame_count,
                frame_size: record.frame_size,
                frames_blake3: &record.frames_blake3,
            },
            Self::V2(record) => record.made.view(),
        }
    }

    /// Normalised latents of the shot `[channels, frames, height, width]`.
    pub fn latents(&self) -> &BlobRef {
        self.made().latents
    }

    /// Number of saved frames.
    pub fn frame_count(&self) -> u32 {
        self.made().frame_count
    }

    /// Width and height in pixels.
    pub fn frame_size(&self) -> (u32, u32) {
        self.made().frame_size
    }

    /// blake3 over the RGB bytes of all saved frames in order.
    pub fn frames_blake3(&self) -> &str {
        self.made().frames_blake3
    }

    /// The video or picture of the shot.
    pub fn file(&self) -> &PictureRecord {
        match self {
            Self::V1(record) => &record.video,
            Self::V2(record) => &record.file,
        }
    }

    /// What entered the memory of the story.
    pub fn kept(&self) -> Vec<MemoryItem> {
        match self {
            Self::V1(record) => record
                .keyframes
                .iter()
                .map(v1::KeyframeRecord::item)
                .collect(),
            Self::V2(record) => record.kept.clone(),
        }
    }

    /// How keyframes were chosen, if they were by likeness and quality.
    pub fn selection(&self) -> Option<&Selection> {
        match self {
            Self::V1(record) => Some(&record.selection),
            Self::V2(_) => None,
        }
    }

    /// The record with other seconds, arithmetic and content of its file, unsealed.
    pub fn retold(&self, seconds: &BTreeMap<Stage, f64>, arithmetic: &str, file: &BlobRef) -> Self {
        let mut other = self.clone();
        match &mut other {
            Self::V1(record) => {
                record.seconds.clone_from(seconds);
                arithmetic.clone_into(&mut record.arithmetic);
                record.video.content.clone_from(file);
            }
            Self::V2(record) => {
                record.seconds.clone_from(seconds);
                arithmetic.clone_into(&mut record.arithmetic);
                record.file.content.clone_from(file);
            }
        }
        other
    }

    /// The record with other seconds, unsealed.
    #[must_use]
    pub fn with_seconds(mut self, seconds: BTreeMap<Stage, f64>) -> Self {
        match &mut self {
            Self::V1(record) => record.seconds = seconds,
            Self::V2(record) => record.seconds = seconds,
        }
        self
    }

    /// Adds to the seconds of a stage.
    pub fn add_seconds(&mut self, stage: Stage, seconds: f64) {
        let all = match self {
            Self::V1(record) => &mut record.seconds,
            Self::V2(record) => &mut record.seconds,
        };
        *all.entry(stage).or_default() += seconds;
    }

    /// What the record names of its own: not the frames that it continues, which are another shot's.
    pub fn named(&self) -> Named<'_> {
        match self {
            Self::V1(record) => {
                let own = Named {
                    pictures: vec![&record.video],
                    blobs: vec![&record.latents, &record.tail],
                };
                own.with_keyframes(&record.keyframes)
            }
            Self::V2(record) => {
                let own = Named {
                    pictures: vec![&record.file],
                    blobs: record.passes().map(|pass| &pass.latents).collect(),
                };
                own.with_items(&record.kept)
            }
        }
    }

    /// The files of the story that the record names.
    pub fn pictures(&self) -> Vec<&PictureRecord> {
        self.named().pictures
    }

    /// Digests of the blobs that the record names, those of other shots too.
    pub fn blobs(&self) -> Vec<String> {
        let blobs = self.named().blobs.into_iter().chain(self.continues());
        blobs.map(|blob| blob.blake3.clone()).collect()
    }
}

/// What one sampling loop of a shot made, in either format.
#[derive(Debug, Clone, PartialEq)]
pub struct PassView<'a> {
    /// Which one.
    pub pass: PassName,
    /// Normalised latents `[channels, frames, height, width]`.
    pub latents: &'a BlobRef,
    /// Number of frames that were decoded of them.
    pub frame_count: u32,
    /// Width and height in pixels.
    pub frame_size: (u32, u32),
    /// blake3 over the RGB bytes of these frames in order.
    pub frames_blake3: &'a str,
}

impl References {
    /// Reads a record of either format and checks its digest; `path` is for messages.
    ///
    /// # Errors
    /// It is damaged, or of a format that a later version has.
    pub fn open(path: &Path, bytes: &[u8]) -> Result<Self> {
        open_either(path, bytes, Self::V1, Self::V2)
    }

    of_either_format!();

    common! {
        /// Fingerprint of the engine.
        engine: String;
    }

    /// The pictures in the order of the manifest.
    pub fn kept(&self) -> Vec<MemoryItem> {
        match self {
            Self::V1(record) => record
                .pictures
                .iter()
                .map(v1::KeyframeRecord::item)
                .collect(),
            Self::V2(record) => record.items.clone(),
        }
    }

    /// What the record names.
    pub fn named(&self) -> Named<'_> {
        match self {
            Self::V1(record) => Named::default().with_keyframes(&record.pictures),
            Self::V2(record) => Named::default().with_items(&record.items),
        }
    }

    /// The files of the story that the record names.
    pub fn pictures(&self) -> Vec<&PictureRecord> {
        self.named().pictures
    }

    /// Digests of the blobs that the record names.
    pub fn blobs(&self) -> Vec<String> {
        let blobs = self.named().blobs.into_iter();
        blobs.map(|blob| blob.blake3.clone()).collect()
    }
}

/// A record of whichever format it has.
fn open_either<T, A: DigestedRecord, B: DigestedRecord>(
    path: &Path,
    bytes: &[u8],
    first: impl FnOnce(A) -> T,
    second: impl FnOnce(B) -> T,
) -> Result<T> {
    match A::open(path, bytes) {
        Ok(record) => Ok(first(record)),
        Err(MemoryError::Newer { .. }) => B::open(path, bytes).map(second),
        Err(error) => Err(error),
    }
}
