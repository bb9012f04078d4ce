//! What the bank held for each shot, for people to look at.

use serde::Serialize;
use storyloom_story::{Opening, ShotId, StoryId};

use crate::error::RunError;
use crate::folder::records::{readable_record, references};
use crate::folder::run_folder::RunFolder;

/// The memory of one shot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShotMemory {
    /// The shot.
    pub shot: ShotId,
    /// How it begins.
    pub opening: Opening,
    /// Pictures it saw, oldest first, as files of the story's folder.
    pub saw: Vec<String>,
    /// Pictures it added.
    pub added: Vec<AddedPicture>,
}

/// A picture that entered the bank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AddedPicture {
    /// File in the story's folder.
    pub file: String,
    /// Index of the frame in the shot.
    pub frame: u32,
    /// Its quality score.
    pub quality: f32,
}

/// The memory of a story.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoryMemory {
    /// The story.
    pub story: StoryId,
    /// Its reference images, as files of the story's folder.
    pub references: Vec<String>,
    /// Its finished shots.
    pub shots: Vec<ShotMemory>,
}

/// Reads what a story's shots saw and added; only `shot` if it is given.
pub fn story_memory(
    folder: &RunFolder,
    story: &StoryId,
    shot: Option<ShotId>,
) -> Result<StoryMemory, RunError> {
    let file = folder.story_file(story)?;
    let references = references(folder, story)?;
    let mut shots = Vec::new();
    for (id, _) in file.shots() {
        if shot.is_some_and(|wanted| wanted != id) {
            continue;
        }
        let Some(record) = readable_record(folder, story, id) else {
            continue;
        };
        shots.push(ShotMemory {
            shot: id,
            opening: record.request.opening,
            saw: record
                .memory_seen
                .into_iter()
                .map(|seen| seen.file)
                .collect(),
            added: record
                .keyframes
                .into_iter()
                .map(|keyframe| AddedPicture {
                    file: keyframe.picture.file,
                    frame: keyframe.frame,
                    quality: keyframe.quality,
                })
                .collect(),
        });
    }
    let references = references
        .into_iter()
        .map(|picture| picture.picture.file)
        .collect();
    Ok(StoryMemory {
        story: story.clone(),
        references,
        shots,
    })
}
