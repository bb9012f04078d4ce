//! Story scripts in the ST-Bench format.

use serde::{Deserialize, Serialize};

use crate::ids::ShotId;

/// A story: scenes of shots. Serialises to the ST-Bench format it is parsed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryScript {
    /// Title.
    pub name: Option<String>,
    /// What the story is about, in a few sentences; used by metrics only.
    pub overview: Option<String>,
    /// The scenes in order; never empty.
    pub scenes: Vec<Scene>,
}

/// A scene; its shots follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// Number from 1; part of file names.
    pub number: u32,
    /// The shots in order; never empty.
    pub shots: Vec<ShotScript>,
}

/// What one shot shows and how it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShotScript {
    /// Text prompt of the video.
    pub prompt: String,
    /// Text prompt of the first frame, for methods that draw keyframes first.
    pub first_frame_prompt: Option<String>,
    /// True: the shot opens with a hard cut. False: it continues from the shot before.
    pub cut: bool,
}

impl StoryScript {
    /// The shots of the story in order.
    pub fn shots(&self) -> impl Iterator<Item = (ShotId, &ShotScript)> {
        self.scenes.iter().flat_map(|scene| {
            scene.shots.iter().zip(1..).map(|(shot, position)| {
                (
                    ShotId {
                        scene: scene.number,
                        shot: position,
                    },
                    shot,
                )
            })
        })
    }

    /// Number of shots.
    pub fn shot_count(&self) -> usize {
        self.scenes.iter().map(|scene| scene.shots.len()).sum()
    }
}
