//! `story.json`: a story of a run, and how far it is.

use serde::{Deserialize, Serialize};
use storyloom_memory::{PictureRecord, ShotRecord};
use storyloom_story::{
    Brief, Fit, Ground, Line, Method, Resolution, ShotId, ShotScript, StoryEntry, StoryId,
    StoryNotes, StoryScript,
};

use crate::folder::folder_file::{FOLDER_FORMAT, FolderFile};
use crate::folder::input_file::InputFile;
use crate::folder::no_keyframes::NoKeyframes;
use crate::folder::sizes::FileSizes;
use crate::folder::story_cost::StoryCost;

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
    /// A ready-made video that is its first shot, as the manifest named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_shot: Option<String>,
    /// How they are put into the film's shape, if not as the run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// The colour behind them, if not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// What its story script says of it beside the script, for metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<StoryNotes>,
    /// What the [files that it begins with](Self::begins_with) were when it was begun, in the same order; empty before, and in stories that
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
    pub work: Option<StoryCost>,
    /// Of a finished story that was to remember and kept no keyframe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_keyframes: Option<NoKeyframes>,
}

impl FolderFile for StoryFile {
    const IS_SEALED: bool = true;
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

impl StoryFile {
    /// A story that has not begun.
    pub fn pending(line: &Line) -> Self {
        match line {
            Line::Story(entry) => Self::of_entry(entry),
            Line::Brief(brief) => Self::of_brief(brief),
        }
    }

    /// A story of which nothing but the name is known.
    pub(crate) fn unknown(story: &StoryId) -> Self {
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: Vec::new(),
        };
        Self::of_entry(&StoryEntry::new(story.clone(), script))
    }

    /// A story that asks for nothing.
    fn blank(id: StoryId) -> Self {
        Self {
            format: FOLDER_FORMAT,
            id,
            script: None,
            brief: None,
            plan: None,
            method: None,
            seed: None,
            tenant: None,
            reference_images: Vec::new(),
            first_shot: None,
            fit: None,
            ground: None,
            notes: None,
            inputs: Vec::new(),
            size: None,
            state: StoryState::Pending,
            video: None,
            joined: Vec::new(),
            sizes: FileSizes::default(),
            work: None,
            no_keyframes: None,
        }
    }

    fn of_brief(brief: &Brief) -> Self {
        Self {
            brief: Some(Box::new(brief.clone())),
            method: brief.method,
            seed: brief.seed,
            tenant: brief.tenant.clone(),
            reference_images: brief.product_image.iter().cloned().collect(),
            fit: brief.fit,
            ground: brief.ground,
            size: brief.size,
            ..Self::blank(brief.id.clone())
        }
    }

    fn of_entry(entry: &StoryEntry) -> Self {
        Self {
            script: Some(entry.script.clone()),
            method: entry.method,
            seed: entry.seed,
            tenant: entry.tenant.clone(),
            reference_images: entry.reference_images.clone(),
            first_shot: entry.first_shot.clone(),
            fit: entry.fit,
            ground: entry.ground,
            notes: entry.notes.clone(),
            size: entry.size,
            ..Self::blank(entry.id.clone())
        }
    }

    /// The files that it begins with, as the manifest named them: its reference images, or a ready-made first
    /// shot.
    pub(crate) fn begins_with(&self) -> impl Iterator<Item = &String> {
        self.reference_images.iter().chain(&self.first_shot)
    }

    /// Whether it begins with any file.
    pub(crate) fn has_inputs(&self) -> bool {
        self.begins_with().next().is_some()
    }

    /// The shots of its script, in order; none while it is not planned.
    pub fn shots(&self) -> impl Iterator<Item = (ShotId, &ShotScript)> {
        self.script.iter().flat_map(StoryScript::shots)
    }

    /// Places of the shots before `shot` in which a character of that one is, oldest first, by the tags that the
    /// story was begun with.
    pub(crate) fn related(&self, shot: ShotId) -> Vec<u32> {
        let place = self.shots().position(|(other, _)| other == shot);
        let related = self.notes.as_ref().zip(place);
        let places = related.map(|(notes, place)| notes.related(place));
        let places = places.into_iter().flatten();
        places.map(|place| place as u32).collect()
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
