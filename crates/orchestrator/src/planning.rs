//! Stage `plan` of a whole story: a brief becomes a script, durably, before the first shot.
//!
//! ```text
//! DIR/planner.json               who plans the briefs of the run
//! DIR/stories/ID/plan.json       the script of one, the text it was read from, and its recipe
//! ```
//!
//! A plan is created once, like the record of a shot: under the lease of its story, on disk before
//! its name is. A program that is killed leaves its plans to others, and plans only what is
//! missing. Records of shots name the digest of the plan they follow.
//!
//! [`StoryPlanner`] makes plans; [`desk`] asks it for those that come next, ahead of the shots but
//! not far, and writes each when it is there; [`ranks`] is the program that does nothing else. A
//! planner that is [`away`] is asked again now and then, as long as anything else is to be made.

pub(crate) mod away;
pub(crate) mod desk;
mod hands;
pub mod ranks;
pub(crate) mod restored;
pub mod simulated;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storyloom_memory::commit::RECORD_FORMAT;
use storyloom_memory::storage::move_aside;
use storyloom_memory::{MemoryError, Sealed};
use storyloom_story::{Brief, ErrorClass, Outlook, Seed, StoryId, StoryScript, parse_script};

use crate::error::RunError;
use crate::folder_file::Found;
use crate::run_folder::RunFolder;

/// Makes scripts of briefs.
///
/// One thread calls it. What may take long looks now and then at the
/// [`StopFlag`](crate::StopFlag) that it was made with, and ends as
/// [`ErrorClass::Interrupted`].
pub trait StoryPlanner: Sync {
    /// What it is; part of the recipe of every plan.
    fn describe(&self) -> PlannerDescription;

    /// Whether it may go on with what the planner `before` has begun, although it is another one: a
    /// later version of the same, whose scripts are as good.
    fn continues(&self, _before: &PlannerDescription) -> bool {
        false
    }

    /// Briefs that it likes to work on at once, at least one.
    fn capacity(&self) -> usize {
        1
    }

    /// Plans each of `requests`, at most [`capacity`](Self::capacity) of them, and tells what came of
    /// each as soon as it is known. The same request gets the same script.
    fn plan(&self, requests: &[PlanRequest], settle: &Settle);
}

/// Hears what came of a request: its place among the requests, and the script. Called once for each,
/// in any order and from any thread.
pub type Settle<'a> = dyn Fn(usize, Result<PlannedScript, PlanError>) + Sync + 'a;

/// Identity of a planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannerDescription {
    /// What plans: `rules`, `native`, `served` or `simulated`.
    pub backend: String,
    /// Everything else but brief and seed that decides a script, as the back end has it: digest of
    /// the model, version of the templates, how text is drawn from it.
    pub recipe: serde_json::Value,
}

impl PlannerDescription {
    /// Whether both write the same scripts: where a model is served does not matter, only what it is
    /// called there.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let anywhere = |planner: &Self| {
            let mut recipe = planner.recipe.clone();
            let model = recipe
                .pointer_mut("/model")
                .and_then(|model| model.as_object_mut());
            model.map(|model| model.remove("endpoint"));
            recipe
        };
        self.backend == other.backend && anywhere(self) == anywhere(other)
    }
}

/// A brief to plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest<'a> {
    /// The brief.
    pub brief: &'a Brief,
    /// From the run's seed or the brief's own, the story and the attempt.
    pub seed: Seed,
    /// Which attempt this is, from 0.
    pub attempt: u32,
}

/// A brief that was planned.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedScript {
    /// The script.
    pub script: StoryScript,
    /// Prompt of a picture of the product or the main character, where one was asked for.
    pub reference: Option<String>,
    /// SHA-256 of the picture of the product, as it was read for a model.
    pub picture: Option<String>,
    /// What the model wrote, as it wrote it; empty without a model.
    pub text: String,
    /// Times it was asked to mend that.
    pub repairs: u32,
    /// What was mended without it, and what of the brief was not used.
    pub notes: Vec<String>,
    /// How it was asked otherwise than the recipe says.
    pub departures: Vec<String>,
    /// Tokens that it read.
    pub tokens_read: u64,
    /// Tokens that it wrote.
    pub tokens: u64,
}

