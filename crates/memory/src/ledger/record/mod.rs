//! The record that makes a shot exist.
//!
//! Each kind of file has a format of its own. Of commit records and of those of reference images there are
//! two: [`v1`], which StoryMem writes, and [`v2`] for methods that do not fit it. A story has records of one
//! format only. [`ShotRecord`] and [`References`] show both alike.

/// A record with the fields `format` and `digest`, of this format.
macro_rules! digested {
    ($record:ty, $format:expr) => {
        impl $crate::ledger::record::DigestedRecord for $record {
            const FORMAT: u32 = $format;

            fn format(&self) -> u32 {
                self.format
            }

            fn digest_mut(&mut self) -> &mut String {
                &mut self.digest
            }
        }
    };
}

mod either;
pub mod v1;
pub mod v2;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_story::{MemoryFrame, ShotId};

use crate::error::{MemoryError, Result};
use crate::ledger::blobs::BlobRef;

pub(crate) use digested;
pub use either::{PassView, References, ShotRecord};

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

/// One item in the memory of a shot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenRecord {
    /// The file of its picture, relative to the story's folder; of an item without one, its
    /// [name](MemoryItem::name).
    pub file: String,
    /// blake3 of the picture file; of an item without one, over the names and contents of its arrays.
    pub blake3: String,
}

/// What a story remembers of one shot or reference image: a picture, arrays, or both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryItem {
    /// Its number among what was chosen of its shot, from 0; gaps are frames that were too similar to what
    /// was there.
    pub number: u32,
    /// The frame of the shot that it shows; `None` where it stands for the whole shot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<u32>,
    /// Its quality score, where the method asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<f32>,
    /// Its PNG file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<PictureRecord>,
    /// What networks see of it, by name.
    pub arrays: BTreeMap<String, BlobRef>,
}

impl MemoryItem {
    /// What an item without a picture is called; `shot` is where it came from, `None` for a reference image.
    pub fn name(&self, shot: Option<ShotId>) -> String {
        match shot {
            Some(shot) => format!("{shot}#{}", self.number),
            None => format!("references#{}", self.number),
        }
    }

    /// The latents of a ready-made first shot, if it is one.
    pub fn first_shot(&self) -> Option<&BlobRef> {
        self.arrays.get(MemoryFrame::FIRST_SHOT)
    }

    /// How a shot that sees it records it.
    pub fn seen(&self, shot: Option<ShotId>) -> SeenRecord {
        match &self.picture {
            Some(picture) => SeenRecord {
                file: picture.file.clone(),
                blake3: picture.content.blake3.clone(),
            },
            None => SeenRecord {
                file: self.name(shot),
                blake3: self.arrays_digest(),
            },
        }
    }

