//! The plans of stories, as far as there are any.

use storyloom_story::StoryId;

use crate::error::RunError;
use crate::folder::plan_record::{PlanRecord, is_damage};
use crate::folder::run_folder::RunFolder;

/// Whether a story has a plan.
pub fn is_planned(folder: &RunFolder, story: &StoryId) -> bool {
    folder.storage().exists(&folder.plan_path(story))
}

/// The plan of a story, if there is one.
///
/// # Errors
/// It cannot be read, was changed after it was written, or is another story's.
pub fn read_plan(folder: &RunFolder, story: &StoryId) -> Result<Option<PlanRecord>, RunError> {
    folder.plan(story)
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
