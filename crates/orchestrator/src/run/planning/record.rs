//! `plan.json`: the plan of a story, created once.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use storyloom_memory::ledger::record::RECORD_FORMAT;
use storyloom_memory::storage::move_aside;
use storyloom_memory::{MemoryError, Sealed};
use storyloom_story::{
    Brief, PlanError, PlanRequest, PlannedScript, Seed, StoryId, StoryScript, parse_script,
};

use super::PlannerDescription;
use crate::error::RunError;
use crate::folder::run_folder::RunFolder;
use crate::view::status::read_record;

/// `plan.json`: the plan of a story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRecord {
    /// Version of the record's form.
    pub format: u32,
    /// The story.
    pub story: StoryId,
    /// Digest of the brief, see [`brief_digest`].
    pub brief: String,
    /// Who planned it.
    pub planner: PlannerDescription,
    /// Which attempt it was, from 0.
    pub attempt: u32,
    /// Its seed.
    pub seed: Seed,
    /// The script.
    pub script: StoryScript,
    /// Prompt of a picture of the product or the main character, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// SHA-256 of the picture of the product, as it was read for a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// What the model wrote.
    pub text: String,
    /// Times it was asked to mend that.
    pub repairs: u32,
    /// What was mended without it, and what of the brief was not used.
    pub notes: Vec<String>,
    /// How the model was asked otherwise than the recipe says, since its server takes no other
    /// question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departures: Vec<String>,
    /// Tokens that it read.
    pub tokens_read: u64,
    /// Tokens that it wrote.
    pub tokens: u64,
    /// How long it took from the beginning of its batch; of earlier builds, how long the batch took.
    pub seconds: f64,
    /// Stories of its batch.
    pub batch: u32,
    /// Of a plan whose record was lost after shots had been made from it: the digest of that record, which
    /// the shots name. This one has the script as `story.json` had kept it, and nothing else of the old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

impl Sealed for PlanRecord {
    fn format(&self) -> u32 {
        self.format
    }

    fn digest_mut(&mut self) -> &mut String {
        &mut self.digest
    }
}

impl PlanRecord {
    /// The record of a plan that was there so many seconds after its batch of so many stories was begun;
    /// not sealed yet.
    pub(crate) fn new(
        request: &PlanRequest,
        planner: PlannerDescription,
        planned: PlannedScript,
        (seconds, batch): (f64, usize),
    ) -> Self {
        Self {
            format: RECORD_FORMAT,
            story: request.brief.id.clone(),
            brief: brief_digest(request.brief),
            planner,
            attempt: request.attempt,
            seed: request.seed,
            script: planned.script,
            reference: planned.reference,
            picture: planned.picture,
            text: planned.raw,
            repairs: planned.repairs,
            notes: planned.notes,
            departures: planned.departures,
            tokens_read: planned.tokens.prompt,
            tokens: planned.tokens.completion,
            seconds,
            batch: u32::try_from(batch).unwrap_or(u32::MAX),
            restored: None,
            digest: String::new(),
        }
    }

    /// The digest by which records of shots name the plan.
    pub fn name(&self) -> &String {
        self.restored.as_ref().unwrap_or(&self.digest)
    }
}

/// What of a brief decides the script: who it is for and how soon does not.
pub(crate) fn essence(brief: &Brief) -> Brief {
    Brief {
        tenant: None,
        priority: 0,
        ..brief.clone()
    }
}

/// blake3 of what of a brief decides its script, in hexadecimal.
pub fn brief_digest(brief: &Brief) -> String {
    // Plain data into memory: this does not fail.
    let bytes = serde_json::to_vec(&essence(brief)).unwrap_or_default();
    blake3::hash(&bytes).to_hex().to_string()
}

/// A script as a file would have to be; a planner may not write what nobody may hand in.
pub(crate) fn check_script(script: &StoryScript) -> Result<(), PlanError> {
    let text = serde_json::to_string(script)
        .map_err(|error| PlanError::of_brief(format!("the script cannot be written: {error}")))?;
    parse_script("the planned script", &text)
        .map(drop)
        .map_err(|problems| {
            let problems: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
            PlanError::of_brief(format!("the script is not sound: {}", problems.join("; ")))
        })
}

fn path(folder: &RunFolder, story: &StoryId) -> PathBuf {
    folder.story(story).join("plan.json")
}

/// Whether a story has a plan.
pub fn is_planned(folder: &RunFolder, story: &StoryId) -> bool {
    folder.storage().exists(&path(folder, story))
}

/// The plan of a story, if there is one.
///
/// # Errors
/// It cannot be read, was changed after it was written, or is another story's.
pub fn read_plan(folder: &RunFolder, story: &StoryId) -> Result<Option<PlanRecord>, RunError> {
    let path = path(folder, story);
    if !folder.storage().exists(&path) {
        return Ok(None);
    }
    let record = PlanRecord::open(&path, &folder.storage().read(&path)?)?;
    if &record.story != story {
        let reason = format!("it is the plan of {}, not of {story}", record.story);
        return Err(RunError::Folder { path, reason });
    }
    Ok(Some(record))
}

/// As [`read_plan`], but what is no plan is none.
pub(crate) fn sound_plan(
    folder: &RunFolder,
    story: &StoryId,
) -> Result<Option<PlanRecord>, RunError> {
    match read_plan(folder, story) {
        Err(error) if is_damage(&error) => Ok(None),
        plan => plan,
    }
}

