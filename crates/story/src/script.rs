//! Story scripts in the ST-Bench format.

use serde::{Deserialize, Serialize};

use crate::ids::ShotId;

/// A story: scenes of shots. Serialises to the ST-Bench format that
/// [`parse_script`](crate::script_reader::parse_script) reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryScript {
    /// Title.
    #[serde(
        rename = "story_name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub name: Option<String>,
    /// What the story is about, in a few sentences; used by metrics only.
    #[serde(
        rename = "story_overview",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub overview: Option<String>,
    /// The scenes in order; never empty.
    pub scenes: Vec<Scene>,
}

/// A scene; its shots follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SceneColumns", into = "SceneColumns")]
pub struct Scene {
    /// Number from 1; part of file names.
    pub number: u32,
    /// The shots in order; never empty.
    pub shots: Vec<ShotScript>,
}

/// What one shot shows and how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// A scene as ST-Bench writes it: one list per property of its shots.
#[derive(Serialize, Deserialize)]
struct SceneColumns {
    scene_num: u32,
    video_prompts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    first_frame_prompt: Vec<String>,
    cut: Vec<bool>,
}

impl From<Scene> for SceneColumns {
    fn from(scene: Scene) -> Self {
        let shots = &scene.shots;
        let any_first_frame = shots.iter().any(|shot| shot.first_frame_prompt.is_some());
        let first_frame = |shot: &ShotScript| shot.first_frame_prompt.clone().unwrap_or_default();
        Self {
            scene_num: scene.number,
            first_frame_prompt: if any_first_frame {
                shots.iter().map(first_frame).collect()
            } else {
                Vec::new()
            },
            cut: shots.iter().map(|shot| shot.cut).collect(),
            video_prompts: scene.shots.into_iter().map(|shot| shot.prompt).collect(),
        }
    }
}

impl TryFrom<SceneColumns> for Scene {
    type Error = String;

    fn try_from(columns: SceneColumns) -> Result<Self, Self::Error> {
        let shots = columns.video_prompts.len();
        let first_frames = columns.first_frame_prompt.len();
        if columns.cut.len() != shots || (first_frames != 0 && first_frames != shots) {
            return Err(format!(
                "scene {} has {shots} prompts, {} cuts and {first_frames} first frame prompts",
                columns.scene_num,
                columns.cut.len(),
            ));
        }
        let mut first_frames = columns.first_frame_prompt.into_iter();
        let shots = columns.video_prompts.into_iter().zip(columns.cut);
        Ok(Self {
            number: columns.scene_num,
            shots: shots
                .map(|(prompt, cut)| ShotScript {
                    prompt,
                    first_frame_prompt: first_frames.next().filter(|text| !text.is_empty()),
                    cut,
                })
                .collect(),
        })
    }
}
