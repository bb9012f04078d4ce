//! What each story remembers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storyloom_story::{LoopState, MemoryFrame, ShotId, StoryId};

use crate::error::{MemoryError, Result};
use crate::ledger::arrays::{EMBEDDING, decode_arrays, encode_arrays};
use crate::ledger::blobs::{self, BlobRef, BlobStore, Sweep};
use crate::ledger::index::MemoryIndex;
use crate::ledger::pictures::decode_picture;
use crate::ledger::record::{
    DigestedRecord, MemoryItem, PictureRecord, References, SeenRecord, ShotRecord,
};
use crate::ledger::saved_step::{Basis, StepCheckpoint};
use crate::ledger::soundness::{Harm, harms};
use crate::ledger::storage::{Storage, UNFINISHED, make_way};

/// The name of the record of a story's reference images.
const REFERENCES: &str = "references.json";

/// The ending of every record.
const RECORD: &str = ".json";

/// The memory of all stories of a run: records and blobs are read, the index remembers.
#[derive(Debug)]
pub struct MemoryBank {
    stories: PathBuf,
    storage: Arc<dyn Storage>,
    blobs: BlobStore,
    index: Box<dyn MemoryIndex>,
    run_id: String,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    /// The shot exists now.
    New,
    /// It existed already, as recorded here.
    Before(Box<ShotRecord>),
}

/// One item of a story's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// The shot it came from; `None` for a reference image.
    pub shot: Option<ShotId>,
    /// What is remembered of it.
    pub item: MemoryItem,
}

impl Remembered {
    /// How a shot that sees it records it.
    pub fn seen(&self) -> SeenRecord {
        self.item.seen(self.shot)
    }
}

impl MemoryBank {
    /// A bank over the folder that holds the stories' folders; `run_id` tells the run from others
    /// in the same index.
    pub fn new(
        stories: impl Into<PathBuf>,
        storage: Arc<dyn Storage>,
        blobs: BlobStore,
        index: Box<dyn MemoryIndex>,
        run_id: impl Into<String>,
    ) -> Self {
        Self {
            stories: stories.into(),
            storage,
            blobs,
            index,
            run_id: run_id.into(),
        }
    }

    /// The blobs beside the bank.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// The files under the bank.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// The folder of a story.
    pub fn story_folder(&self, story: &StoryId) -> PathBuf {
        self.stories.join(story.as_str())
    }

    /// Where the commit record of a shot lies.
    pub fn record_path(&self, story: &StoryId, shot: ShotId) -> PathBuf {
        self.story_folder(story)
            .join("commits")
            .join(format!("{shot}.json"))
    }

    /// Where the record of a story's reference images lies.
    pub fn references_path(&self, story: &StoryId) -> PathBuf {
        self.story_folder(story).join("commits").join(REFERENCES)
    }

    /// Whether the shot is done.
    pub fn is_committed(&self, story: &StoryId, shot: ShotId) -> bool {
        self.storage.exists(&self.record_path(story, shot))
    }

    /// The record of a shot, if it is done; a damaged record is an error.
    pub fn record(&self, story: &StoryId, shot: ShotId) -> Result<Option<ShotRecord>> {
        let path = self.record_path(story, shot);
        if !self.storage.exists(&path) {
            return Ok(None);
        }
        let record = ShotRecord::open(&path, &self.storage.read(&path)?)?;
        let request = record.request();
        if request.story != *story || request.shot != shot {
            let reason = format!("is the record of {} {}", request.story, request.shot);
            return Err(MemoryError::damaged(path, reason));
        }
        Ok(Some(record))
    }

    /// The record of a story's reference images, if it has any.
    pub fn references(&self, story: &StoryId) -> Result<Option<References>> {
        let path = self.references_path(story);
        if !self.storage.exists(&path) {
            return Ok(None);
        }
        References::open(&path, &self.storage.read(&path)?).map(Some)
    }

    /// Makes a shot exist, unless it does. Everything its record names must be durable already, and
    /// is looked for once more: a sweep may have been faster.
    ///
    /// Of several programs that made the same shot, one commits; the others are told what it
    /// committed. The files of the record get their names by [`MemoryBank::install`].
    pub fn commit(&self, record: &mut ShotRecord) -> Result<Committed> {
        let (story, shot) = (record.request().story.clone(), record.request().shot);
        let bytes = record.seal()?;
        let path = self.record_path(&story, shot);
        self.sync_staged(&story)?;
        let holds = || self.blobs.find_all(&record.blobs());
        if self.storage.create_if(&path, &bytes, &holds)? {
            self.remember(&story, &shot.to_string(), &record.kept());
            return Ok(Committed::New);
        }
        let existing = self.record(&story, shot)?;
        existing
            .map(|record| Committed::Before(Box::new(record)))
            .ok_or_else(|| MemoryError::damaged(path, "the record disappeared"))
    }

