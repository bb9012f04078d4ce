//! What `storyloom plan` has planned so far: one record per brief, in a folder beside the manifest
//! that will come of them. A plan that is not recorded does not exist.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use storyloom_memory::{Disk, Storage};
use storyloom_planner::{PlannedScript, PlannerDescription};
use storyloom_story::{Brief, StoryId};

use crate::exit::{Exit, Failure};

/// Version of the records.
const FORMAT: u32 = 1;

/// Everything that decides a plan besides its brief.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The planner.
    pub planner: PlannerDescription,
    /// The seed of the run, or the brief's own.
    pub run_seed: u64,
    /// SHA-256 of the picture that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_sha256: Option<String>,
}

impl Recipe {
    /// Whether a plan by `before` is one by this recipe.
    fn covers(&self, before: &Self) -> bool {
        self.planner.continues(&before.planner)
            && self.run_seed == before.run_seed
            && self.picture_sha256 == before.picture_sha256
    }
}

/// One brief and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanRecord {
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

impl PlanRecord {
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
pub struct Plans {
    folder: PathBuf,
    /// Closing it gives the lock back, also when this program is killed.
    _lock: File,
}

impl Plans {
    /// The folder of the records for the manifest `out`: `M.jsonl.plans`.
    pub fn folder_of(out: &Path) -> PathBuf {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".plans");
        out.with_file_name(name)
    }

    /// Takes the records of the manifest `out`.
    ///
    /// # Errors
    /// Another program has them, or the folder cannot be written to.
    pub fn take(out: &Path) -> Result<Self, Failure> {
        let folder = Self::folder_of(out);
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Storage, format!("{}: {error}", folder.display()))
        };
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(folder.join("lock"))
            .map_err(failed)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error == rustix::io::Errno::WOULDBLOCK {
                let message = format!("another program is planning {}", out.display());
                return Err(Failure::new(Exit::Stopped, message));
            }
            // A file system without locks: two programs would only do the same work twice.
            tracing::warn!("{} cannot be locked: {error}", folder.display());
        }
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    fn path(&self, id: &StoryId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// The record of a brief, if there is one that can be read and is of exactly this brief and
    /// recipe. Plans of earlier rules stay; what those could not plan is tried again.
    pub fn find(&self, brief: &Brief, recipe: &Recipe) -> Option<PlanRecord> {
        let path = self.path(&brief.id);
        let bytes = fs::read(&path).ok()?;
        let record: PlanRecord = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!("{}: {error}; planned again", path.display());
                return None;
            }
        };
        let planned = matches!(record.outcome, Outcome::Planned(_));
        let by_same = record.recipe == *recipe || planned && recipe.covers(&record.recipe);
        let same = record.format == FORMAT && record.brief == *brief && by_same;
        if !same {
            tracing::info!(
                "{}: the brief or the settings changed; planned again",
                brief.id
            );
        }
        same.then_some(record)
    }

    /// Writes a record durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, record: &PlanRecord) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        let path = self.path(&record.brief.id);
        Disk.write(&path, &bytes)
            .map_err(|error| Failure::new(Exit::Storage, error))
    }
}

#[cfg(test)]
mod tests {
    use storyloom_pictures::{Limits, PictureFolder};
    use storyloom_planner::{Planner, PlannerSettings};

    use super::*;

    fn record() -> PlanRecord {
        let images = PictureFolder::new(".", Limits::default());
        let recipe = Recipe {
            planner: Planner::of_rules(PlannerSettings::new(images)).describe(),
            run_seed: u64::MAX,
            picture_sha256: None,
        };
        let brief = Brief::new(StoryId::new("a").unwrap());
        let outcome = Outcome::Quarantined {
            reason: "no".to_owned(),
            raw: "x".to_owned(),
        };
        PlanRecord::new(brief, recipe, 1, u64::MAX - 1, outcome)
    }

    #[test]
    fn a_record_is_found_for_its_brief_and_recipe_only() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m.jsonl");
        let plans = Plans::take(&out).unwrap();
        let record = record();
        plans.store(&record).unwrap();
        let PlanRecord { brief, recipe, .. } = &record;
        assert_eq!(plans.find(brief, recipe).as_ref(), Some(&record));
        let other = Brief {
            shots: 3,
            ..brief.clone()
        };
        assert_eq!(plans.find(&other, recipe), None);
        let reseeded = Recipe {
            run_seed: 1,
            ..recipe.clone()
        };
        assert_eq!(plans.find(brief, &reseeded), None);
        fs::write(plans.path(&brief.id), b"{\"form").unwrap();
        assert_eq!(plans.find(brief, recipe), None);
    }

    #[test]
    fn one_program_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m.jsonl");
        let first = Plans::take(&out).unwrap();
        assert_eq!(Plans::take(&out).unwrap_err().exit, Exit::Stopped);
        drop(first);
        assert!(Plans::take(&out).is_ok());
    }
}
