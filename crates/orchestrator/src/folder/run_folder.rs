//! The run folder: where everything lies, and what it belongs to.
//!
//! ```text
//! DIR/run.json                      what the run is: settings, engine, stories
//! DIR/drain.json                    there while no new shots are to be begun
//! DIR/planner.json                  who plans the stories of briefs
//! DIR/lists/                        the stories as they were asked for, until each has a file of its own;
//!                                   and a copy of run.json
//! DIR/stories/ID/story.json         the script as run or the brief, and the story's state
//! DIR/stories/ID/plan.json          the plan of a brief
//! DIR/stories/ID/SS_HH.mp4          the shots, and story.mp4
//! DIR/stories/ID/keyframes/         what is remembered, PNG
//! DIR/stories/ID/commits/SS_HH.json commit records
//! DIR/stories/ID/checkpoints/       shots that are being made
//! DIR/stories/ID/.staged/           files whose record is not committed yet
//! DIR/blobs/                        latents and embeddings
//! DIR/bank/N/                       the memory index of the N-th program at work
//! DIR/leases/                       who works on which story
//! DIR/logs/shifts/                  what each program did, instant by instant
//! DIR/metrics/                      where Prometheus finds the programs, and their last figures
//! DIR/quarantine/                   stories that cannot be made, each to be tried alone
//! DIR/changed/                      stories of which something else is asked for than was made
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use storyloom_memory::soundness::why_unreadable;
use storyloom_memory::{MemoryError, Storage};
use storyloom_story::{Method, StoryId};

use crate::engine::EngineDescription;
use crate::error::RunError;
use crate::folder::folder_file::{FolderFile, Found, to_json};
use crate::folder::identity::RunIdentity;
use crate::folder::lists::Lists;
use crate::folder::plan_record::{PlanRecord, is_damage};
use crate::folder::seal::{NO_SEAL, Seal, take_seal};

pub use crate::folder::folder_file::FOLDER_FORMAT;
pub use crate::folder::run_file::RunFile;
pub use crate::folder::story_file::{StoryFile, StoryState};

/// What helps where `run.json` and its copy do not agree.
pub(crate) const IN_DOUBT: &str = "it names other settings than run.json, and neither has a seal that tells \
                                   which of the two was changed: compare them, remove the wrong one, and \
                                   start the run again";

/// What helps where `run.json` does not.
const BEGIN_AGAIN: &str = "start the run again with its own command, which writes the file anew from \
                           what it is asked for, and keeps a damaged one beside it";

/// An opened run folder.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    storage: Arc<dyn Storage>,
    lists: Lists,
    /// The run's method, once somebody knows it.
    method: OnceLock<Method>,
    /// Whether the build that began the run seals each `story.json`, once somebody knows it.
    is_sealed: OnceLock<bool>,
}

