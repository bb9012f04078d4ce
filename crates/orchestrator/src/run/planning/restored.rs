//! The plan of a story that was begun, where its record is lost: `story.json` still has the script.

use storyloom_story::Seed;

use super::{PlanRecord, brief_digest, commit_plan, planners_of, sound_plan};
use crate::error::RunError;
use crate::folder::plan_record::FORMAT;
use crate::folder::run_folder::{RunFolder, StoryFile};

/// Writes the record of a plan that is gone or damaged anew, as far as `file` has it; tells whether it did.
/// `seed` is the run's. Only the holder of the story's lease does so.
///
/// What the model had written, and how long it took, is lost. The new record says so, and names the digest
/// of the lost one, which the records of the shots name as well.
///
/// # Errors
/// The disk fails.
pub(crate) fn restore_plan(
    folder: &RunFolder,
    file: &StoryFile,
    seed: u64,
) -> Result<bool, RunError> {
    let (Some(brief), Some(script), Some(lost)) = (&file.brief, &file.script, &file.plan) else {
        return Ok(false);
    };
    if sound_plan(folder, &file.id)?.is_some_and(|plan| plan.name() == lost) {
        return Ok(false);
    }
    let Some(planner) = planners_of(folder)?.into_iter().next() else {
        return Ok(false);
    };
    let attempt = 0;
    let note = "the record of this plan was lost; its script is as story.json had kept it, and all else \
                that the record said is gone";
    let record = PlanRecord {
        format: FORMAT,
        story: file.id.clone(),
        brief: brief_digest(brief),
        planner,
        attempt,
        seed: Seed::derive_plan(file.seed.unwrap_or(seed), &file.id, attempt),
        script: script.clone(),
        reference: None,
        picture: file.inputs.first().map(|input| input.sha256.clone()),
        text: String::new(),
        repairs: 0,
        notes: vec![note.to_owned()],
        departures: Vec::new(),
        tokens_read: 0,
        tokens: 0,
        seconds: 0.0,
        batch: 1,
        restored: Some(lost.clone()),
        digest: String::new(),
    };
    let written = commit_plan(folder, record)?;
    Ok(written.name() == lost)
}
