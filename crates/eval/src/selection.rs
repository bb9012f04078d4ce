//! Which latent frames the shots of a run of OneStory saw.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use storyloom_memory::arrays::LATENTS;
use storyloom_memory::{BlobRef, BlobStore, Disk, ShotRecord};
use storyloom_story::onestory::{Budget, History, Plane, SELECT, SeenFrame};
use storyloom_story::{HostTensor, Method, ShotId};
use storyloom_tinyworld::Story;
use storyloom_training::json;

use super::EvalError;

/// What a network chose for a shot.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Latent frames of each earlier shot, oldest first.
    pub history: Vec<usize>,
    /// What it chose of them, in the order of time; shots and frames are counted from 0.
    pub frames: Vec<SeenFrame>,
}

/// The part of `run.json` that matters here.
#[derive(Deserialize)]
struct RunFile {
    #[serde(default)]
    methods: BTreeMap<Method, Terms>,
}

#[derive(Deserialize)]
struct Terms {
    memory: Memory,
}

/// The part of the settings of its memory that decides how many frames a shot sees.
#[derive(Deserialize)]
struct Memory {
    #[serde(default)]
    budget: Budget,
}

/// Reads what was chosen in the run of a folder.
pub(crate) struct Selections<'a> {
    folder: &'a Path,
    blobs: BlobStore,
    /// What shots may see; `None` of a run in which no network chooses frames.
    budget: Option<Budget>,
}

impl<'a> Selections<'a> {
    /// Those of the run in `folder`; none where no file says what its run is.
    pub fn of(folder: &'a Path) -> Result<Self, EvalError> {
        let path = folder.join("run.json");
        let run: Option<RunFile> = match path.is_file() {
            true => Some(json::read(&path)?),
            false => None,
        };
        let budget = run.and_then(|run| Some(run.methods.get(&Method::OneStory)?.memory.budget));
        Ok(Self {
            folder,
            blobs: BlobStore::new(folder.join("blobs"), Arc::new(Disk)),
            budget,
        })
    }

    /// For each shot of a story what was chosen; `None` of a shot that was not made or chose nothing.
    pub fn story(&self, story: &Story) -> Result<Vec<Option<Selection>>, EvalError> {
        let mut selections = vec![None; story.shots.len()];
        let Some(budget) = self.budget else {
            return Ok(selections);
        };
        let mut history = Vec::new();
        for (selection, (shot, _)) in selections.iter_mut().zip(story.script().shots()) {
            let Some(record) = self.record(story, shot)? else {
                break;
            };
            let failed = |reason: &dyn Display| EvalError::Selection {
                folder: self.folder.to_owned(),
                story: story.id.to_string(),
                shot,
                reason: reason.to_string(),
            };
            let kept = self.kept(&record).map_err(|error| failed(&error))?;
            let Some((frames, plane)) = kept else {
                return Err(failed(
                    &"its record names no latents that later shots could see",
                ));
            };
            if !history.is_empty() {
                let chosen = self.chosen(&record, budget, &history, plane);
                *selection = chosen.map_err(|reason| failed(&reason))?;
            }
            history.push(frames);
        }
        Ok(selections)
    }

    fn record(&self, story: &Story, shot: ShotId) -> Result<Option<ShotRecord>, EvalError> {
        let commits = self
            .folder
            .join("stories")
            .join(story.id.as_str())
            .join("commits");
        let path = commits.join(format!("{shot}.json"));
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(ShotRecord::open(&path, &bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(storyloom_training::error::TrainError::io(&path, error).into()),
        }
    }

    /// Latent frames of what is kept of a shot, and their rows and columns.
    fn kept(&self, record: &ShotRecord) -> storyloom_memory::Result<Option<(usize, Plane)>> {
        let kept = record.kept();
        let Some(blob) = kept.first().and_then(|item| item.arrays.get(LATENTS)) else {
            return Ok(None);
        };
        let latents = self.array(blob)?;
        Ok(match latents.shape() {
            &[_, frames, rows, columns] => Some((frames, [rows as u32, columns as u32])),
            _ => None,
        })
    }

    fn chosen(
        &self,
        record: &ShotRecord,
        budget: Budget,
        history: &[usize],
        plane: Plane,
    ) -> Result<Option<Selection>, String> {
        let passes = record.passes();
        let Some(pass) = passes.iter().find(|pass| pass.pass == SELECT) else {
            return Ok(None);
        };
        let scores = self
            .array(pass.latents)
            .map_err(|error| error.to_string())?;
        let offered = History {
            references: 0,
            shots: history.to_vec(),
        };
        let choice = offered
            .choose(&scores, budget, plane)
            .map_err(|error| error.to_string())?;
        Ok(Some(Selection {
            history: offered.shots,
            frames: choice.frames,
        }))
    }

    fn array(&self, blob: &BlobRef) -> storyloom_memory::Result<HostTensor> {
        self.blobs.array(blob)
    }
}

#[cfg(test)]
mod tests {
    use storyloom_memory::ledger::record::v2::{self, CommitRecord, MethodRecord, PassRecord};
    use storyloom_memory::{MemoryItem, PictureRecord, arrays::encode_array};
    use storyloom_story::onestory::{Kernel, scores_table};
    use storyloom_story::{Opening, PassName, Seed, ShotRequest, VideoSpec};
    use storyloom_tinyworld::{Outline, Pattern, Split};

