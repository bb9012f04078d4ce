//! The record that makes a shot exist.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_story::{ShotRequest, Stage};

use crate::error::{MemoryError, Result};
use crate::ledger::blobs::BlobRef;
use crate::policy::storymem::select::Selection;

/// The version of the record's form that this program writes and reads.
pub const RECORD_FORMAT: u32 = 1;

/// Everything about one finished shot: what was asked, what it saw, what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRecord {
    /// [`RECORD_FORMAT`].
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

impl CommitRecord {
    /// The files of the story that the record names.
    pub fn pictures(&self) -> Vec<&PictureRecord> {
        let keyframes = self.keyframes.iter().map(|keyframe| &keyframe.picture);
        std::iter::once(&self.video).chain(keyframes).collect()
    }

    /// Digests of the blobs that the record names.
    pub fn blobs(&self) -> Vec<String> {
        let own = [
            Some(&self.latents),
            Some(&self.tail),
            self.continues.as_ref(),
        ];
        let own = own.into_iter().flatten().map(|blob| blob.blake3.clone());
        own.chain(keyframe_blobs(&self.keyframes)).collect()
    }
}

impl ReferencesRecord {
    /// Digests of the blobs that the record names.
    pub fn blobs(&self) -> Vec<String> {
        keyframe_blobs(&self.pictures).collect()
    }
}

fn keyframe_blobs(keyframes: &[KeyframeRecord]) -> impl Iterator<Item = String> {
    let blobs = keyframes
        .iter()
        .flat_map(|keyframe| [&keyframe.latents, &keyframe.embedding]);
    blobs.map(|blob| blob.blake3.clone())
}

/// A file of a story and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureRecord {
    /// Path relative to the story's folder.
    pub file: String,
    /// Content.
    #[serde(flatten)]
    pub content: BlobRef,
}

/// One picture in the memory of a shot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenRecord {
    /// The picture's file, relative to the story's folder.
    pub file: String,
    /// blake3 of the picture file.
    pub blake3: String,
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
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// Fingerprint of the engine.
    pub engine: String,
    /// The pictures in the order of the manifest.
    pub pictures: Vec<KeyframeRecord>,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

/// A record that carries its own digest.
pub trait Sealed: Serialize + for<'de> Deserialize<'de> + Clone {
    /// The version of the record's form.
    fn format(&self) -> u32;
    /// The field that holds the digest.
    fn digest_mut(&mut self) -> &mut String;

    /// Fills in the digest and returns the record as JSON.
    fn seal(&mut self) -> Result<Vec<u8>> {
        let digest = digest(self)?;
        *self.digest_mut() = digest;
        to_json(self)
    }

    /// Reads a record and checks format and digest; `path` is for messages.
    fn open(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut record: Self = serde_json::from_slice(bytes).map_err(|error| {
            newer(path, bytes, RECORD_FORMAT)
                .unwrap_or_else(|| MemoryError::damaged(path, format!("not a record: {error}")))
        })?;
        if record.format() != RECORD_FORMAT {
            let reason = format!("format {} was never written", record.format());
            let damaged = || MemoryError::damaged(path, reason);
            return Err(newer(path, bytes, RECORD_FORMAT).unwrap_or_else(damaged));
        }
        if !is_as_written(bytes, record.digest_mut()) {
            return Err(MemoryError::damaged(
                path,
                "the record was changed after it was written",
            ));
        }
        Ok(record)
    }
}

/// The error of a file whose `format` is a later one than `known`. What such a file may have besides,
/// nobody knows here: it is not damaged.
pub fn newer(path: &Path, bytes: &[u8], known: u32) -> Option<MemoryError> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let found = value.get("format")?.as_u64()?;
    (found > u64::from(known)).then(|| MemoryError::Newer {
        path: path.to_owned(),
        found,
        known,
    })
}

impl Sealed for CommitRecord {
    fn format(&self) -> u32 {
        self.format
    }

    fn digest_mut(&mut self) -> &mut String {
        &mut self.digest
    }
}