impl RunFolder {
    /// The folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>, storage: Arc<dyn Storage>) -> Self {
        Self {
            root: root.into(),
            storage,
            lists: Lists::default(),
            method: OnceLock::new(),
            is_sealed: OnceLock::new(),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of all stories.
    pub fn stories(&self) -> PathBuf {
        self.root.join("stories")
    }

    /// The folder of one story.
    pub fn story(&self, story: &StoryId) -> PathBuf {
        self.stories().join(story.as_str())
    }

    /// The folder of the blobs.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The folder of the memory indexes, where the storage has folders.
    pub(crate) fn index(&self) -> Option<PathBuf> {
        self.storage.local_folder(&self.root.join("bank"))
    }

    /// The files.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Reads `run.json`.
    pub fn run_file(&self) -> Result<RunFile, RunError> {
        match self.find_run_file()? {
            Found::Sound(run) => Ok(run),
            Found::Damaged(reason) => Err(RunError::Folder {
                path: self.run_path(),
                reason: format!("{reason}; {BEGIN_AGAIN}"),
            }),
            Found::Gone if self.storage().is_taken(&self.stories()) => {
                Err(self.wrong(format!("its run.json is gone; {BEGIN_AGAIN}")))
            }
            Found::Gone => {
                Err(self.wrong("this is not a run folder: it has no run.json".to_owned()))
            }
        }
    }

    pub(crate) fn run_path(&self) -> PathBuf {
        self.root.join("run.json")
    }

    /// Where a second `run.json` lies: what it says of the settings stands nowhere else.
    pub(crate) fn run_copy(&self) -> PathBuf {
        self.root.join("lists/run.json")
    }

    /// Reads `run.json`, whatever stands there; where it is gone or damaged, the copy.
    pub(crate) fn find_run_file(&self) -> Result<Found<RunFile>, RunError> {
        let mut found = self.find_json(&self.run_path())?;
        if !matches!(found, Found::Sound(_))
            && let Found::Sound(copy) = self.find_json(&self.run_copy())?
        {
            found = Found::Sound(copy);
        }
        if let Found::Sound(run) = &found {
            self.note_run(run);
        }
        Ok(found)
    }

    /// From now on stories without a file of their own are those of the lists that `run` names, and those
    /// without a method have its own.
    pub(crate) fn note_run(&self, run: &RunFile) {
        self.lists.are(&run.lists);
        self.note_method(run.identity.method());
        let _ = self.is_sealed.set(run.is_of_sealed_build());
    }

    /// Stories that do not say it are made by this method. It stays that of the run.
    pub(crate) fn note_method(&self, method: Method) {
        let _ = self.method.set(method);
    }

    /// How shots are conditioned of stories that do not say it themselves.
    pub(crate) fn method(&self) -> Method {
        self.method.get().copied().unwrap_or(Method::StoryMem)
    }

    /// As [`method_of`](Self::method_of), where the story or the run says it.
    pub(crate) fn known_method(&self, file: &StoryFile) -> Option<Method> {
        file.method.or(self.method.get().copied())
    }

    /// How the shots of a story are conditioned.
    pub(crate) fn method_of(&self, file: &StoryFile) -> Method {
        file.method.unwrap_or(self.method())
    }

    /// Whether there is a copy of `run.json` that is not what `run.json` is.
    pub(crate) fn has_other_copy(&self) -> Result<bool, RunError> {
        let copy = self.run_copy();
        if !self.storage().is_taken(&copy) {
            return Ok(false);
        }
        let copy = match self.storage().read(&copy) {
            Err(error) if why_unreadable(&error).is_some() => return Ok(true),
            copy => copy?,
        };
        Ok(copy != self.storage().read(&self.run_path())?)
    }

    /// Whether `run.json` and its copy name other settings, and nothing tells which of the two was changed:
    /// they are of an earlier build, which put no seal on them.
    pub(crate) fn is_in_doubt(&self, run: &RunFile) -> Result<bool, RunError> {
        if run.identity.method.is_some() || run.is_of_sealed_build() {
            return Ok(false);
        }
        let what = |run: &RunFile| (run.identity.clone(), run.engine.clone(), run.run_id.clone());
        Ok(match self.find_json::<RunFile>(&self.run_copy())? {
            Found::Sound(copy) => what(&copy) != what(run),
            Found::Gone | Found::Damaged(_) => false,
        })
    }

    /// Reads a story's `story.json`, with the script of its plan if it has one. A story that nobody has
    /// taken yet is what the list says that it comes from.
    pub fn story_file(&self, story: &StoryId) -> Result<StoryFile, RunError> {
        let file = match self.read_story(story) {
            Err(error) if is_missing(&error) => match self.listed(story)? {
                Some(file) => file,
                None => return Err(error),
            },
            file => file?,
        };
        self.with_plan(file)
    }

    /// As [`story_file`](Self::story_file), for readers: a story that cannot be read has failed
    /// for that reason. What is not known of it is not there.
    pub(crate) fn story_to_show(&self, story: &StoryId) -> StoryFile {
        self.story_file(story).unwrap_or_else(|error| {
            let asked = self.listed(story).ok().flatten();
            StoryFile {
                state: StoryState::Failed {
                    shot: None,
                    reason: format!("unreadable: {error}; the next start looks after it"),
                },
                ..asked.unwrap_or_else(|| StoryFile::unknown(story))
            }
        })
    }

    /// As [`story_file`](Self::story_file), but `None` for a story that has no file of its own.
    pub(crate) fn written_story(&self, story: &StoryId) -> Result<Option<StoryFile>, RunError> {
        match self.read_story(story) {
            Err(error) if is_missing(&error) => Ok(None),
            file => self.with_plan(file?).map(Some),
        }
    }

    pub(crate) fn read_story(&self, story: &StoryId) -> Result<StoryFile, RunError> {
        let path = self.story(story).join("story.json");
        let (file, seal): (StoryFile, Seal) = self.read_with_seal(&path)?;
        let wrong = |reason: String| RunError::Folder {
            path: path.clone(),
            reason,
        };
        if seal == Seal::None && self.is_sealed.get() == Some(&true) {
            return Err(wrong(format!("the file is damaged: {NO_SEAL}")));
        }
        if &file.id != story {
            return Err(wrong(format!("it is the story {}, not {story}", file.id)));
        }
        match (&file.script, &file.brief) {
            (None, None) => Err(wrong("it has neither a script nor a brief".to_owned())),
            _ => Ok(file),
        }
    }

    /// Whether a story has a file of its own that carries no seal.
    pub(crate) fn is_unsealed(&self, story: &StoryId) -> Result<bool, RunError> {
        let path = self.story(story).join("story.json");
        if !self.storage().exists(&path) {
            return Ok(false);
        }
        let file = serde_json::from_slice(&self.storage().read(&path)?);
        Ok(file.is_ok_and(|mut file| take_seal(&mut file) == Seal::None))
    }

    /// A story that has no file of its own, as it was asked for.
    fn listed(&self, story: &StoryId) -> Result<Option<StoryFile>, RunError> {
        if !self.lists.are_known() && self.run_file().is_err() {
            return Ok(None);
        }
        self.lists.story(story, &self.root, self.storage.as_ref())
    }

    /// With the script of its plan, if it needs one and there is one.
    pub(crate) fn with_plan(&self, mut file: StoryFile) -> Result<StoryFile, RunError> {
        if file.script.is_some() {
            return Ok(file);
        }
        let plan = match self.plan(&file.id) {
            // The same seed makes the same plan.
            Err(error) if is_damage(&error) => {
                tracing::warn!(story = %file.id, "{error}; the plan is made again");
                None
            }
            plan => plan?,
        };
        if let Some(plan) = plan {
            file.plan = Some(plan.name().clone());
            file.script = Some(plan.script);
        }
        Ok(file)
    }

    /// Writes a story's file without syncing it, for figures of large runs.
    pub(crate) fn fill_story(&self, file: &StoryFile) -> Result<(), RunError> {
        self.fill(&self.story(&file.id).join("story.json"), file)
    }

    /// Writes a run of these stories without syncing it, for figures of large runs.
    pub(crate) fn fill_run(
        &self,
        identity: RunIdentity,
        stories: Vec<StoryId>,
    ) -> Result<(), RunError> {
        let run = RunFile {
            format: FOLDER_FORMAT,
            run_id: "bench".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: EngineDescription {
                engine: "none".to_owned(),
                fingerprint: String::new(),
                arithmetic: String::new(),
                models: Vec::new(),
                quality_score: String::new(),
            },
            identity,
            methods: BTreeMap::new(),
            config: serde_json::Value::Null,
            manifest_digest: String::new(),
            lists: Vec::new(),
            stories,
        };
        self.fill(&self.root.join("run.json"), &run)
    }

    fn fill(&self, path: &Path, value: &impl FolderFile) -> Result<(), RunError> {
        Ok(self.storage.write_unsynced(path, &to_json(path, value)?)?)
    }

    /// Writes a story's `story.json`.
    pub fn write_story(&self, file: &StoryFile) -> Result<(), RunError> {
        self.write_json(&self.story(&file.id).join("story.json"), file)
    }

    /// Where the plan of a story lies, if it has one.
    pub(crate) fn plan_path(&self, story: &StoryId) -> PathBuf {
        self.story(story).join("plan.json")
    }

    /// The plan of a story, if there is one.
    ///
    /// # Errors
    /// It cannot be read, was changed after it was written, or is another story's.
    pub(crate) fn plan(&self, story: &StoryId) -> Result<Option<PlanRecord>, RunError> {
        let path = self.plan_path(story);
        if !self.storage.exists(&path) {
            return Ok(None);
        }
        PlanRecord::of_story(story, &path, &self.storage.read(&path)?).map(Some)
    }

    /// The folder of the leases.
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(crate) fn wrong(&self, reason: String) -> RunError {
        RunError::Folder {
            path: self.root.clone(),
            reason,
        }
    }
}

/// Whether an error is that a file is not there.
fn is_missing(error: &RunError) -> bool {
    match error {
        RunError::Memory(MemoryError::Storage { source, .. }) => {
            source.kind() == io::ErrorKind::NotFound
        }
        _ => false,
    }
}