    fn arrays_digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, blob) in &self.arrays {
            hasher.update(name.as_bytes()).update(b"\0");
            hasher.update(blob.blake3.as_bytes()).update(b"\0");
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// A record that carries its own digest.
pub trait DigestedRecord: Serialize + for<'de> Deserialize<'de> + Clone {
    /// The format of this kind of record.
    const FORMAT: u32;

    /// The format that the record says it has.
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
            newer(path, bytes, Self::FORMAT)
                .unwrap_or_else(|| MemoryError::damaged(path, format!("not a record: {error}")))
        })?;
        if record.format() != Self::FORMAT {
            let reason = format!("format {} was never written", record.format());
            let damaged = || MemoryError::damaged(path, reason);
            return Err(newer(path, bytes, Self::FORMAT).unwrap_or_else(damaged));
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

fn digest(record: &impl DigestedRecord) -> Result<String> {
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
    use super::v1::{CommitRecord, KeyframeRecord, ReferencesRecord};
    use super::*;
    use crate::ledger::saved_step::{Basis, StepCheckpoint};
    use crate::policy::storymem::select::Selection;
    use proptest::prelude::*;
    use storyloom_story::{
        LoopState, Method, Opening, PassName, Seed, ShotRequest, Stage, StoryId, VideoSpec,
    };

    pub(crate) fn record(shot: ShotId) -> CommitRecord {
        let story = StoryId::new("a").unwrap();
        CommitRecord {
            format: v1::FORMAT,
            request: ShotRequest {
                seed: Seed::derive(0, &story, shot, 0),
                story,
                shot,
                attempt: 0,
                method: Method::StoryMem,
                opening: Opening::Memory,
                prompt: "A mug.".to_owned(),
                related: Vec::new(),
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

    /// The record of a shot in two passes that has kept an item without a picture.
    pub(crate) fn record_2(shot: ShotId) -> v2::CommitRecord {
        let first = record(shot);
        let pass = |pass, content: &[u8]| v2::PassRecord {
            pass,
            latents: BlobRef::of(content),
            frame_count: 5,
            frame_size: (32, 16),
            frames_blake3: BlobRef::of(b"frames").blake3,
        };
        v2::CommitRecord {
            format: v2::FORMAT,
            request: ShotRequest {
                method: Method::MovieDreamer,
                ..first.request
            },
            engine: first.engine,
            arithmetic: String::new(),
            seen: vec![],
            earlier: vec![pass(PassName::new("keyframe"), b"keyframe")],
            made: pass(PassName::new("clip"), b"latents"),
            file: first.video,
            kept: vec![MemoryItem {
                number: 0,
                frame: None,
                quality: None,
                picture: None,
                arrays: BTreeMap::from([("tokens".to_owned(), BlobRef::of(b"tokens"))]),
            }],
            method: v2::MethodRecord::MovieDreamer {},
            seconds: BTreeMap::from([(Stage::Denoise, 1.0 / 3.0)]),
            previous: None,
            plan: None,
            digest: String::new(),
        }
    }

    fn item() -> impl Strategy<Value = MemoryItem> {
        let arrays = proptest::collection::btree_map("[a-z.]{1,8}", any::<[u8; 4]>(), 0..4);
        let picture = proptest::option::of("[a-z]{1,6}.png");
        let numbers = (
            0_u32..9,
            proptest::option::of(0_u32..99),
            proptest::option::of(-9.0_f32..9.0),
        );
        (numbers, picture, arrays).prop_map(|((number, frame, quality), picture, arrays)| {
            let picture = picture.map(|file| PictureRecord {
                content: BlobRef::of(file.as_bytes()),
                file,
            });
            let arrays = arrays.into_iter();
            MemoryItem {
                number,
                frame,
                quality,
                picture,
                arrays: arrays
                    .map(|(name, bytes)| (name, BlobRef::of(&bytes)))
                    .collect(),
            }
        })
    }

    proptest::proptest! {
        /// Whatever a method of format 2 keeps, sees and says of itself.
        #[test]
        fn any_record_of_format_2_survives(
            kept in proptest::collection::vec(item(), 0..4),
            seen in proptest::collection::vec("[a-z0-9#_]{1,9}", 0..4),
            offered in 0_u32..99,
            which in 0_usize..3,
            seconds in 0.0_f64..1e6,
        ) {
            let parts = [
                v2::MethodRecord::OneStory { offered },
                v2::MethodRecord::NarrativeWeaver {},
                v2::MethodRecord::MovieDreamer {},
            ];
            let mut sealed = record_2(ShotId { scene: 1, shot: 1 });
            sealed.kept = kept;
            let seen = seen.into_iter();
            sealed.seen = seen
                .map(|file| SeenRecord { blake3: BlobRef::of(file.as_bytes()).blake3, file })
                .collect();
            sealed.method = parts[which].clone();
            sealed.request.method = sealed.method.method();
            sealed.seconds.insert(Stage::Encode, seconds);
            let mut record = ShotRecord::V2(sealed);
            let bytes = record.seal().unwrap();
            prop_assert_eq!(&ShotRecord::open(Path::new("x"), &bytes).unwrap(), &record);
            let names: Vec<String> = record.named().blobs.iter().map(|blob| blob.blake3.clone()).collect();
            prop_assert_eq!(names, record.blobs());
        }

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

    /// A reader of a story need not know which format it has.
    #[test]
    fn both_formats_open_as_one_and_a_third_is_newer() {
        let (path, shot) = (Path::new("x"), ShotId { scene: 1, shot: 2 });
        for record in [ShotRecord::V1(record(shot)), ShotRecord::V2(record_2(shot))] {
            let mut record = record;
            let bytes = record.seal().unwrap();
            assert_eq!(ShotRecord::open(path, &bytes).unwrap(), record);
            let text = String::from_utf8(bytes).unwrap();
            let (now, other) = match record.format() {
                1 => ("\"format\": 1", "\"format\": 2"),
                _ => ("\"format\": 2", "\"format\": 1"),
            };
            let changed = text.replacen(now, other, 1);
            let error = ShotRecord::open(path, changed.as_bytes()).unwrap_err();
            assert!(matches!(error, MemoryError::Damaged { .. }), "{error}");
            let later = text.replacen(now, "\"format\": 3, \"more\": []", 1);
            let error = ShotRecord::open(path, later.as_bytes()).unwrap_err();
            let is_newer = matches!(
                error,
                MemoryError::Newer {
                    found: 3,
                    known: 2,
                    ..
                }
            );
            assert!(is_newer, "{error}");
        }
    }

    /// A story never mixes formats: a method has one.
    #[test]
    fn a_record_has_the_format_and_the_part_of_its_method() {
        let (path, shot) = (Path::new("x"), ShotId { scene: 1, shot: 2 });
        let open = |mut record: ShotRecord| {
            let bytes = record.seal().unwrap();
            ShotRecord::open(path, &bytes)
        };
        let refused = |record| {
            let error = open(record).unwrap_err();
            assert!(matches!(error, MemoryError::Damaged { .. }), "{error}");
        };
        let mut first = record(shot);
        first.request.method = Method::OneStory;
        refused(ShotRecord::V1(first));
        let mut second = record_2(shot);
        second.request.method = Method::StoryMem;
        refused(ShotRecord::V2(second.clone()));
        second.request.method = Method::OneStory;
        refused(ShotRecord::V2(second.clone()));
        second.method = v2::MethodRecord::OneStory { offered: 3 };
        assert!(open(ShotRecord::V2(second)).is_ok());
    }

    #[test]
    fn format_2_knows_its_own_fields_only() {
        let mut sealed = record_2(ShotId { scene: 1, shot: 2 });
        let text = String::from_utf8(sealed.seal().unwrap()).unwrap();
        for (from, to) in [
            (
                "\"name\": \"moviedreamer\"",
                "\"name\": \"moviedreamer\", \"more\": 1",
            ),
            ("\"name\": \"moviedreamer\"", "\"name\": \"fifth\""),
            ("\"arrays\"", "\"fields\""),
            ("\"made\"", "\"shot\""),
            ("\"tokens\"", "\"latents\""),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let opened = v2::CommitRecord::open(Path::new("x"), changed.as_bytes());
            assert!(opened.is_err(), "{to}");
        }
    }

    /// What is seen of an item without a picture are its arrays.
    #[test]
    fn an_item_without_a_picture_has_a_name_and_a_digest_of_its_own() {
        let shot = ShotId { scene: 1, shot: 2 };
        let item = &record_2(shot).kept[0];
        let seen = item.seen(Some(shot));
        assert_eq!((seen.file.as_str(), seen.blake3.len()), ("01_02#0", 64));
        let mut other = item.clone();
        other.arrays.insert("tokens".to_owned(), BlobRef::of(b"x"));
        assert_ne!(other.seen(Some(shot)).blake3, seen.blake3);
        assert_eq!(item.seen(None).file, "references#0");
        let keyframe = record(shot).keyframes[0].item();
        assert_eq!(
            keyframe.seen(Some(shot)).file,
            "keyframes/01_02_keyframe0.png"
        );
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
            format: v1::FORMAT,
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
