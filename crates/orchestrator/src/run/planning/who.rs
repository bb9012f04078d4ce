//! `planner.json`: who plans the briefs of a run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storyloom_story::StoryId;

use super::{PlannerDescription, StoryPlanner, read_plan};
use crate::error::RunError;
use crate::folder::folder_file::{FolderFile, Found};
use crate::folder::run_folder::RunFolder;

/// `planner.json`: who plans the briefs of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlannerFile {
    format: u32,
    planner: PlannerDescription,
    /// Those before it that it went on for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<PlannerDescription>,
}

impl FolderFile for PlannerFile {}

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
        format: crate::folder::run_folder::FOLDER_FORMAT,
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
/// plan. The plans are found by a listing: one that it left out could only hide an earlier planner, which
/// `verify` finds by the name of the plan.
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
    use std::sync::Arc;

    use storyloom_memory::Disk;
    use storyloom_story::{PlanRequest, Settle};

    use super::*;

    fn description(templates: &str) -> PlannerDescription {
        PlannerDescription {
            backend: "rules".to_owned(),
            recipe: serde_json::json!({"templates": templates}),
        }
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
}