    /// What a record names must be found after it.
    fn sync_staged(&self, story: &StoryId) -> Result<()> {
        let staging = self.staging(story);
        match self.storage.metadata(&staging) {
            Some(found) if found.is_folder => self.storage.sync_names(&staging),
            _ => Ok(()),
        }
    }

    /// What of all that a shot's record names is gone or has other content.
    pub fn harms(&self, record: &ShotRecord) -> Result<Vec<Harm>> {
        let story = self.story_folder(&record.request().story);
        harms(&story, self.storage(), &self.blobs, &record.named())
    }

    /// As [`harms`](Self::harms), of a story's reference images.
    pub fn reference_harms(&self, story: &StoryId, record: &References) -> Result<Vec<Harm>> {
        let folder = self.story_folder(story);
        harms(&folder, self.storage(), &self.blobs, &record.named())
    }

    /// Puts reference images into a story's bank, unless they are there.
    pub fn commit_references(&self, story: &StoryId, record: &mut References) -> Result<()> {
        let bytes = record.seal()?;
        self.sync_staged(story)?;
        let (path, holds) = (self.references_path(story), || {
            self.blobs.find_all(&record.blobs())
        });
        if self.storage.create_if(&path, &bytes, &holds)? {
            self.remember(story, "references", &record.kept());
        }
        self.install_references(story).map(drop)
    }

    /// Gives a story's committed reference images their final names; tells whether it has any.
    pub fn install_references(&self, story: &StoryId) -> Result<bool> {
        let Some(record) = self.references(story)? else {
            return Ok(false);
        };
        self.install(story, &record.pictures())?;
        Ok(true)
    }

    /// Where a picture or video lies until its record is committed. Only committed content ever
    /// has a final name, also while another program makes the same shot.
    pub fn staged(&self, story: &StoryId, file: &str, content: &BlobRef) -> PathBuf {
        let extension = Path::new(file).extension().unwrap_or_default();
        self.staging(story)
            .join(&content.blake3)
            .with_extension(extension)
    }

    /// The folder of a story's staged files.
    pub fn staging(&self, story: &StoryId) -> PathBuf {
        self.story_folder(story).join(".staged")
    }

    /// Stages a picture that will be called `file` in the story's folder.
    pub fn stage(&self, story: &StoryId, file: String, bytes: &[u8]) -> Result<PictureRecord> {
        let content = BlobRef::of(bytes);
        self.storage
            .write_content(&self.staged(story, &file, &content), bytes)?;
        Ok(PictureRecord { file, content })
    }

    /// Gives committed files their final names; those that have them are left alone.
    pub fn install(&self, story: &StoryId, pictures: &[&PictureRecord]) -> Result<()> {
        let mut folders = BTreeSet::new();
        for picture in pictures {
            let staged = self.staged(story, &picture.file, &picture.content);
            let path = self.story_folder(story).join(&picture.file);
            if !self.storage.exists(&staged) {
                continue;
            }
            // Then what is staged may be another shot's that looks the same.
            if self.storage.exists(&path)
                && BlobRef::of(&self.storage.read(&path)?) == picture.content
            {
                continue;
            }
            make_way(self.storage(), &path)?;
            match self.storage.give_name(&staged, &path) {
                // Another program was faster.
                Err(_) if !self.storage.exists(&staged) && self.storage.exists(&path) => {}
                result => result?,
            }
            folders.extend(path.parent().map(Path::to_owned));
        }
        for folder in folders {
            self.storage.sync_names(&folder)?;
        }
        Ok(())
    }

    fn checkpoint_path(&self, story: &StoryId, shot: ShotId) -> PathBuf {
        self.story_folder(story)
            .join("checkpoints")
            .join(format!("{shot}.json"))
    }

    /// Saves a shot that is being made, in place of what was saved of it before.
    pub fn save_step(&self, basis: &Basis, state: &LoopState) -> Result<()> {
        let (story, shot) = (&basis.request.story, basis.request.shot);
        let path = self.checkpoint_path(story, shot);
        let before = self.step_record(&path);
        let arrays = self.blobs.put(&encode_arrays(&state.arrays)?)?;
        let mut record = StepCheckpoint::new(basis.clone(), state, arrays);
        self.storage.write(&path, &record.seal()?)?;
        match before {
            Ok(Some(before)) if before.arrays != record.arrays => self.blobs.remove(&before.arrays),
            _ => Ok(()),
        }
    }