impl PlannedScript {
    /// A script that no model has written.
    pub fn plain(script: StoryScript) -> Self {
        Self {
            script,
            reference: None,
            picture: None,
            text: String::new(),
            repairs: 0,
            notes: Vec::new(),
            departures: Vec::new(),
            tokens_read: 0,
            tokens: 0,
        }
    }
}

/// A brief that could not be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan: {message}")]
pub struct PlanError {
    /// What it means for the work. [`ErrorClass::Shot`] is a brief that this attempt could not
    /// plan, while others can be.
    pub class: ErrorClass,
    /// What happened, in words a user can act on.
    pub message: String,
    /// What the model had written; empty where nobody knows.
    pub text: String,
    /// What an attempt with another seed would do.
    pub outlook: Outlook,
}

impl PlanError {
    /// An error about which no model has said anything.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            text: String::new(),
            outlook: Outlook::Open,
        }
    }

    /// The brief could not be planned by this attempt.
    pub fn of_brief(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Shot, message)
    }
}

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
            text: planned.text,
            repairs: planned.repairs,
            notes: planned.notes,
            departures: planned.departures,
            tokens_read: planned.tokens_read,
            tokens: planned.tokens,
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

/// `planner.json`: who plans the briefs of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlannerFile {
    format: u32,
    planner: PlannerDescription,
    /// Those before it that it went on for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<PlannerDescription>,
}

fn planner_path(folder: &RunFolder) -> PathBuf {
    folder.root().join("planner.json")
}

/// All who have planned briefs of the run: who does now, and earlier versions of the same.
///
/// # Errors
/// The file cannot be read.
pub fn planners_of(folder: &RunFolder) -> Result<Vec<PlannerDescription>, RunError> {
    let path = planner_path(folder);
    match folder.find_json::<PlannerFile>(&path)? {
        Found::Gone => Ok(Vec::new()),
        Found::Sound(file) => Ok([vec![file.planner], file.earlier].concat()),
        Found::Damaged(reason) => Err(RunError::Folder {
            path,
            reason: format!(
                "{reason}; the next start of the run writes the file anew from its plans, and keeps \
                 the damaged one beside it"
            ),
        }),
    }
}

/// Notes who plans the briefs of the run, or checks that it is who did before.
pub(crate) fn settle_planner(
    folder: &RunFolder,
    planner: &dyn StoryPlanner,
) -> Result<(), RunError> {
    let path = planner_path(folder);
    let now = planner.describe();
    let file = PlannerFile {
        format: crate::run_folder::FOLDER_FORMAT,
        planner: now.clone(),
        earlier: Vec::new(),
    };
    if let Found::Damaged(reason) = folder.find_json::<PlannerFile>(&path)? {
        let earlier = planners_of_plans(folder, planner)?.unwrap_or_default();
        folder.give_way::<PlannerFile>(&path, &reason)?;
        folder.create_json(&path, &PlannerFile { earlier, ..file })?;
        return settle_planner(folder, planner);
    }
    if folder.create_json(&path, &file)? {
        return Ok(());
    }
    let Found::Sound(before) = folder.find_json::<PlannerFile>(&path)? else {
        return Err(other_planner(&path, None, &now));
    };
    if before.planner.is_same_as(&now) {
        return Ok(());
    }
    if !planner.continues(&before.planner) {
        let other = || other_planner(&path, Some(&before.planner), &now);
        // The plans are sealed, this file is not.
        let Some(earlier) = planners_of_plans(folder, planner).map_err(|_| other())? else {
            return Err(other());
        };
        tracing::warn!(
            "planner.json names a planner that has made no plan of the run; it is written anew"
        );
        return folder.write_json(&path, &PlannerFile { earlier, ..file });
    }
    tracing::info!("a later version of the planner goes on; plans that are there stay as they are");
    let mut earlier = before.earlier;
    earlier.push(before.planner);
    let file = PlannerFile { earlier, ..file };
    folder.write_json(&path, &file)
}

