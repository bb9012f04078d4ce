//! What the `story.json` of an earlier build has lost that its records still say. Such a file carries no seal,
//! which would tell that a key is gone.

use storyloom_memory::ShotRecord;

use super::story::{Deeds, Healer, RecordState};
use super::{CameTo, shown};
use crate::error::RunError;
use crate::folder::film_size::film_of;
use crate::folder::run_folder::StoryFile;
use crate::run::lease::Lease;
use crate::run::planning::sound_plan;

impl Healer<'_> {
    /// Whether the size of a story's film is not known although something was made of it.
    pub(super) fn lacks_size(&self, file: &StoryFile) -> Result<bool, RunError> {
        Ok(file.size.is_none() && !self.sound_records(file)?.is_empty())
    }

    /// Notes in the story's file what it does not say and its records do: the size of its film, and the
    /// plan that its shots follow.
    pub(super) fn complete(
        &self,
        file: &mut StoryFile,
        lease: &Lease,
        deeds: &mut Deeds,
    ) -> Result<(), RunError> {
        let lacks_plan = file.brief.is_some() && file.script.is_some() && file.plan.is_none();
        if file.size.is_some() && !lacks_plan {
            return Ok(());
        }
        let records = self.sound_records(file)?;
        let mut found = Vec::new();
        if let (None, Some(record)) = (file.size, records.first()) {
            file.size = Some(film_of(
                record.request().video.resolution(),
                &[self.film],
                self.grid,
            ));
            found.push("the size of its film");
        }
        if lacks_plan && let Some(plan) = self.plan_name(file, &records)? {
            file.plan = Some(plan);
            found.push("its plan");
        }
        if found.is_empty() {
            return Ok(());
        }
        lease.check()?;
        self.folder.write_story(file)?;
        let path = self.folder.story(&file.id).join("story.json");
        let what = format!(
            "{} did not name {}; it does now, as its records do",
            shown(&path),
            found.join(" and ")
        );
        deeds.note(None, CameTo::Healed, what);
        Ok(())
    }

    /// The digest by which a story names its plan: of the plan that has its script, or as all its shots
    /// have it.
    fn plan_name(
        &self,
        file: &StoryFile,
        records: &[ShotRecord],
    ) -> Result<Option<String>, RunError> {
        let plan = sound_plan(self.folder, &file.id)?;
        if let Some(plan) = plan.filter(|plan| Some(&plan.script) == file.script.as_ref()) {
            return Ok(Some(plan.name().clone()));
        }
        let named = records.first().and_then(|record| record.plan().clone());
        let is_of_all = records.iter().all(|record| *record.plan() == named);
        Ok(named.filter(|_| is_of_all))
    }

    fn sound_records(&self, file: &StoryFile) -> Result<Vec<ShotRecord>, RunError> {
        let mut records = Vec::new();
        for (shot, _) in file.shots() {
            if let RecordState::Sound(record) = self.record_state(&file.id, shot)? {
                records.push(*record);
            }
        }
        Ok(records)
    }
}
