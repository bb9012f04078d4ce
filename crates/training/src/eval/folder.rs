//! Reading the pictures of a run folder.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use storyloom_story::{RgbImage, ShotId, StoryId, StoryScript};

use super::EvalError;
use crate::error::TrainError;
use crate::reader::{Reader, Reading};
use crate::world::Story;

/// The size at which pictures are read; those of another size are scaled.
const SIZE: (u32, u32) = (160, 96);

/// What was read of the pictures of a story.
#[derive(Debug, Clone, PartialEq)]
pub struct StoryReading {
    /// What they should show.
    pub story: Story,
    /// Each shot: the mean over its first, middle and last picture; `None` if it was not made.
    pub shots: Vec<Option<Reading>>,
}

/// The part of `story.json` that matters here.
#[derive(Deserialize)]
struct StoryFile {
    script: StoryScript,
}

/// Reads the stories of the run in `folder`, in the order of their ids. Other stories are left out.
pub fn read_run(reader: &Reader, folder: &Path) -> Result<Vec<StoryReading>, EvalError> {
    let mut readings = Vec::new();
    for story in stories(folder)? {
        readings.push(read_story(reader, folder, story)?);
    }
    Ok(readings)
}

/// The stories of the drawn world in `folder`.
fn stories(folder: &Path) -> Result<Vec<Story>, EvalError> {
    let path = folder.join("stories");
    let entries = std::fs::read_dir(&path).map_err(|error| TrainError::io(&path, error))?;
    let mut stories = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| TrainError::io(&path, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = StoryId::new(name).ok();
        if let Some(story) = id.as_ref().and_then(Story::named) {
            check(folder, &story)?;
            stories.push(story);
        }
    }
    stories.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    if stories.is_empty() {
        let folder = folder.to_owned();
        return Err(EvalError::NoStories { folder });
    }
    Ok(stories)
}

/// Whether the story was made from the very prompts that its id stands for.
fn check(folder: &Path, story: &Story) -> Result<(), EvalError> {
    let path = folder
        .join("stories")
        .join(story.id.as_str())
        .join("story.json");
    let bytes = std::fs::read(&path).map_err(|error| TrainError::io(&path, error))?;
    let file: StoryFile =
        serde_json::from_slice(&bytes).map_err(|error| TrainError::bad_file(&path, error))?;
    if file.script.scenes == story.script().scenes {
        return Ok(());
    }
    Err(EvalError::OtherWorld {
        folder: folder.to_owned(),
        story: story.id.to_string(),
    })
}

fn read_story(reader: &Reader, folder: &Path, story: Story) -> Result<StoryReading, EvalError> {
    let videos = folder.join("stories").join(story.id.as_str());
    let ids: Vec<ShotId> = story.script().shots().map(|(shot, _)| shot).collect();
    let mut shots = Vec::with_capacity(ids.len());
    for shot in ids {
        let video = videos.join(format!("{shot}.mp4"));
        if !video.is_file() {
            shots.push(None);
            continue;
        }
        let frames = frames(&video)?;
        let last = frames.len().saturating_sub(1);
        let chosen = [0, last / 2, last].map(|frame| frames[frame].clone());
        shots.push(Reading::mean(&reader.read(&chosen)?));
    }
    Ok(StoryReading { story, shots })
}

/// All pictures of a video; at least one.
fn frames(video: &Path) -> Result<Vec<RgbImage>, EvalError> {
    let (width, height) = SIZE;
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-i"])
        .arg(video)
        .args(["-vf", &format!("scale={width}:{height}:flags=area")])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| EvalError::NoFfmpeg {
            reason: error.to_string(),
        })?;
    let size = width as usize * height as usize * 3;
    let pictures = output.stdout.chunks_exact(size);
    let frames: Vec<RgbImage> = pictures
        .filter_map(|bytes| RgbImage::new(width, height, bytes.to_vec()).ok())
        .collect();
    if output.status.success() && !frames.is_empty() {
        return Ok(frames);
    }
    Err(EvalError::Video {
        path: video.to_owned(),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