/// Those whom the plans of the run name and who are others than `planner` is now; `None` if there is no
/// plan.
///
/// # Errors
/// One of them is a planner that `planner` does not go on for.
fn planners_of_plans(
    folder: &RunFolder,
    planner: &dyn StoryPlanner,
) -> Result<Option<Vec<PlannerDescription>>, RunError> {
    let now = planner.describe();
    let (mut earlier, mut plans) = (Vec::new(), 0);
    for name in folder.storage().list(&folder.stories())? {
        let Some(plan) = StoryId::new(&name)
            .ok()
            .and_then(|story| read_plan(folder, &story).ok()?)
        else {
            continue;
        };
        plans += 1;
        if plan.planner.is_same_as(&now) || earlier.contains(&plan.planner) {
            continue;
        }
        if !planner.continues(&plan.planner) {
            return Err(other_planner(
                &planner_path(folder),
                Some(&plan.planner),
                &now,
            ));
        }
        earlier.push(plan.planner);
    }
    Ok((plans > 0).then_some(earlier))
}

fn other_planner(
    path: &Path,
    before: Option<&PlannerDescription>,
    now: &PlannerDescription,
) -> RunError {
    let text = |planner: &PlannerDescription| serde_json::to_string(planner).unwrap_or_default();
    let before = before.map_or_else(|| "nobody".to_owned(), text);
    RunError::Folder {
        path: path.to_owned(),
        reason: format!(
            "the briefs of this run were planned by {before}, not by {}; use that planner again \
             or another --out folder",
            text(now)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use storyloom_memory::Disk;
    use storyloom_story::{Scene, ShotScript};

    fn brief(id: &str) -> Brief {
        Brief {
            title: Some("A kettle".to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new(id).unwrap())
        }
    }

    fn description(templates: &str) -> PlannerDescription {
        PlannerDescription {
            backend: "rules".to_owned(),
            recipe: serde_json::json!({"templates": templates}),
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
            text: "text".to_owned(),
            repairs: 1,
            tokens: 7,
            ..PlannedScript::plain(script(&[true, false]))
        };
        PlanRecord::new(&request, description("1"), planned, (seconds, 1))
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

    /// Goes on for those whose templates are one older.
    struct Version(&'static str);

    impl StoryPlanner for Version {
        fn describe(&self) -> PlannerDescription {
            description(self.0)
        }

        fn continues(&self, before: &PlannerDescription) -> bool {
            (self.0, before) == ("3", &description("2"))
        }

        fn plan(&self, _requests: &[PlanRequest], _settle: &Settle) {}
    }

    #[test]
    fn another_planner_is_refused_and_a_later_version_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(root.path(), Arc::new(Disk));
        settle_planner(&folder, &Version("2")).unwrap();
        let text = std::fs::read_to_string(planner_path(&folder)).unwrap();
        assert!(!text.contains("earlier"), "{text}");
        settle_planner(&folder, &Version("2")).unwrap();
        let error = settle_planner(&folder, &Version("4")).unwrap_err();
        assert!(error.to_string().contains("another --out"), "{error}");
        settle_planner(&folder, &Version("3")).unwrap();
        settle_planner(&folder, &Version("3")).unwrap();
        let all = planners_of(&folder).unwrap();
        assert_eq!(all, [description("3"), description("2")]);
        assert!(settle_planner(&folder, &Version("2")).is_err());
    }

    /// One whose model is served.
    struct Served(&'static str, &'static str);

    impl StoryPlanner for Served {
        fn describe(&self) -> PlannerDescription {
            PlannerDescription {
                backend: "served".to_owned(),
                recipe: serde_json::json!({
                    "backend": "served",
                    "model": {"name": self.0, "endpoint": self.1, "picture_side": 896},
                    "repairs": 2,
                }),
            }
        }

        fn plan(&self, _requests: &[PlanRequest], _settle: &Settle) {}
    }

    #[test]
    fn the_same_model_may_be_served_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(root.path(), Arc::new(Disk));
        let here = Served("qwen", "http://a:8000/v1");
        settle_planner(&folder, &here).unwrap();
        let written = std::fs::read(planner_path(&folder)).unwrap();
        settle_planner(&folder, &Served("qwen", "https://b/v1")).unwrap();
        assert_eq!(std::fs::read(planner_path(&folder)).unwrap(), written);
        let other = settle_planner(&folder, &Served("llama", "http://a:8000/v1"));
        assert!(other.unwrap_err().to_string().contains("llama"));
        let nameless = description("1");
        assert!(nameless.is_same_as(&nameless) && !nameless.is_same_as(&here.describe()));
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