/// Whether an error of [`read_plan`] says that there is no plan in the file, rather than that nobody can
/// read it now.
pub(crate) fn is_damage(error: &RunError) -> bool {
    matches!(
        error,
        RunError::Folder { .. } | RunError::Memory(MemoryError::Damaged { .. })
    )
}

/// Creates the plan of a story; whoever was first is right, and the answer is what is there now. What
/// stands there and is no plan gives way.
pub(crate) fn commit_plan(
    folder: &RunFolder,
    mut record: PlanRecord,
) -> Result<PlanRecord, RunError> {
    let path = path(folder, &record.story);
    if record.restored.is_none() {
        record.restored = followed(folder, &record)?;
    }
    let bytes = record.seal()?;
    if folder.storage().create(&path, &bytes)? {
        return Ok(record);
    }
    let reason = match read_plan(folder, &record.story) {
        Ok(Some(plan)) => return Ok(plan),
        Ok(None) => "no file stood there".to_owned(),
        Err(error) if is_damage(&error) => error.to_string(),
        Err(error) => return Err(error),
    };
    let aside = move_aside(folder.storage().as_ref(), &path)?;
    tracing::warn!(story = %record.story, kept = %aside.display(), "the plan is written anew: {reason}");
    if folder.storage().create(&path, &bytes)? {
        return Ok(record);
    }
    let gone = || RunError::Folder {
        path: path.clone(),
        reason: "the plan was there and is gone".to_owned(),
    };
    read_plan(folder, &record.story)?.ok_or_else(gone)
}

/// The digest of the plan that shots of the story were made after, if these were made of the script that
/// `plan` has: its record is lost, and `plan` is the same again.
fn followed(folder: &RunFolder, plan: &PlanRecord) -> Result<Option<String>, RunError> {
    if !folder.has_records(&plan.story)? {
        return Ok(None);
    }
    let mut followed = None;
    for (shot, script) in plan.script.shots() {
        let Ok(Some(record)) = read_record(folder, &plan.story, shot) else {
            continue;
        };
        if record.request.prompt != script.prompt {
            return Ok(None);
        }
        followed = record.plan.or(followed);
    }
    Ok(followed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storyloom_memory::Disk;
    use storyloom_story::{ErrorClass, Scene, ShotScript, TokenCount};

    use super::*;

    fn brief(id: &str) -> Brief {
        Brief {
            title: Some("A kettle".to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new(id).unwrap())
        }
    }

    fn script(cuts: &[bool]) -> StoryScript {
        let shot = |cut: &bool| ShotScript {
            prompt: "A kettle on a stove.".to_owned(),
            first_frame_prompt: None,
            cut: *cut,
        };
        StoryScript {
            name: Some("A kettle".to_owned()),
            overview: None,
            scenes: vec![Scene {
                number: 1,
                shots: cuts.iter().map(shot).collect(),
            }],
        }
    }

    fn record(brief: &Brief, seconds: f64) -> PlanRecord {
        let request = PlanRequest {
            brief,
            seed: Seed::derive_plan(0, &brief.id, 0),
            attempt: 0,
        };
        let planned = PlannedScript {
            raw: "text".to_owned(),
            repairs: 1,
            tokens: TokenCount {
                prompt: 0,
                completion: 7,
            },
            ..PlannedScript::plain(script(&[true, false]))
        };
        PlanRecord::new(
            &request,
            PlannerDescription {
                backend: "rules".to_owned(),
                recipe: serde_json::json!({"templates": "1"}),
            },
            planned,
            (seconds, 1),
        )
    }

    #[test]
    fn the_first_plan_stays_and_a_changed_one_is_found_out() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(root.path(), Arc::new(Disk));
        let brief = brief("ad");
        assert_eq!(read_plan(&folder, &brief.id).unwrap(), None);
        let first = commit_plan(&folder, record(&brief, 1.0)).unwrap();
        let second = commit_plan(&folder, record(&brief, 2.0)).unwrap();
        assert_eq!(first, second);
        assert_eq!(read_plan(&folder, &brief.id).unwrap(), Some(first));
        let path = path(&folder, &brief.id);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("kettle", "bottle", 1)).unwrap();
        let error = read_plan(&folder, &brief.id).unwrap_err().to_string();
        assert!(error.contains("changed after it was written"), "{error}");
    }

    #[test]
    fn a_plan_that_was_asked_for_as_the_recipe_says_has_no_word_of_it() {
        let text = serde_json::to_string(&record(&brief("ad"), 1.0)).unwrap();
        assert!(!text.contains("departures"), "{text}");
        assert_eq!(
            serde_json::from_str::<PlanRecord>(&text).unwrap(),
            record(&brief("ad"), 1.0)
        );
    }

    #[test]
    fn scripts_that_nobody_may_hand_in_are_no_plans() {
        check_script(&script(&[true, false])).unwrap();
        let mut empty = script(&[true]);
        empty.scenes.clear();
        assert_eq!(check_script(&empty).unwrap_err().class, ErrorClass::Shot);
        let mut blank = script(&[true]);
        blank.scenes[0].shots[0].prompt = String::new();
        assert!(check_script(&blank).is_err());
    }

    #[test]
    fn who_it_is_for_does_not_decide_the_script() {
        let one = brief("ad");
        let other = Brief {
            tenant: Some("t".to_owned()),
            priority: 9,
            ..one.clone()
        };
        assert_eq!(brief_digest(&one), brief_digest(&other));
        let longer = Brief {
            shots: 3,
            ..one.clone()
        };
        assert_ne!(brief_digest(&one), brief_digest(&longer));
    }
}
