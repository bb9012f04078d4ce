//! What the bank held for each shot, for people to look at.

use serde::Serialize;
use storyloom_memory::BlobStore;
use storyloom_story::{Opening, ShotId, StoryId};

use crate::error::RunError;
use crate::folder::records::{readable_record, references};
use crate::folder::run_folder::RunFolder;
use crate::view::chosen::Offered;

pub use crate::view::chosen::{ChoiceView, ChosenFrameView, EarlierShot};

/// The memory of one shot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShotMemory {
    /// The shot.
    pub shot: ShotId,
    /// How it begins.
    pub opening: Opening,
    /// What it saw, oldest first: files of the story's folder, or names of what has no picture.
    pub saw: Vec<String>,
    /// Which latent frames of that it saw and how finely, where its networks choose by scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChoiceView>,
    /// What it added.
    pub added: Vec<AddedItem>,
}

/// Something that entered the memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AddedItem {
    /// File in the story's folder, or its name if it has no picture.
    pub file: String,
    /// Index of the frame in the shot; nothing of what stands for the whole shot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<u32>,
    /// Its quality score, if its method asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<f32>,
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
    let run = folder.run_file()?;
    let blobs = BlobStore::new(folder.blobs(), folder.storage().clone());
    let references = references(folder, story)?;
    let mut offered = Offered::new(&references);
    let mut shots = Vec::new();
    for (id, _) in file.shots() {
        let Some(record) = readable_record(folder, story, id) else {
            continue;
        };
        let chosen = match shot.is_none_or(|wanted| wanted == id) {
            true => Some(offered.view(&record, &run, &blobs)),
            false => None,
        };
        offered.add(&record, run.identity.grid);
        let Some(chosen) = chosen else {
            continue;
        };
        shots.push(ShotMemory {
            shot: id,
            opening: record.request().opening,
            saw: record.seen().iter().map(|seen| seen.file.clone()).collect(),
            chosen,
            added: record
                .kept()
                .into_iter()
                .map(|item| AddedItem {
                    file: item.seen(Some(id)).file,
                    frame: item.frame,
                    quality: item.quality,
                })
                .collect(),
        });
    }
    let references = references
        .into_iter()
        .map(|item| item.seen(None).file)
        .collect();
    Ok(StoryMemory {
        story: story.clone(),
        references,
        shots,
    })
}
