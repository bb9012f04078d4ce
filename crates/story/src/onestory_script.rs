//! Story scripts of OneStory: one JSON object a line, each a whole story (specification `onestory`, section 1.1).
//! They are read as lines of a manifest; here is what they look like, and how one is written.

use std::fmt;
use std::str::FromStr;

use jsonc_parser::ast::Value;
use serde::Serialize;

use crate::brief::is_zero;
use crate::clean::plain_text;
use crate::fit::{Fit, Ground};
use crate::ids::{ShotId, StoryId};
use crate::manifest::StoryEntry;
use crate::notes::{ShotNotes, StoryPattern, named};
use crate::script::ShotScript;
use crate::video::Resolution;

/// The only value of `schema`.
pub const SCHEMA: &str = "storyloom.os.story/1";

/// What the schemas of all versions begin with.
const FAMILY: &str = "storyloom.os.story";

/// The keys of a script: those of the schema, and those of every line that say how it is made.
pub(crate) const KEYS: [&str; 15] = [
    "schema",
    "id",
    "setting",
    "pattern",
    "fps",
    "frames",
    "size",
    "first_image",
    "first_shot",
    "shots",
    "seed",
    "tenant",
    "priority",
    "fit",
    "ground",
];

/// The keys of a shot.
pub(crate) const SHOT_KEYS: [&str; 4] = ["i", "caption", "characters", "environment"];

/// What the first shot of a story is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Setting {
    /// Its caption.
    T2msv,
    /// Its caption and its first frame.
    I2msv,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        named([("t2msv", Self::T2msv), ("i2msv", Self::I2msv)], name)
    }
}

/// Whether a line is meant as a story script of OneStory: by its schema, or by a list of shots, which nothing
/// else has.
pub(crate) fn is_onestory_script(value: &Value<'_>) -> bool {
    let Value::Object(object) = value else {
        return false;
    };
    let schema = object.get("schema").map(|property| &property.value);
    let shots = object.get("shots").map(|property| &property.value);
    match (schema, shots) {
        (Some(Value::StringLit(schema)), _) => schema.value.starts_with(FAMILY),
        (None, Some(Value::Array(_))) => object.get("script").is_none(),
        _ => false,
    }
}

/// Whether nothing is left of a caption when it is cleaned up.
pub(crate) fn says_nothing(caption: &str) -> bool {
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    plain_text(caption).chars().all(is_blank)
}

/// Why a story cannot be written as a story script of OneStory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOneStory {
    /// It begins with more reference images than one.
    Images {
        /// The story.
        story: StoryId,
        /// How many.
        images: usize,
    },
    /// Nothing is left of a prompt when it is cleaned up.
    Caption {
        /// The story.
        story: StoryId,
        /// The shot, as the script has it.
        shot: ShotId,
    },
}

impl NotOneStory {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Images { .. } => "leave the picture that the first shot is to begin with",
            Self::Caption { .. } => "describe what the shot shows",
        }
    }
}

impl fmt::Display for NotOneStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images { story, images } => write!(
                f,
                "the story {story} has {images} reference images, and a story of OneStory begins with at most one"
            ),
            Self::Caption { story, shot } => write!(
                f,
                "the story {story}, shot {shot}: nothing is left of its prompt without tags and invisible \
                 characters"
            ),
        }
    }
}

impl std::error::Error for NotOneStory {}

/// A line, in the order of the specification.
#[derive(Serialize)]
struct ScriptLine<'a> {
    schema: &'static str,
    id: &'a StoryId,
    setting: Setting,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<StoryPattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u32>,
    /// Height and width.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_shot: Option<&'a str>,
    shots: Vec<ShotLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<Fit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ground: Option<Ground>,
}

#[derive(Serialize)]
struct ShotLine<'a> {
    i: usize,
    caption: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    characters: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
}

/// A story as a line of story scripts of OneStory, its scenes one after the other. A shot without a cut becomes
/// one like all others; its title, its overview and prompts of first frames have no counterpart.
///
/// # Errors
/// It begins with more than one picture, or a prompt says nothing.
pub fn onestory_line(entry: &StoryEntry) -> Result<String, NotOneStory> {
    let first_image = match entry.reference_images.as_slice() {
        [] => None,
        [image] => Some(image.as_str()),
        images => {
            return Err(NotOneStory::Images {
                story: entry.id.clone(),
                images: images.len(),
            });
        }
    };
    let setting = match first_image {
        None => Setting::T2msv,
        Some(_) => Setting::I2msv,
    };
    let notes = entry.notes.as_ref();
    let line = ScriptLine {
        schema: SCHEMA,
        id: &entry.id,
        setting,
        pattern: notes.and_then(|notes| notes.pattern),
        fps: notes.and_then(|notes| notes.fps),
        frames: notes.and_then(|notes| notes.frames),
        size: entry
            .size
            .map(|Resolution { width, height }| [height, width]),
        first_image,
        first_shot: entry.first_shot.as_deref(),
        shots: shot_lines(entry)?,
        seed: entry.seed,
        tenant: entry.tenant.as_deref(),
        priority: entry.priority,
        fit: entry.fit,
        ground: entry.ground,
    };
    // Serialising plain data into memory does not fail.
    Ok(serde_json::to_string(&line).unwrap_or_default())
}

fn shot_lines(entry: &StoryEntry) -> Result<Vec<ShotLine<'_>>, NotOneStory> {
    let notes = entry.notes.as_ref().map_or(&[][..], |notes| &notes.shots);
    let shots = entry.script.shots().enumerate();
    let lines = shots.map(
        |(position, (shot, script))| match says_nothing(&script.prompt) {
            false => Ok(shot_line(position + 1, script, notes.get(position))),
            true => Err(NotOneStory::Caption {
                story: entry.id.clone(),
                shot,
            }),
        },
    );
    lines.collect()
}

fn shot_line<'a>(i: usize, script: &'a ShotScript, notes: Option<&'a ShotNotes>) -> ShotLine<'a> {
    ShotLine {
        i,
        caption: &script.prompt,
        characters: notes.map_or(&[], |notes| &notes.characters),
        environment: notes.and_then(|notes| notes.environment.as_deref()),
    }
}