    /// What was saved of a shot, if it fits; otherwise the reason why it does not.
    pub fn saved_step(&self, basis: &Basis) -> Result<Option<LoopState>, String> {
        let path = self.checkpoint_path(&basis.request.story, basis.request.shot);
        let Some(record) = self.step_record(&path).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        if let Some(part) = record.basis.difference(basis) {
            return Err(format!("it was made with something else: {part}"));
        }
        let name = Path::new(&record.arrays.blake3);
        let bytes = self.blobs.get(&record.arrays);
        let arrays = bytes.and_then(|bytes| decode_arrays(name, &bytes));
        Ok(Some(LoopState {
            pass: record.pass,
            done: record.done,
            total: record.total,
            order: record.order,
            arrays: arrays.map_err(|error| error.to_string())?,
        }))
    }

    /// Removes what was saved of a shot.
    pub fn forget_step(&self, story: &StoryId, shot: ShotId) -> Result<()> {
        let path = self.checkpoint_path(story, shot);
        if !self.storage.exists(&path) {
            return Ok(());
        }
        let record = self.step_record(&path);
        self.storage.remove(&path)?;
        match record {
            Ok(Some(record)) => self.blobs.remove(&record.arrays),
            _ => Ok(()),
        }
    }

    fn step_record(&self, path: &Path) -> Result<Option<StepCheckpoint>> {
        step_record(self.storage(), path)
    }

    /// The bank of a story after its reference images and the given finished shots, oldest first.
    ///
    /// What the index does not know is read from the records and put into it.
    pub fn history(&self, story: &StoryId, done: &[ShotId]) -> Result<Vec<Remembered>> {
        let references = || {
            let record = self.references(story)?;
            Ok(record.map(|record| record.kept()).unwrap_or_default())
        };
        let items = self.indexed(story, "references", references)?;
        let remembered = |shot| move |item| Remembered { shot, item };
        let mut history: Vec<Remembered> = items.into_iter().map(remembered(None)).collect();
        for &shot in done {
            let items = self.indexed(story, &shot.to_string(), || {
                let record = self.record(story, shot)?;
                record.map(|record| record.kept()).ok_or_else(|| {
                    MemoryError::damaged(self.record_path(story, shot), "the record is gone")
                })
            })?;
            history.extend(items.into_iter().map(remembered(Some(shot))));
        }
        Ok(history)
    }

    fn indexed(
        &self,
        story: &StoryId,
        part: &str,
        read: impl FnOnce() -> Result<Vec<MemoryItem>>,
    ) -> Result<Vec<MemoryItem>> {
        let known = self
            .index
            .get(&self.key(story, part))
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the memory index does not answer; the records do");
                None
            });
        if let Some(items) = known.and_then(|value| serde_json::from_slice(&value).ok()) {
            return Ok(items);
        }
        let items = read()?;
        // Not synced: a program that read the record once can read it again.
        self.put_index(story, part, &items, false);
        Ok(items)
    }

    /// Puts items into the index. An error there is only logged: the records have it all.
    fn remember(&self, story: &StoryId, part: &str, items: &[MemoryItem]) {
        self.put_index(story, part, items, true);
    }

    fn put_index(&self, story: &StoryId, part: &str, items: &[MemoryItem], sync: bool) {
        let put = || {
            let value = serde_json::to_vec(items)
                .map_err(|error| MemoryError::damaged("an index value", error.to_string()))?;
            self.index.put(&self.key(story, part), &value)?;
            if sync { self.index.flush() } else { Ok(()) }
        };
        if let Err(error) = put() {
            tracing::warn!(%error, %story, part, "not in the memory index; the record is safe");
        }
    }

    /// Makes durable what the index learned from records.
    pub fn flush_index(&self) -> Result<()> {
        self.index.flush()
    }

    /// One index may serve several runs, whose stories may have the same names.
    fn key(&self, story: &StoryId, part: &str) -> String {
        format!("{}/{story}/{part}", self.run_id)
    }

    /// A remembered item with its picture and what networks see of it, see [`load_item`].
    pub fn load(&self, story: &StoryId, remembered: &Remembered) -> Result<MemoryFrame> {
        let folder = self.story_folder(story);
        load_item(self.storage(), &folder, &self.blobs, remembered)
    }

    /// The embedding of a remembered item; `None` where its method asks for none.
    pub fn embedding(&self, remembered: &Remembered) -> Result<Option<Vec<f32>>> {
        let blob = remembered.item.arrays.get(EMBEDDING);
        blob.map(|blob| Ok(self.blobs.array(blob)?.into_data()))
            .transpose()
    }
}

