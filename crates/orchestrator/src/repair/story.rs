//! One story: what of it is not what its records say, and what is done about it.

use std::path::{Path, PathBuf};

use storyloom_memory::soundness::{Harm, Named, harms};
use storyloom_memory::storage::move_aside;
use storyloom_memory::{
    BlobRef, BlobStore, MemoryError, PictureRecord, References, ShotRecord, blobs,
};
use storyloom_story::{LatentGrid, Media, Resolution, Seed, ShotId, ShotRequest, StoryId};

use super::{CameTo, Deed, shown};
use crate::error::RunError;
use crate::folder::folder_file::Found;
use crate::folder::output::{ClipFile, VideoFiles, WHOLE_VIDEO};
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::run::lease::Lease;
use crate::run::planning::restored::restore_plan;
use crate::run::planning::{is_damage, read_plan, sound_plan};

/// What stories are put in order with.
pub(super) struct Healer<'a> {
    pub(super) folder: &'a RunFolder,
    pub(super) blobs: BlobStore,
    pub(super) videos: VideoFiles,
    /// The run's; `None` where nobody knows it.
    pub(super) seed: Option<u64>,
    /// The size of films of the run; `None` where nobody knows it.
    pub(super) film: Option<Resolution>,
    /// How its networks divide videos.
    pub(super) grid: LatentGrid,
    /// Whether the run was begun by a build that seals each `story.json`.
    pub(super) is_sealed: bool,
    pub(super) anew: bool,
}

/// A record as it stands.
pub(super) enum RecordState {
    Gone,
    Damaged(String),
    Sound(Box<ShotRecord>),
}

/// What was done for one story.
pub(super) struct Deeds<'a> {
    story: &'a StoryId,
    list: Vec<Deed>,
}

impl Deeds<'_> {
    pub(super) fn note(&mut self, shot: Option<ShotId>, came_to: CameTo, what: String) {
        self.list.push(Deed {
            story: Some(self.story.clone()),
            shot,
            came_to,
            what,
        });
    }
}