    use super::*;

    const VIDEO: VideoSpec = VideoSpec {
        width: 160,
        height: 96,
        frames: 9,
        fps: 8,
    };

    fn pass(pass: PassName, latents: BlobRef) -> PassRecord {
        PassRecord {
            pass,
            latents,
            frame_count: 9,
            frame_size: (160, 96),
            frames_blake3: String::new(),
        }
    }

    /// A run of one story whose shots keep three latent frames of 12x20 each; the network finds a frame the more
    /// relevant, the older it is.
    fn write_run(folder: &Path, story: &Story, budget: &str) {
        let blobs = BlobStore::new(folder.join("blobs"), Arc::new(Disk));
        let put = |array: &HostTensor| blobs.put(&encode_array(array).unwrap()).unwrap();
        let commits = folder
            .join("stories")
            .join(story.id.as_str())
            .join("commits");
        std::fs::create_dir_all(&commits).unwrap();
        let run = format!(
            r#"{{"methods": {{"onestory": {{"memory": {{"method": "onestory", "at_most": 8, "budget": {budget}}}}}}}}}"#
        );
        std::fs::write(folder.join("run.json"), run).unwrap();
        let latents =
            put(&HostTensor::new(vec![8, 3, 12, 20], vec![0.25; 8 * 3 * 12 * 20]).unwrap());
        for (earlier, (shot, script)) in story.script().shots().enumerate() {
            let scores = (0..3 * earlier).map(|frame| 1.0 / (1.0 + frame as f32));
            let scores = put(&scores_table(scores.collect()));
            let record = CommitRecord {
                format: v2::FORMAT,
                request: ShotRequest {
                    story: story.id.clone(),
                    shot,
                    attempt: 0,
                    seed: Seed::derive(0, &story.id, shot, 0),
                    method: Method::OneStory,
                    opening: Opening::Memory,
                    prompt: script.prompt.clone(),
                    video: VIDEO,
                },
                engine: "e".to_owned(),
                arithmetic: String::new(),
                seen: Vec::new(),
                earlier: vec![pass(SELECT, scores)],
                made: pass(PassName::SHOT, latents.clone()),
                file: PictureRecord {
                    file: format!("{shot}.mp4"),
                    content: BlobRef::of(b"video"),
                },
                kept: vec![MemoryItem {
                    number: 0,
                    frame: None,
                    quality: None,
                    picture: None,
                    arrays: BTreeMap::from([(LATENTS.to_owned(), latents.clone())]),
                }],
                method: MethodRecord::OneStory {
                    offered: earlier as u32,
                },
                seconds: BTreeMap::new(),
                previous: None,
                plan: None,
                digest: String::new(),
            };
            let mut record = ShotRecord::V2(record);
            std::fs::write(commits.join(format!("{shot}.json")), record.seal().unwrap()).unwrap();
        }
    }

    fn recall() -> Story {
        Outline::of(Pattern::InsertRecall).draw(2, Split::HeldOut)
    }

    #[test]
    fn what_a_shot_saw_follows_from_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let story = recall();
        write_run(folder.path(), &story, r#"{"units": 1}"#);
        let selections = Selections::of(folder.path())
            .unwrap()
            .story(&story)
            .unwrap();
        assert_eq!(selections[0], None);
        let counts: Vec<usize> = selections
            .iter()
            .flatten()
            .map(|it| it.frames.len())
            .collect();
        // 60 tokens: three frames of 15 and two of 6.
        assert_eq!(counts, [3, 5, 5, 5, 5]);
        let last = selections[5].as_ref().unwrap();
        assert_eq!(last.history, [3; 5]);
        let found: Vec<_> = last
            .frames
            .iter()
            .map(|it| (it.shot, it.frame, it.kernel))
            .collect();
        let expected = [
            (0, 0, Kernel::P4),
            (0, 1, Kernel::P4),
            (0, 2, Kernel::P4),
            (1, 0, Kernel::P8),
            (1, 1, Kernel::P8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_budget_of_nothing_sees_nothing_and_other_runs_choose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let story = recall();
        write_run(folder.path(), &story, r#"{"units": 0}"#);
        let read = || {
            Selections::of(folder.path())
                .unwrap()
                .story(&story)
                .unwrap()
        };
        assert!(read().iter().flatten().all(|it| it.frames.is_empty()));
        assert_eq!(read().iter().flatten().count(), 5);
        std::fs::write(folder.path().join("run.json"), "{}").unwrap();
        assert!(read().iter().all(Option::is_none));
    }

    #[test]
    fn what_does_not_fit_is_told_with_story_and_shot() {
        let folder = tempfile::tempdir().unwrap();
        let story = recall();
        write_run(
            folder.path(),
            &story,
            r#"{"units": 1, "counts": [0, 5, 0, 0]}"#,
        );
        let error = Selections::of(folder.path())
            .unwrap()
            .story(&story)
            .unwrap_err();
        let said = error.to_string();
        let (second, _) = story.script().shots().nth(1).unwrap();
        assert!(
            matches!(error, EvalError::Selection { shot, .. } if shot == second),
            "{said}"
        );
        assert!(
            said.contains(story.id.as_str()) && said.contains("75 tokens"),
            "{said}"
        );
    }
}
