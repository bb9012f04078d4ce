//! What was planned for a manifest so far: one record per brief, in a folder beside the manifest that
//! will come of them. A plan that is not recorded does not exist.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storyloom_memory::{Disk, MemoryError, Storage};
use storyloom_story::{Brief, PlannedScript, StoryId};

use super::{PlannerDescription, StoryPlanner};
use crate::error::RunError;

/// Version of the records.
const FORMAT: u32 = 1;

/// Everything that decides a plan besides its brief.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The planner, as its back end has it.
    pub planner: serde_json::Value,
    /// The seed of the run, or the brief's own.
    pub run_seed: u64,
    /// SHA-256 of the picture that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_sha256: Option<String>,
}

impl Recipe {
    /// Whether a plan by `before` is one by this recipe of `planner`.
    fn covers(&self, before: &Self, planner: &dyn StoryPlanner) -> bool {
        let now = planner.describe();
        let theirs = PlannerDescription {
            backend: now.backend.clone(),
            recipe: before.planner.clone(),
        };
        (now.is_same_as(&theirs) || planner.continues(&theirs))
            && self.run_seed == before.run_seed
            && self.picture_sha256 == before.picture_sha256
    }
}

/// One brief and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// [`FORMAT`].
    format: u32,
    /// What was asked for.
    pub brief: Brief,
    /// How it was planned.
    pub recipe: Recipe,
    /// The attempt that settled it, from 0.
    pub attempt: u32,
    /// The seed of that attempt.
    pub seed: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a brief.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A script.
    Planned(Box<PlannedScript>),
    /// No script, after all attempts.
    Quarantined {
        /// Why.
        reason: String,
        /// What the model said in the last attempt.
        raw: String,
    },
}

impl Kept {
    /// A record of this version.
    pub fn new(brief: Brief, recipe: Recipe, attempt: u32, seed: u64, outcome: Outcome) -> Self {
        Self {
            format: FORMAT,
            brief,
            recipe,
            attempt,
            seed,
            outcome,
        }
    }
}

/// The records of one manifest; nobody else writes to them as long as this lives.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    /// Closing it gives the lock back, also when this program is killed.
    _lock: File,
}

impl Shelf {
    /// The folder of the records for the manifest `out`: `M.jsonl.plans`.
    pub fn folder_of(out: &Path) -> PathBuf {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".plans");
        out.with_file_name(name)
    }

    /// Takes the records of the manifest `out`; none if another program has them.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn take(out: &Path) -> Result<Option<Self>, RunError> {
        let folder = Self::folder_of(out);
        let failed = |action| {
            let folder = folder.clone();
            move |error| MemoryError::storage(action, folder, error)
        };
        fs::create_dir_all(&folder).map_err(failed("create the folder"))?;
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(folder.join("lock"))
            .map_err(failed("write to"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                // A file system without locks: two programs would only do the same work twice.
                tracing::warn!("{} cannot be locked: {error}", folder.display());
            }
        }
        Ok(Some(Self {
            folder,
            _lock: lock,
        }))
    }

    fn path(&self, id: &StoryId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// The record of a brief, if there is one that can be read and is of exactly this brief and
    /// recipe. Plans of earlier rules stay, as those of a model that was served elsewhere; what those
    /// could not plan is tried again.
    pub fn find(&self, brief: &Brief, recipe: &Recipe, planner: &dyn StoryPlanner) -> Option<Kept> {
        let path = self.path(&brief.id);
        let bytes = fs::read(&path).ok()?;
        let record: Kept = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!("{}: {error}; planned again", path.display());
                return None;
            }
        };
        let planned = matches!(record.outcome, Outcome::Planned(_));
        let by_same = record.recipe == *recipe || planned && recipe.covers(&record.recipe, planner);
        let same = record.format == FORMAT && scripted(&record.brief) == scripted(brief) && by_same;
        if !same {
            tracing::info!(
                "{}: the brief or the settings changed; planned again",
                brief.id
            );
        }
        same.then(|| Kept {
            brief: brief.clone(),
            ..record
        })
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, record: &Kept) -> Result<(), RunError> {
        // Plain data into memory: this does not fail.
        let bytes = serde_json::to_vec_pretty(record).unwrap_or_default();
        Ok(Disk.write(&self.path(&record.brief.id), &bytes)?)
    }
}

/// A brief without the method, which decides how its shots are made and nothing of its script.
fn scripted(brief: &Brief) -> Brief {
    Brief {
        method: None,
        ..brief.clone()
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::Method;

    use super::*;
    use crate::testing::planner::SimulatedPlanner;

    fn record() -> Kept {
        let recipe = Recipe {
            planner: SimulatedPlanner::default().describe().recipe,
            run_seed: u64::MAX,
            picture_sha256: None,
        };
        let brief = Brief::new(StoryId::new("a").unwrap());
        let outcome = Outcome::Quarantined {
            reason: "no".to_owned(),
            raw: "x".to_owned(),
        };
        Kept::new(brief, recipe, 1, u64::MAX - 1, outcome)
    }

    #[test]
    fn a_record_is_found_for_its_brief_and_recipe_only() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::take(&folder.path().join("m.jsonl"))
            .unwrap()
            .unwrap();
        let (record, planner) = (record(), SimulatedPlanner::default());
        shelf.store(&record).unwrap();
        let Kept { brief, recipe, .. } = &record;
        let find = |brief: &Brief, recipe: &Recipe| shelf.find(brief, recipe, &planner);
        assert_eq!(find(brief, recipe).as_ref(), Some(&record));
        let named = Brief {
            method: Some(Method::StoryMem),
            ..brief.clone()
        };
        assert_eq!(find(&named, recipe).unwrap().brief, named);
        let other = Brief {
            shots: 3,
            ..brief.clone()
        };
        assert_eq!(find(&other, recipe), None);
        let reseeded = Recipe {
            run_seed: 1,
            ..recipe.clone()
        };
        assert_eq!(find(brief, &reseeded), None);
        fs::write(shelf.path(&brief.id), b"{\"form").unwrap();
        assert_eq!(find(brief, recipe), None);
    }

    /// As an earlier build wrote it.
    #[test]
    fn records_of_earlier_builds_are_read() {
        let text = r#"{"format": 1, "brief": {"id": "a", "title": "Kettle"},
            "recipe": {"planner": {"backend": "rules", "rules": 1, "repairs": 0, "prompt_chars": 1200},
                       "run_seed": 7},
            "attempt": 0, "seed": 9,
            "outcome": {"planned": {"script": {"scenes": []}, "raw": "", "repairs": 0, "notes": ["n"],
                                    "tokens": {"prompt": 1, "completion": 2}}}}"#;
        let kept: Kept = serde_json::from_str(text).unwrap();
        let Outcome::Planned(planned) = kept.outcome else {
            panic!("it was planned")
        };
        assert_eq!((planned.tokens.prompt, planned.notes.len()), (1, 1));
    }

    #[test]
    fn one_program_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m.jsonl");
        let first = Shelf::take(&out).unwrap().unwrap();
        assert!(Shelf::take(&out).unwrap().is_none());
        drop(first);
        assert!(Shelf::take(&out).unwrap().is_some());
    }
}