/// A remembered item of the story in `folder`, with its picture and what networks see of it, checked against
/// its record. Of its arrays nothing stays in memory: they are read again, and checked again, for who uses
/// them.
pub fn load_item(
    storage: &dyn Storage,
    folder: &Path,
    blobs: &BlobStore,
    remembered: &Remembered,
) -> Result<MemoryFrame> {
    let item = &remembered.item;
    let image = match &item.picture {
        Some(picture) => {
            let path = folder.join(&picture.file);
            let bytes = storage.read(&path)?;
            blobs::check(&path, &bytes, &picture.content)?;
            Some(decode_picture(&path, &bytes)?)
        }
        None => None,
    };
    // Embeddings are for choosing, not for seeing.
    let arrays = item.arrays.iter().filter(|(name, _)| *name != EMBEDDING);
    let arrays = arrays.map(|(name, blob)| Ok((name.clone(), blobs.stored_array(blob)?)));
    Ok(MemoryFrame {
        hash: remembered.seen().blake3,
        image,
        arrays: arrays.collect::<Result<_>>()?,
    })
}

fn step_record(storage: &dyn Storage, path: &Path) -> Result<Option<StepCheckpoint>> {
    if !storage.exists(path) {
        return Ok(None);
    }
    StepCheckpoint::open(path, &storage.read(path)?).map(Some)
}

/// Removes blobs that no record and no saved step of the stories in `stories` names and that are
/// older than `grace`.
///
/// # Errors
/// A record cannot be read: then nobody knows what it names, and nothing is removed.
pub fn sweep(
    stories: &Path,
    storage: &dyn Storage,
    blobs: &BlobStore,
    grace: Duration,
) -> Result<Sweep> {
    blobs.sweep(&|| named(stories, storage), grace)
}

/// Digests of the blobs that records name, also records that are just being made, and saved steps: by
/// listings, which leave out nothing that stays.
fn named(stories: &Path, storage: &dyn Storage) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for story in storage.list(stories)? {
        let commits = stories.join(&story).join("commits");
        let mut names = storage.list(&commits)?;
        // A record may get its name between the two looks: then the second one has it.
        let is_unfinished = |name: &String| name.starts_with(UNFINISHED);
        let (unfinished, _) = names.into_iter().partition::<Vec<_>, _>(is_unfinished);
        for name in unfinished {
            // One that is gone is listed below, and one that was cut off will never be finished.
            if let Ok(bytes) = storage.read(&commits.join(&name)) {
                used.extend(blobs_of(&name, &commits.join(&name), &bytes).unwrap_or_default());
            }
        }
        names = storage.list(&commits)?;
        // What was moved aside names nothing that is still to be used.
        let is_record = |name: &&String| !is_unfinished(name) && name.ends_with(RECORD);
        for name in names.iter().filter(is_record) {
            let path = commits.join(name);
            used.extend(blobs_of(name, &path, &storage.read(&path)?)?);
        }
        let checkpoints = stories.join(&story).join("checkpoints");
        for name in storage.list(&checkpoints)? {
            // One that is gone or damaged will not be used.
            if let Ok(Some(record)) = step_record(storage, &checkpoints.join(name)) {
                used.insert(record.arrays.blake3);
            }
        }
    }
    Ok(used)
}