impl Healer<'_> {
    /// Whether everything of a story that is there is what its records say. Nothing is changed.
    pub(super) fn is_healthy(&self, story: &StoryId) -> Result<bool, RunError> {
        let root = self.folder.story(story);
        if !self.folder.storage().is_taken(&root) {
            return Ok(true);
        }
        let path = root.join("story.json");
        let file = match self.folder.find_json::<StoryFile>(&path)? {
            Found::Sound(_) if self.lacks_seal(story)? => return Ok(false),
            Found::Sound(file) if &file.id == story => file,
            // Of a plan that was made ahead of its story.
            Found::Gone if !self.folder.has_records(story)? => {
                return Ok(!self.has_damaged_plan(story)?);
            }
            _ => return Ok(false),
        };
        let file = match self.folder.with_plan(file) {
            Err(error) if is_damage(&error) => return Ok(false),
            file => file?,
        };
        if !self.plan_is_sound(&file)? || !self.is_of_its_plan(&file)? || self.lacks_size(&file)? {
            return Ok(false);
        }
        let done = file.state == StoryState::Done;
        match self.references(&file) {
            Ok(Some(record)) if !self.harms(story, &record.named())?.is_empty() => {
                return Ok(false);
            }
            Ok(None) if done && file.has_inputs() => return Ok(false),
            Err(error) if is_damage(&error) => return Ok(false),
            references => drop(references?),
        }
        let mut clips = Vec::new();
        let mut is_missing = false;
        for (shot, _) in file.shots() {
            match self.record_state(story, shot)? {
                RecordState::Gone if !done => is_missing = true,
                RecordState::Gone | RecordState::Damaged(_) => return Ok(false),
                // Something follows from a record that is gone, or the story is another one.
                RecordState::Sound(record)
                    if is_missing
                        || !self.fits(&file, &record)
                        || !self.has_its_seed(&file, &record) =>
                {
                    return Ok(false);
                }
                RecordState::Sound(record) => {
                    if !self.harms(story, &record.named())?.is_empty() {
                        return Ok(false);
                    }
                    clips.push(record.file().content.blake3.clone());
                }
            }
        }
        Ok(!done || (self.has_film(&file)? && (file.joined.is_empty() || file.joined == clips)))
    }

    fn has_damaged_plan(&self, story: &StoryId) -> Result<bool, RunError> {
        match read_plan(self.folder, story) {
            Err(error) if is_damage(&error) => Ok(true),
            plan => plan.map(|_| false),
        }
    }

    /// Whether the plan that the story names is there.
    fn plan_is_sound(&self, file: &StoryFile) -> Result<bool, RunError> {
        if file.brief.is_none() || file.script.is_none() {
            return Ok(!self.has_damaged_plan(&file.id)?);
        }
        let plan = sound_plan(self.folder, &file.id)?;
        Ok(plan.is_some_and(|plan| Some(plan.name()) == file.plan.as_ref()))
    }

    /// Whether the script of a story is that of its plan, as far as the plan is there.
    fn is_of_its_plan(&self, file: &StoryFile) -> Result<bool, RunError> {
        if file.brief.is_none() || file.script.is_none() {
            return Ok(true);
        }
        let plan = sound_plan(self.folder, &file.id)?;
        let own = plan.filter(|plan| Some(plan.name()) == file.plan.as_ref());
        Ok(own.is_none_or(|plan| Some(&plan.script) == file.script.as_ref()))
    }

    fn references(&self, file: &StoryFile) -> Result<Option<References>, RunError> {
        let path = self.folder.story(&file.id).join("commits/references.json");
        let storage = self.folder.storage();
        match storage.is_taken(&path) {
            false => return Ok(None),
            true if !storage.exists(&path) => {
                return Err(MemoryError::damaged(path, "no file stands in its place").into());
            }
            true => {}
        }
        let bytes = self.folder.storage().read(&path)?;
        let record = References::open(&path, &bytes)?;
        let wanted = self.folder.known_method(file);
        let wanted = wanted.map(|method| method.profile().record_format);
        match wanted.is_none_or(|wanted| wanted == record.format()) {
            true => Ok(Some(record)),
            false => Err(MemoryError::damaged(path, "it is a record for another method").into()),
        }
    }

    pub(super) fn record_state(
        &self,
        story: &StoryId,
        shot: ShotId,
    ) -> Result<RecordState, RunError> {
        let path = self.record_path(story, shot);
        let storage = self.folder.storage();
        match storage.is_taken(&path) {
            false => return Ok(RecordState::Gone),
            true if !storage.exists(&path) => {
                let reason = format!("{}: no file stands in its place", path.display());
                return Ok(RecordState::Damaged(reason));
            }
            true => {}
        }
        match ShotRecord::open(&path, &self.folder.storage().read(&path)?) {
            Ok(record) if record.request().story == *story && record.request().shot == shot => {
                Ok(RecordState::Sound(Box::new(record)))
            }
            Ok(record) => {
                let (other, of) = (&record.request().story, record.request().shot);
                let reason = format!("{}: it is the record of {other} {of}", path.display());
                Ok(RecordState::Damaged(reason))
            }
            Err(error @ MemoryError::Damaged { .. }) => Ok(RecordState::Damaged(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    fn record_path(&self, story: &StoryId, shot: ShotId) -> PathBuf {
        let commits = self.folder.story(story).join("commits");
        commits.join(format!("{shot}.json"))
    }

    fn harms(&self, story: &StoryId, named: &Named) -> Result<Vec<Harm>, RunError> {
        let (root, storage) = (self.folder.story(story), self.folder.storage());
        Ok(harms(&root, storage.as_ref(), &self.blobs, named)?)
    }

    /// Whether the film is the one that the story notes.
    fn has_film(&self, file: &StoryFile) -> Result<bool, RunError> {
        let Some(video) = &file.video else {
            return Ok(false);
        };
        let named = Named {
            pictures: vec![video],
            blobs: Vec::new(),
        };
        Ok(self.harms(&file.id, &named)?.is_empty())
    }

    /// Puts a story in order.
    pub(super) fn heal(&self, story: &StoryId, lease: &Lease) -> Result<Vec<Deed>, RunError> {
        let mut deeds = Deeds {
            story,
            list: Vec::new(),
        };
        lease.check()?;
        let Some(mut file) = self.story_file(&mut deeds)? else {
            return Ok(deeds.list);
        };
        self.complete(&mut file, lease, &mut deeds)?;
        self.heal_plan(&file, &mut deeds)?;
        self.heal_references(&file, &mut deeds)?;
        if !self.settle_words(&file, &mut deeds)? {
            return Ok(deeds.list);
        }
        let shots: Vec<ShotId> = file.shots().map(|(shot, _)| shot).collect();
        let mut clips = Vec::new();
        for (place, &shot) in shots.iter().enumerate() {
            let record = self.heal_shot(&file, shot, &mut deeds)?;
            if self.anew && (record.is_none() || is_to_make(&deeds, shot)) {
                // Those after it have seen what is lost.
                for &later in &shots[place..] {
                    self.begin_anew(story, later, &mut deeds)?;
                }
                break;
            }
            clips.extend(record);
        }
        let is_to_make = deeds.list.iter().any(|deed| deed.came_to == CameTo::ToMake);
        match file.state {
            StoryState::Done if !is_to_make => {
                self.heal_film(&mut file, &clips, lease, &mut deeds)?;
            }
            // A check of sizes only would not look at it.
            StoryState::Done => self.reopen(file, lease)?,
            StoryState::Quarantined { .. } | StoryState::Failed { .. } if is_to_make => {
                self.reopen(file, lease)?;
            }
            _ => {}
        }
        Ok(deeds.list)
    }

    /// Whether a record is one of this story as its file has it: of its words and its size.
    fn fits(&self, file: &StoryFile, record: &ShotRecord) -> bool {
        let mut shots = file.shots();
        let script = shots.find(|(shot, _)| *shot == record.request().shot);
        let made = file.size.map(|film| film.generated(self.grid));
        script.is_some_and(|(_, script)| script.prompt == record.request().prompt)
            && made.is_none_or(|made| made == record.request().video.resolution())
    }

    /// Whether a record is of the seed that the run gives it.
    fn has_its_seed(&self, file: &StoryFile, record: &ShotRecord) -> bool {
        let ShotRequest {
            shot,
            attempt,
            seed,
            ..
        } = *record.request();
        let own = file.seed.or(self.seed);
        own.is_none_or(|own| Seed::derive(own, &file.id, shot, attempt) == seed)
    }

    /// Moves a `story.json` out of the way whose words are not those that its shots were made from, and
    /// records of another seed than the others have. `false` if the story has no file now.
    ///
    /// The file may be wrong, so that no name of a shot can be trusted: this listing finds them. Afterwards
    /// each shot of the right file is looked for by name.
    fn settle_words(&self, file: &StoryFile, deeds: &mut Deeds) -> Result<bool, RunError> {
        let mut records = Vec::new();
        let commits = self.folder.story(&file.id).join("commits");
        for name in self.folder.storage().list(&commits)? {
            let shot = name
                .strip_suffix(".json")
                .and_then(|name| name.parse().ok());
            if let Some(shot) = shot
                && let RecordState::Sound(record) = self.record_state(&file.id, shot)?
            {
                records.push(record);
            }
        }
        let (own, foreign): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| self.has_its_seed(file, record));
        let storage = self.folder.storage().as_ref();
        if !own.is_empty() {
            for record in &foreign {
                let shot = record.request().shot;
                let aside = move_aside(storage, &self.record_path(&file.id, shot))?;
                let what = format!(
                    "{} is of another seed than the other shots; the shot is made again",
                    shown(&aside)
                );
                deeds.note(Some(shot), CameTo::ToMake, what);
            }
        }
        // Of another seed are all of them: then it is the file that is wrong.
        let is_other = (own.is_empty() && !foreign.is_empty()) || !self.is_of_its_plan(file)?;
        if is_other || own.iter().any(|record| !self.fits(file, record)) {
            let path = self.folder.story(&file.id).join("story.json");
            let aside = move_aside(storage, &path)?;
            let what = format!(
                "{} says another thing than the records of its shots; it is written anew from what is asked for",
                shown(&aside)
            );
            deeds.note(None, CameTo::ToMake, what);
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether the record of a later shot is there.
    fn is_followed(&self, file: &StoryFile, shot: ShotId) -> Result<bool, RunError> {
        for (later, _) in file.shots().filter(|(later, _)| *later > shot) {
            if let RecordState::Sound(_) = self.record_state(&file.id, later)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the story's file carries no seal although the build that wrote it gives one to each.
    fn lacks_seal(&self, story: &StoryId) -> Result<bool, RunError> {
        Ok(self.is_sealed && self.folder.is_unsealed(story)?)
    }

    /// The next start goes on with it.
    fn reopen(&self, mut file: StoryFile, lease: &Lease) -> Result<(), RunError> {
        file.state = StoryState::Running;
        lease.check()?;
        self.folder.write_story(&file)
    }

    /// The story's file. A damaged one moves out of the way: all that it says is in what is asked for, in
    /// the records and in the plan, and the program that goes on with the story writes it anew.
    fn story_file(&self, deeds: &mut Deeds) -> Result<Option<StoryFile>, RunError> {
        let story = deeds.story;
        let path = self.folder.story(story).join("story.json");
        let reason = match self.folder.find_json::<StoryFile>(&path)? {
            Found::Sound(_) if self.lacks_seal(story)? => "it has no digest".to_owned(),
            Found::Sound(file) if &file.id == story => match self.folder.with_plan(file) {
                Err(error) if is_damage(&error) => {
                    deeds.note(
                        None,
                        CameTo::Left,
                        format!("{error}; its shots follow that plan"),
                    );
                    return Ok(None);
                }
                file => return file.map(Some),
            },
            Found::Sound(file) => format!("it is the story {}", file.id),
            Found::Damaged(reason) => reason,
            Found::Gone => "it is gone".to_owned(),
        };
        self.put_aside(&path)?;
        if self.has_damaged_plan(story)? {
            self.drop_plan(deeds)?;
        }
        let what = format!("{}: {reason}; it is written anew", shown(&path));
        deeds.note(None, CameTo::ToMake, what);
        Ok(None)
    }

    /// Nothing was made of it yet: the next start makes the same one.
    fn drop_plan(&self, deeds: &mut Deeds) -> Result<(), RunError> {
        let path = self.folder.story(deeds.story).join("plan.json");
        move_aside(self.folder.storage().as_ref(), &path)?;
        let what = format!("{} is damaged; the same plan is made again", shown(&path));
        deeds.note(None, CameTo::ToMake, what);
        Ok(())
    }

    fn heal_plan(&self, file: &StoryFile, deeds: &mut Deeds) -> Result<(), RunError> {
        if self.plan_is_sound(file)? {
            return Ok(());
        }
        if file.script.is_none() {
            return self.drop_plan(deeds);
        }
        let restored = match self.seed {
            Some(seed) => restore_plan(self.folder, file, seed)?,
            None => false,
        };
        let path = self.folder.story(&file.id).join("plan.json");
        let (came_to, what) = match restored {
            true => (
                CameTo::Healed,
                "the record of its plan is written anew, with the script that \
                                      story.json has",
            ),
            false => (
                CameTo::Left,
                "the record of its plan cannot be written anew while run.json or \
                                     planner.json is not sound; start the run again, then repair",
            ),
        };
        deeds.note(None, came_to, format!("{}: {what}", shown(&path)));
        Ok(())
    }

    fn heal_references(&self, file: &StoryFile, deeds: &mut Deeds) -> Result<(), RunError> {
        if !file.has_inputs() || file.state == StoryState::Pending {
            return Ok(());
        }
        let story = &file.id;
        let path = self.folder.story(story).join("commits/references.json");
        let reason = match self.references(file) {
            Ok(Some(record)) => {
                let lost = self.heal_named(story, None, &record.named(), deeds)?;
                match lost.first() {
                    None => return Ok(()),
                    Some(harm) => format!("{}: {}", shown(&harm.path), harm.reason),
                }
            }
            Ok(None) => format!("{} is gone", shown(&path)),
            Err(error) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        self.put_aside(&path)?;
        let what = format!("{reason}; its reference images are looked at again");
        deeds.note(None, CameTo::ToMake, what);
        Ok(())
    }

    /// The record of a shot, if it is sound.
    fn heal_shot(
        &self,
        file: &StoryFile,
        shot: ShotId,
        deeds: &mut Deeds,
    ) -> Result<Option<ShotRecord>, RunError> {
        let story = &file.id;
        let reason = match self.record_state(story, shot)? {
            RecordState::Sound(record) => {
                for harm in self.heal_named(story, Some(shot), &record.named(), deeds)? {
                    self.put_aside(&harm.path)?;
                    let what = format!(
                        "{}: {}; the shot is made again for it",
                        shown(&harm.path),
                        harm.reason
                    );
                    deeds.note(Some(shot), CameTo::ToMake, what);
                }
                return Ok(Some(*record));
            }
            RecordState::Gone
                if file.state != StoryState::Done && !self.is_followed(file, shot)? =>
            {
                return Ok(None);
            }
            RecordState::Gone => format!("{} is gone", shown(&self.record_path(story, shot))),
            RecordState::Damaged(reason) => {
                move_aside(
                    self.folder.storage().as_ref(),
                    &self.record_path(story, shot),
                )?;
                reason
            }
        };
        let what = format!("{reason}; the shot is made again");
        deeds.note(Some(shot), CameTo::ToMake, what);
        Ok(None)
    }

    /// Gives files that are there under the name of their content the names that a record gives them.
    /// The answer is what is still not as the record says.
    fn heal_named(
        &self,
        story: &StoryId,
        shot: Option<ShotId>,
        named: &Named,
        deeds: &mut Deeds,
    ) -> Result<Vec<Harm>, RunError> {
        let mut lost = Vec::new();
        for harm in self.harms(story, named)? {
            let root = self.folder.story(story);
            let picture = named
                .pictures
                .iter()
                .find(|picture| root.join(&picture.file) == harm.path);
            let healed = match picture.filter(|_| harm.blob.is_none()) {
                Some(picture) => self.find_copy(story, picture, &harm)?,
                None => false,
            };
            if healed {
                let what = format!(
                    "{}: {}; a copy of it was there",
                    shown(&harm.path),
                    harm.reason
                );
                deeds.note(shot, CameTo::Healed, what);
            } else {
                lost.push(harm);
            }
        }
        Ok(lost)
    }

    /// The program that committed a file may not have got to giving it its name.
    fn find_copy(
        &self,
        story: &StoryId,
        picture: &PictureRecord,
        harm: &Harm,
    ) -> Result<bool, RunError> {
        let extension = Path::new(&picture.file).extension().unwrap_or_default();
        let staged = self
            .folder
            .story(story)
            .join(".staged")
            .join(&picture.content.blake3);
        let staged = staged.with_extension(extension);
        let storage = self.folder.storage().as_ref();
        let is_it = |bytes: Vec<u8>| blobs::check(&staged, &bytes, &picture.content).is_ok();
        if !storage.read(&staged).is_ok_and(is_it) {
            return Ok(false);
        }
        self.put_aside(&harm.path)?;
        storage.give_name(&staged, &harm.path)?;
        if let Some(folder) = harm.path.parent() {
            storage.sync_names(folder)?;
        }
        Ok(true)
    }

    /// Moves what stands at `path` aside, if anything does, and says where it is now.
    fn put_aside(&self, path: &Path) -> Result<Option<PathBuf>, RunError> {
        let storage = self.folder.storage().as_ref();
        match storage.is_taken(path) {
            true => Ok(Some(move_aside(storage, path)?)),
            false => Ok(None),
        }
    }

    /// Moves the record of a shot out of the way, so that the shot is made as if it never was.
    fn begin_anew(&self, story: &StoryId, shot: ShotId, deeds: &mut Deeds) -> Result<(), RunError> {
        let path = self.record_path(story, shot);
        if let Some(aside) = self.put_aside(&path)? {
            let what = format!("its record is {} now; the shot is made anew", shown(&aside));
            deeds.note(Some(shot), CameTo::ToMake, what);
        }
        Ok(())
    }

    /// Joins the film of a finished story again, if it is not the one that the story notes, or was joined
    /// from other videos than its shots have.
    fn heal_film(
        &self,
        file: &mut StoryFile,
        records: &[ShotRecord],
        lease: &Lease,
        deeds: &mut Deeds,
    ) -> Result<(), RunError> {
        // Without run.json nobody else says how the shots were made.
        let method = records.first().map(|record| record.request().method);
        let method = method.unwrap_or(self.folder.method_of(file));
        if method.profile().media == Media::Picture {
            return Ok(());
        }
        let joined: Vec<String> = records
            .iter()
            .map(|record| record.file().content.blake3.clone())
            .collect();
        let is_of_these = file.joined.is_empty() || file.joined == joined;
        if is_of_these && self.has_film(file)? {
            return Ok(());
        }
        let Some(first) = records.first() else {
            return Ok(());
        };
        let root = self.folder.story(&file.id);
        let clips: Vec<ClipFile> = records
            .iter()
            .map(|record| ClipFile {
                path: root.join(&record.file().file),
                frames: record.frame_count(),
                content: record.file().content.clone(),
            })
            .collect();
        let path = root.join(WHOLE_VIDEO);
        lease.check()?;
        let content: BlobRef = self
            .videos
            .join_clips(&path, &clips, first.request().video.fps)?;
        file.video = Some(PictureRecord {
            file: WHOLE_VIDEO.to_owned(),
            content,
        });
        file.joined = joined;
        lease.check()?;
        self.folder.write_story(file)?;
        let what = format!("{} is joined again from its shots", shown(&path));
        deeds.note(None, CameTo::Healed, what);
        Ok(())
    }
}

/// Whether the shot is to be made again.
fn is_to_make(deeds: &Deeds, shot: ShotId) -> bool {
    let mut of_shot = deeds.list.iter().filter(|deed| deed.shot == Some(shot));
    of_shot.any(|deed| deed.came_to == CameTo::ToMake)
}