impl Sealed for ReferencesRecord {
    fn format(&self) -> u32 {
        self.format
    }

    fn digest_mut(&mut self) -> &mut String {
        &mut self.digest
    }
}

/// Whether the text of a record has the digest that it ends with. The bytes are looked at and not what they
/// say: a field that is away and one that says nothing are the same value.
fn is_as_written(bytes: &[u8], stored: &str) -> bool {
    let end = |digest: &str| format!("\"digest\": \"{digest}\"\n}}\n");
    let Some(rest) = bytes.strip_suffix(end(stored).as_bytes()) else {
        return false;
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(rest).update(end("").as_bytes());
    hasher.finalize().to_hex().as_str() == stored
}

fn digest(record: &impl Sealed) -> Result<String> {
    let mut copy = record.clone();
    copy.digest_mut().clear();
    Ok(blake3::hash(&to_json(&copy)?).to_hex().to_string())
}

fn to_json(record: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(record)
        .map_err(|error| MemoryError::damaged("a record to write", error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ledger::saved_step::{Basis, StepCheckpoint};
    use storyloom_story::{LoopState, Method, Opening, PassName, Seed, ShotId, StoryId, VideoSpec};

    pub(crate) fn record(shot: ShotId) -> CommitRecord {
        let story = StoryId::new("a").unwrap();
        CommitRecord {
            format: RECORD_FORMAT,
            request: ShotRequest {
                seed: Seed::derive(0, &story, shot, 0),
                story,
                shot,
                attempt: 0,
                method: Method::StoryMem,
                opening: Opening::Memory,
                prompt: "A mug.".to_owned(),
                video: VideoSpec {
                    width: 32,
                    height: 16,
                    frames: 5,
                    fps: 8,
                },
            },
            engine: "e".to_owned(),
            arithmetic: String::new(),
            memory_seen: vec![],
            continues: None,
            latents: BlobRef::of(b"latents"),
            frame_count: 5,
            frame_size: (32, 16),
            frames_blake3: BlobRef::of(b"frames").blake3,
            tail: BlobRef::of(b"tail"),
            video: PictureRecord {
                file: format!("{shot}.mp4"),
                content: BlobRef::of(b"video"),
            },
            selection: Selection {
                frames: vec![0],
                passes: 1,
                threshold: 0.9,
                best_quality: None,
            },
            keyframes: vec![KeyframeRecord {
                position: 0,
                frame: 0,
                quality: 4.125,
                picture: PictureRecord {
                    file: format!("keyframes/{shot}_keyframe0.png"),
                    content: BlobRef::of(b"png"),
                },
                latents: BlobRef::of(b"latent"),
                embedding: BlobRef::of(b"embedding"),
            }],
            seconds: BTreeMap::from([(Stage::Denoise, 1.0 / 3.0), (Stage::Decode, 0.1)]),
            previous: None,
            plan: None,
            digest: String::new(),
        }
    }

    proptest::proptest! {
        /// Every finite number comes back exactly, or a sound record would seem changed.
        #[test]
        fn any_timing_survives(seconds in 0.0_f64..1e6, quality in -10.0_f32..10.0) {
            let mut sealed = record(ShotId { scene: 1, shot: 1 });
            sealed.seconds.insert(Stage::Encode, seconds);
            sealed.keyframes[0].quality = quality;
            let bytes = sealed.seal().unwrap();
            proptest::prop_assert!(CommitRecord::open(Path::new("x"), &bytes).is_ok());
        }
    }

    /// It would be made again if it were taken for damaged.
    #[test]
    fn a_record_of_a_later_version_is_not_damaged() {
        let mut sealed = record(ShotId { scene: 1, shot: 2 });
        let text = String::from_utf8(sealed.seal().unwrap()).unwrap();
        let later = [
            text.replacen("\"format\": 1", "\"format\": 2", 1),
            text.replacen("\"format\": 1", "\"format\": 2, \"more\": []", 1),
        ];
        for later in later {
            let error = CommitRecord::open(Path::new("x"), later.as_bytes()).unwrap_err();
            assert!(
                matches!(error, MemoryError::Newer { found: 2, .. }),
                "{error}"
            );
            assert_eq!(error.class(), storyloom_story::ErrorClass::Run);
        }
        let never = text.replacen("\"format\": 1", "\"format\": 0", 1);
        let error = CommitRecord::open(Path::new("x"), never.as_bytes()).unwrap_err();
        assert!(matches!(error, MemoryError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_sealed_record_opens_and_a_changed_one_does_not() {
        let mut sealed = record(ShotId { scene: 1, shot: 2 });
        let bytes = sealed.seal().unwrap();
        let path = Path::new("01_02.json");
        assert_eq!(CommitRecord::open(path, &bytes).unwrap(), sealed);
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("A mug.", "A cup."),
            ("\"frame_count\": 5", "\"frame_count\": 6"),
            ("\"format\": 1", "\"format\": 2"),
            ("\"engine\"", "\"motor\""),
            ("  \"continues\": null,\n", ""),
            ("{\n", "{\n\n"),
            ("}", ""),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(
                CommitRecord::open(path, changed.as_bytes()).is_err(),
                "{from}"
            );
        }
    }

    /// Records on disk hold their digests: neither the recipe nor the bytes may change.
    #[test]
    fn digests_of_earlier_builds_stay() {
        let shot = ShotId { scene: 1, shot: 2 };
        let mut plain = record(shot);
        let mut full = CommitRecord {
            arithmetic: "cpu".to_owned(),
            continues: Some(BlobRef::of(b"tail")),
            previous: Some(BlobRef::of(b"before").blake3),
            plan: Some(BlobRef::of(b"plan").blake3),
            seconds: BTreeMap::from([(Stage::Denoise, 1.5), (Stage::Commit, 0.25)]),
            ..plain.clone()
        };
        let mut references = ReferencesRecord {
            format: RECORD_FORMAT,
            engine: "e".to_owned(),
            pictures: plain.keyframes.clone(),
            digest: String::new(),
        };
        let basis = Basis {
            request: plain.request.clone(),
            engine: "e".to_owned(),
            memory_seen: Vec::new(),
            continues: None,
            previous: None,
        };
        let state = LoopState {
            pass: PassName::SHOT,
            done: 3,
            total: 8,
            order: 2,
            arrays: BTreeMap::new(),
        };
        let mut step = StepCheckpoint::new(basis, &state, BlobRef::of(b"arrays"));
        let sealed = [
            plain.seal().unwrap(),
            full.seal().unwrap(),
            references.seal().unwrap(),
            step.seal().unwrap(),
        ];
        let digests = [plain.digest, full.digest, references.digest, step.digest];
        assert_eq!(
            digests,
            [
                "ce9cb6673629b536e8db37b9a916c605f6a823bdcaa6f1652228190be6aa8616",
                "af1d717a0aa0f38c8d9e4f6c49edc6e0766c1e41ccde24b8451c10dcab73a2dd",
                "4edda096a6d006d3f6a3d67b98871447c2e0d8a1f02fcc62c16602fd05918650",
                "0a5c9cae9fdfd0d77618007364230804d0c0d84cf7e48146c532a0d99f7702ff"
            ]
        );
        let bytes = sealed.map(|bytes| BlobRef::of(&bytes).blake3);
        assert_eq!(
            bytes,
            [
                "8851ce27f02f65560ea6028be3da9bf0a03490603f68c5a905f2dd839abc9fd5",
                "944c966bfd2b1775bae1e25ac49c1ebe92f676b4712441fa33367e36b436bc2d",
                "ce3fd41d81b5a20ac3b3a67fa271ad62a950bb8db29b1de95e20ea94756e0472",
                "b9b5e08c006ccd1b8f3d64b04b63d53c93cac9d0671da3fd33d0dd26242e69dd"
            ]
        );
    }
}
