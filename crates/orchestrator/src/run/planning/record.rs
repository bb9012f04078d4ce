//! Creating the plan of a story, once.

use storyloom_memory::DigestedRecord;
use storyloom_memory::storage::move_aside;
use storyloom_story::{PlanError, StoryScript, parse_script};

use super::{PlanRecord, is_damage, read_plan};
use crate::error::RunError;
use crate::folder::records::read_record;
use crate::folder::run_folder::RunFolder;

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

/// Creates the plan of a story; the first program is right, and the answer is what is there now. What
/// stands there and is no plan gives way.
pub(crate) fn commit_plan(
    folder: &RunFolder,
    mut record: PlanRecord,
) -> Result<PlanRecord, RunError> {
    let path = folder.plan_path(&record.story);
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
        if record.request().prompt != script.prompt {
            return Ok(None);
        }
        followed = record.plan().clone().or(followed);
    }
    Ok(followed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storyloom_memory::Disk;
    use storyloom_story::{
        Brief, ErrorClass, PlanRequest, PlannedScript, Scene, Seed, ShotScript, StoryId, TokenCount,
    };

    use super::*;
    use crate::run::planning::{PlannerDescription, brief_digest};

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
        let path = folder.plan_path(&brief.id);
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
