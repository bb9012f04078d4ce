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

use serde::{Deserialize, Serialize};
use storyloom_memory::soundness::why_unreadable;
use storyloom_memory::{MemoryError, PictureRecord, ShotRecord, Storage};
use storyloom_story::{
    Brief, Fit, Ground, Line, Method, Resolution, ShotId, ShotScript, StoryEntry, StoryId,
    StoryScript,
};

use crate::engine::EngineDescription;
use crate::error::RunError;
use crate::folder::folder_file::{FolderFile, Found, to_json};
use crate::folder::identity::RunIdentity;
use crate::folder::input_file::InputFile;
use crate::folder::lists::Lists;
use crate::folder::no_keyframes::NoKeyframes;
use crate::folder::plan_record::{PlanRecord, is_damage};
use crate::folder::seal::{NO_SEAL, Seal, take_seal};
use crate::folder::sizes::FileSizes;
use crate::folder::terms::MethodTerms;
use crate::folder::work::Work;

/// The version of the folder's form that this program writes and reads.
pub const FOLDER_FORMAT: u32 = 1;

/// The first version whose `run.json` and `story.json` carry a [seal](crate::folder::seal).
const SEALED_SINCE: [u64; 3] = [0, 2, 0];

/// What helps where `run.json` and its copy do not agree.
pub(crate) const IN_DOUBT: &str = "it names other settings than run.json, and neither has a seal that tells \
                                   which of the two was changed: compare them, remove the wrong one, and \
                                   start the run again";

/// What helps where `run.json` does not.
const BEGIN_AGAIN: &str = "start the run again with its own command, which writes the file anew from \
                           what it is asked for, and keeps a damaged one beside it";

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// [`FOLDER_FORMAT`].
    pub format: u32,
    /// Tells the run from others; stays when the folder is moved or copied.
    pub run_id: String,
    /// Version of the program that began the run.
    pub version: String,
    /// What made the pictures.
    pub engine: EngineDescription,
    /// The settings that decide the pictures; a second start must agree in them.
    pub identity: RunIdentity,
    /// What decides the shots of each method, but for StoryMem in a run of its own: `engine` and `identity`
    /// say that, as in runs of earlier builds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub methods: BTreeMap<Method, MethodTerms>,
    /// All resolved settings of the first start.
    pub config: serde_json::Value,
    /// blake3 over the manifest's stories, in order.
    pub manifest_digest: String,
    /// The lists of stories that may have no file of their own yet, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
    /// The stories in the order in which they are made.
    pub stories: Vec<StoryId>,
}

impl FolderFile for RunFile {
    const IS_SEALED: bool = true;

    /// Only runs of earlier builds have no seal, and neither a method.
    fn check(&self, seal: Seal) -> Result<(), String> {
        let (has_seal, has_method) = (seal != Seal::None, self.identity.method.is_some());
        match (has_seal, has_method || self.is_of_sealed_build()) {
            (false, true) => Err(NO_SEAL.to_owned()),
            (true, _) if !has_method => Err("identity: missing field `method`".to_owned()),
            _ => Ok(()),
        }
    }
}

impl FolderFile for StoryFile {
    const IS_SEALED: bool = true;
}

/// `story.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoryFile {
    /// [`FOLDER_FORMAT`].
    pub format: u32,
    /// The story.
    pub id: StoryId,
    /// The script as run; `None` for a brief without a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<StoryScript>,
    /// What the script is planned from, if the manifest has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brief: Option<Box<Brief>>,
    /// Digest of the plan, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Its own method, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Its own seed, if it has one.
    pub seed: Option<u64>,
    /// Who it is for.
    pub tenant: Option<String>,
    /// Reference images, as the manifest named them.
    pub reference_images: Vec<String>,
    /// How they are put into the film's shape, if not as the run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// The colour behind them, if not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// What those were when the story was begun, in the same order; empty before, and in stories that
    /// earlier versions have begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputFile>,
    /// Size of the film and of each of its clips: what the manifest says, or decided before the first
    /// shot. Frames are made at its [generated](Resolution::generated) size.
    pub size: Option<Resolution>,
    /// How far it is.
    pub state: StoryState,
    /// The whole video, once all shots exist.
    pub video: Option<PictureRecord>,
    /// Digests of the shots' videos that it was joined from, in their order; empty in stories that
    /// earlier versions have finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<String>,
    /// How large the files of the finished story are.
    #[serde(default, skip_serializing_if = "FileSizes::is_empty")]
    pub sizes: FileSizes,
    /// What the finished story cost, so that nobody needs to read its records for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// Of a finished story that was to remember and kept no keyframe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_keyframes: Option<NoKeyframes>,
}

