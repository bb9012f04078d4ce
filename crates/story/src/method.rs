//! How a shot is conditioned and what is remembered of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::ShotId;

/// A way to keep a long story consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A bank of keyframes injected into the latents of Wan2.2 (StoryMem, arXiv 2512.19539).
    #[serde(rename = "storymem")]
    StoryMem,
    /// Earlier latents, selected by a network (OneStory, arXiv 2512.07802).
    #[serde(rename = "onestory")]
    OneStory,
    /// One picture a shot, planned by a language model (Narrative Weaver).
    NarrativeWeaver,
    /// Keyframes from tokens of a language model, then clips (MovieDreamer, arXiv 2407.16655).
    #[serde(rename = "moviedreamer")]
    MovieDreamer,
}

/// What a method makes of a shot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// A video.
    Clip,
    /// One picture.
    Picture,
}

impl Media {
    /// Frames of a shot where a clip has `frames`.
    pub fn frames(self, frames: u32) -> u32 {
        match self {
            Self::Clip => frames,
            Self::Picture => 1,
        }
    }

    /// What the file of a shot is called, in the folder of its story.
    pub fn file_name(self, shot: ShotId) -> String {
        match self {
            Self::Clip => format!("{shot}.mp4"),
            Self::Picture => format!("{shot}.png"),
        }
    }
}

/// What the orchestrator has to know of a method: its row in the table below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodProfile {
    /// The name used in configs, manifests and records.
    pub name: &'static str,
    /// What a shot is.
    pub media: Media,
    /// The format of its commit records.
    pub record_format: u32,
    /// Whether a shot without a cut goes on from the frames of the one before.
    pub continues: bool,
}

impl Method {
    /// Every method that has a name.
    pub const KNOWN: [Self; 4] = [
        Self::StoryMem,
        Self::OneStory,
        Self::NarrativeWeaver,
        Self::MovieDreamer,
    ];

    /// Every method whose networks this version has. Without networks all of them can be pretended.
    pub const WITH_NETWORKS: [Self; 2] = [Self::StoryMem, Self::OneStory];

    /// Its row in the table of methods.
    pub const fn profile(self) -> MethodProfile {
        let (name, media, record_format, continues) = match self {
            Self::StoryMem => ("storymem", Media::Clip, 1, true),
            Self::OneStory => ("onestory", Media::Clip, 2, false),
            Self::NarrativeWeaver => ("narrative-weaver", Media::Picture, 2, false),
            Self::MovieDreamer => ("moviedreamer", Media::Clip, 2, false),
        };
        MethodProfile {
            name,
            media,
            record_format,
            continues,
        }
    }

    /// The name used in configs, manifests and records.
    pub fn name(self) -> &'static str {
        self.profile().name
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a shot whose `cut` is false continues from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Continuation {
    /// Nothing: every shot is made as after a cut.
    None,
    /// The last frame of the shot before (StoryMem MI2V).
    Mi2v,
    /// The last five frames of the shot before (StoryMem MM2V).
    Mm2v,
}

impl Continuation {
    /// How a shot begins whose `cut` is false.
    pub fn opening(self) -> Opening {
        match self {
            Self::None => Opening::Memory,
            Self::Mi2v => Opening::LastFrame,
            Self::Mm2v => Opening::Motion,
        }
    }
}

/// How one shot begins; decides its condition and how many decoded frames are dropped.
///
/// StoryMem specification, section 3.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opening {
    /// The story's first shot without reference images: text to video, no memory.
    Text,
    /// A hard cut: memory only (M2V, and MR2V when the memory starts with reference images).
    Memory,
    /// Memory and the last frame of the shot before (MI2V).
    LastFrame,
    /// Memory and the last five frames of the shot before (MM2V).
    Motion,
}

impl Opening {
    /// The most frames that any shot is given: those at the end of each shot are kept without loss.
    pub const MOST_GIVEN_FRAMES: usize = Self::Motion.given_frames();

    /// Pixel frames at the start of the clip that are given, not generated; they repeat the end
    /// of the shot before and are dropped from what is saved.
    pub const fn given_frames(self) -> usize {
        match self {
            Self::Text | Self::Memory => 0,
            Self::LastFrame => 1,
            Self::Motion => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_one_name_everywhere() {
        for method in Method::KNOWN {
            let written = serde_json::to_string(&method).unwrap();
            assert_eq!(written, format!("\"{method}\""));
        }
    }

    #[test]
    fn saved_lengths_are_those_of_storymem_3_6() {
        let saved = |opening: Opening| 81 - opening.given_frames();
        assert_eq!(
            [
                Opening::Text,
                Opening::Memory,
                Opening::LastFrame,
                Opening::Motion
            ]
            .map(saved),
            [81, 81, 80, 76]
        );
    }
}
