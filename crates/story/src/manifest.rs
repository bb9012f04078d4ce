//! The list of stories to make.

use serde::Serialize;

use crate::brief::{Brief, is_zero};
use crate::fit::{Fit, Ground};
use crate::ids::StoryId;
use crate::method::Method;
use crate::notes::StoryNotes;
use crate::onestory_script::onestory_line;
use crate::script::StoryScript;
use crate::video::Resolution;

/// One story of a manifest, checked. Serialises to a line of a manifest, its script inside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoryEntry {
    /// Name of the story in the run, unique.
    pub id: StoryId,
    /// What to make.
    pub script: StoryScript,
    /// Method, if not the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Run seed, if not the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Who it is for; free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Larger is sooner; 0 if not given.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// Size of the video in pixels, if not the run's.
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::video::pair")]
    pub size: Option<Resolution>,
    /// How its reference images are put into the film's shape, if not as the run does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// The colour behind its reference images, if not the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// Paths of pictures that stand in the memory bank before the first shot (StoryMem MR2V),
    /// relative to the manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reference_images: Vec<String>,
    /// Path of a ready-made video that is the first shot (OneStory), relative to the manifest. A story has either
    /// this or reference images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_shot: Option<String>,
    /// What its story script of OneStory says beside; `None` for all other stories. A line of the form above has
    /// no place for it: [`onestory_line`](crate::onestory_script::onestory_line) writes one that has.
    #[serde(skip)]
    pub notes: Option<StoryNotes>,
}

impl StoryEntry {
    /// A story with nothing but its name and its script.
    pub fn new(id: StoryId, script: StoryScript) -> Self {
        Self {
            id,
            script,
            method: None,
            seed: None,
            tenant: None,
            priority: 0,
            size: None,
            fit: None,
            ground: None,
            reference_images: Vec::new(),
            first_shot: None,
            notes: None,
        }
    }

    /// A line of a manifest that asks for this story. One with notes is a story script of OneStory, as it came: the
    /// other form has no place for them.
    pub fn line(&self) -> String {
        let script = self.notes.as_ref().map(|_| onestory_line(self));
        match script {
            Some(Ok(line)) => line,
            // Plain data into memory: this does not fail.
            Some(Err(_)) | None => serde_json::to_string(self).unwrap_or_default(),
        }
    }
}

/// The stories of a run, in the order of the manifest; ids are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// The stories.
    pub stories: Vec<StoryEntry>,
}

/// A story that is asked for and whose script cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The story.
    pub story: StoryId,
    /// Why its script cannot be read.
    pub reason: String,
    /// How many stories stand before it.
    pub position: usize,
}

/// One line of a file of stories and briefs, checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// A story that has its script.
    Story(StoryEntry),
    /// A story that must be planned first.
    Brief(Brief),
}

impl Line {
    /// Name of the story, unique in the file.
    pub fn id(&self) -> &StoryId {
        match self {
            Self::Story(entry) => &entry.id,
            Self::Brief(brief) => &brief.id,
        }
    }

    /// Its own method, if it has one.
    pub fn method(&self) -> Option<Method> {
        match self {
            Self::Story(entry) => entry.method,
            Self::Brief(brief) => brief.method,
        }
    }
}