/// How far a story is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum StoryState {
    /// Not begun.
    Pending,
    /// Begun.
    Running,
    /// All shots and the whole video exist.
    Done,
    /// Given up at a shot for now; the next start tries again.
    Failed {
        /// The shot, if it got that far.
        shot: Option<ShotId>,
        /// Why.
        reason: String,
    },
    /// Given up at a shot whose every attempt failed; nobody tries again before `retry`.
    Quarantined {
        /// The shot, if it got that far.
        shot: Option<ShotId>,
        /// Why.
        reason: String,
    },
}

impl RunFile {
    /// What decides the shots of a method; `None` if it is none of the run's.
    pub fn terms(&self, method: Method) -> Option<MethodTerms> {
        let is_own = (method, self.identity.method()) == (Method::StoryMem, Method::StoryMem);
        match self.methods.get(&method) {
            Some(terms) => Some(terms.clone()),
            None if is_own => {
                let policy = self.identity.policy();
                Some(MethodTerms::new(method, self.engine.clone(), policy))
            }
            None => None,
        }
    }

    /// Whether the build that began the run puts a seal on what it writes. What is no version is none of
    /// an earlier build.
    pub(crate) fn is_of_sealed_build(&self) -> bool {
        let numbers = self.version.split('.').map(str::parse::<u64>);
        match numbers.collect::<Result<Vec<u64>, _>>() {
            Ok(numbers) => numbers.as_slice() >= SEALED_SINCE.as_slice(),
            Err(_) => true,
        }
    }
}

impl StoryFile {
    /// A story that has not begun.
    pub fn pending(line: &Line) -> Self {
        match line {
            Line::Story(entry) => Self::of_entry(entry),
            Line::Brief(brief) => Self::of_brief(brief),
        }
    }

    /// A story of which nothing but the name is known.
    fn unknown(story: &StoryId) -> Self {
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: Vec::new(),
        };
        Self::of_entry(&StoryEntry::new(story.clone(), script))
    }

    fn of_brief(brief: &Brief) -> Self {
        Self {
            format: FOLDER_FORMAT,
            id: brief.id.clone(),
            script: None,
            brief: Some(Box::new(brief.clone())),
            plan: None,
            method: brief.method,
            seed: brief.seed,
            tenant: brief.tenant.clone(),
            reference_images: brief.product_image.iter().cloned().collect(),
            fit: brief.fit,
            ground: brief.ground,
            inputs: Vec::new(),
            size: brief.size,
            state: StoryState::Pending,
            video: None,
            joined: Vec::new(),
            sizes: FileSizes::default(),
            work: None,
            no_keyframes: None,
        }
    }

    fn of_entry(entry: &StoryEntry) -> Self {
        Self {
            format: FOLDER_FORMAT,
            id: entry.id.clone(),
            script: Some(entry.script.clone()),
            brief: None,
            plan: None,
            method: entry.method,
            seed: entry.seed,
            tenant: entry.tenant.clone(),
            reference_images: entry.reference_images.clone(),
            fit: entry.fit,
            ground: entry.ground,
            inputs: Vec::new(),
            size: entry.size,
            state: StoryState::Pending,
            video: None,
            joined: Vec::new(),
            sizes: FileSizes::default(),
            work: None,
            no_keyframes: None,
        }
    }

    /// The shots of its script, in order; none while it is not planned.
    pub fn shots(&self) -> impl Iterator<Item = (ShotId, &ShotScript)> {
        self.script.iter().flat_map(StoryScript::shots)
    }

    /// Size of its film: of a story that does not know it, that of the frames of `record`.
    pub(crate) fn film(&self, record: &ShotRecord) -> Resolution {
        let (width, height) = record.frame_size();
        self.size.unwrap_or(Resolution { width, height })
    }

    /// Number of its shots: those that its brief asks for while it is not planned.
    pub fn shot_count(&self) -> usize {
        match (&self.script, &self.brief) {
            (Some(script), _) => script.shot_count(),
            (None, Some(brief)) => brief.shots as usize,
            (None, None) => 0,
        }
    }
}

/// An opened run folder.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    storage: Arc<dyn Storage>,
    lists: Lists,
    /// The run's method, once somebody knows it.
    method: OnceLock<Method>,
}

impl RunFolder {
    /// The folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>, storage: Arc<dyn Storage>) -> Self {
        Self {
            root: root.into(),
            storage,
            lists: Lists::default(),
            method: OnceLock::new(),
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
    }

    /// Stories that do not say it are made by this method. It stays that of the run.
    pub(crate) fn note_method(&self, method: Method) {
        let _ = self.method.set(method);
    }

    /// How shots are conditioned of stories that do not say it themselves.
    pub(crate) fn method(&self) -> Method {
        self.method.get().copied().unwrap_or(Method::StoryMem)
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

    /// As [`story_file`](Self::story_file), for those who look on: a story that cannot be read has failed
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
        let file: StoryFile = self.read_json(&path)?;
        let wrong = |reason: String| RunError::Folder {
            path: path.clone(),
            reason,
        };
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