/// Digests of the blobs that the record in the file `name` names.
fn blobs_of(name: &str, path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    if name.ends_with(REFERENCES) {
        return Ok(References::open(path, bytes)?.blobs());
    }
    Ok(ShotRecord::open(path, bytes)?.blobs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::index::{IndexKind, open_index};
    use crate::ledger::record::tests::{record, record_2};
    use crate::ledger::storage::Disk;

    fn bank(root: &Path, kind: IndexKind) -> MemoryBank {
        let storage: Arc<dyn Storage> = Arc::new(Disk);
        let blobs = BlobStore::new(root.join("blobs"), storage.clone());
        // What the records of the tests name.
        for content in [&b"latents"[..], b"tail", b"latent", b"embedding"] {
            blobs.put(content).unwrap();
        }
        let index = open_index(kind, &root.join("bank")).unwrap().index;
        MemoryBank::new(root.join("stories"), storage, blobs, index, "run")
    }

    #[test]
    fn a_deleted_index_gives_the_same_answers() {
        for kind in [IndexKind::Sled, IndexKind::Redb] {
            let folder = tempfile::tempdir().unwrap();
            let story = StoryId::new("a").unwrap();
            let shots = [1, 2, 3].map(|shot| ShotId { scene: 1, shot });
            let before = {
                let bank = bank(folder.path(), kind);
                for shot in shots {
                    bank.commit(&mut ShotRecord::V1(record(shot))).unwrap();
                    assert!(bank.is_committed(&story, shot));
                }
                bank.history(&story, &shots).unwrap()
            };
            assert_eq!(before.len(), 3);
            std::fs::remove_dir_all(folder.path().join("bank")).unwrap();
            let bank = bank(folder.path(), kind);
            assert_eq!(bank.history(&story, &shots).unwrap(), before);
            let missing = ShotId { scene: 9, shot: 9 };
            assert!(bank.history(&story, &[missing]).is_err());
            assert_eq!(bank.record(&story, missing).unwrap(), None);
        }
    }

    /// Files are staged under their content.
    #[test]
    fn pictures_that_look_the_same_keep_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let bank = bank(folder.path(), IndexKind::Sled);
        let story = StoryId::new("a").unwrap();
        let stage = |file: &str| bank.stage(&story, file.to_owned(), b"same").unwrap();
        let install = |picture: &PictureRecord| bank.install(&story, &[picture]).unwrap();
        let one = stage("1.png");
        install(&one);
        let two = stage("2.png");
        // As a program that goes on with a story does for all that it finds.
        install(&one);
        install(&two);
        let read = |file: &str| std::fs::read(bank.story_folder(&story).join(file)).unwrap();
        assert_eq!(
            (read("1.png"), read("2.png")),
            (b"same".into(), b"same".into())
        );
        // What has a name and no record any more gives way.
        let other = bank.stage(&story, "2.png".to_owned(), b"other").unwrap();
        install(&other);
        assert_eq!(read("2.png"), b"other");
    }

    #[test]
    fn nothing_is_committed_whose_blobs_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let bank = bank(folder.path(), IndexKind::Sled);
        let shot = ShotId { scene: 1, shot: 1 };
        bank.blobs.remove(&BlobRef::of(b"tail")).unwrap();
        let error = bank
            .commit(&mut ShotRecord::V1(record(shot)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot find"), "{error}");
        let story = StoryId::new("a").unwrap();
        assert!(!bank.is_committed(&story, shot));
        bank.blobs.put(b"tail").unwrap();
        assert_eq!(
            bank.commit(&mut ShotRecord::V1(record(shot))).unwrap(),
            Committed::New
        );
    }

    /// What the records of either format name is still to be used, and nothing else is.
    #[test]
    fn a_sweep_leaves_what_records_of_either_format_name() {
        let folder = tempfile::tempdir().unwrap();
        let bank = bank(folder.path(), IndexKind::Sled);
        let [first, second] = [1, 2].map(|shot| ShotId { scene: 1, shot });
        for content in [&b"keyframe"[..], b"tokens", b"nobody's"] {
            bank.blobs.put(content).unwrap();
        }
        bank.commit(&mut ShotRecord::V1(record(first))).unwrap();
        bank.commit(&mut ShotRecord::V2(record_2(second))).unwrap();
        let stories = folder.path().join("stories");
        let swept = sweep(&stories, bank.storage(), &bank.blobs, Duration::ZERO).unwrap();
        assert_eq!(swept.removed, 1);
        for content in [&b"keyframe"[..], b"tokens", b"latents", b"embedding"] {
            assert!(bank.blobs.get(&BlobRef::of(content)).is_ok());
        }
        let history = bank.history(&StoryId::new("a").unwrap(), &[first, second]);
        let names = history
            .unwrap()
            .iter()
            .map(|item| item.seen().file)
            .collect::<Vec<_>>();
        assert_eq!(names, ["keyframes/01_01_keyframe0.png", "01_02#0"]);
    }

    #[test]
    fn a_record_under_another_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bank = bank(folder.path(), IndexKind::Sled);
        let story = StoryId::new("a").unwrap();
        let [first, second] = [1, 2].map(|shot| ShotId { scene: 1, shot });
        bank.commit(&mut ShotRecord::V1(record(first))).unwrap();
        std::fs::copy(
            bank.record_path(&story, first),
            bank.record_path(&story, second),
        )
        .unwrap();
        let error = bank.record(&story, second).unwrap_err().to_string();
        assert!(error.contains("is the record of a 01_01"), "{error}");
    }
}
