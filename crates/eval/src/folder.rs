//! Reading the pictures of a run folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use storyloom_story::{RgbImage, StoryId, StoryScript};
use storyloom_tinyworld::{Story, grid};
use storyloom_training::error::TrainError;
use storyloom_training::json;
use storyloom_training::reader::{Reader, Reading};

use super::EvalError;
use super::selection::{Selection, Selections};

/// The size at which pictures are read; those of another size are scaled.
const SIZE: (u32, u32) = (160, 96);

/// What was read of the pictures of a story.
#[derive(Debug, Clone, PartialEq)]
pub struct StoryReading {
    /// What they should show.
    pub story: Story,
    /// Each shot: the mean over its first, middle and last picture; `None` if it was not made.
    pub shots: Vec<Option<Reading>>,
    /// Each shot: which latent frames of earlier ones it saw; `None` if it was not made, or if no network
    /// chose any.
    pub selections: Vec<Option<Selection>>,
}

/// The part of `story.json` that matters here.
#[derive(Deserialize)]
struct StoryFile {
    script: StoryScript,
}

/// Reads the stories of the run in `folder`, in the order of their ids. Other stories are left out.
pub fn read_run(reader: &Reader, folder: &Path) -> Result<Vec<StoryReading>, EvalError> {
    let selections = Selections::of(folder)?;
    let mut readings = Vec::new();
    for story in stories(folder)? {
        readings.push(StoryReading {
            shots: read_shots(reader, folder, &story)?,
            selections: selections.story(&story)?,
            story,
        });
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
    let file: StoryFile = json::read(&path)?;
    if file.script.scenes == story.script().scenes {
        return Ok(());
    }
    Err(EvalError::OtherWorld {
        folder: folder.to_owned(),
        story: story.id.to_string(),
    })
}

fn read_shots(
    reader: &Reader,
    folder: &Path,
    story: &Story,
) -> Result<Vec<Option<Reading>>, EvalError> {
    let mut shots = Vec::with_capacity(story.shots.len());
    for video in videos(folder, story) {
        if !video.is_file() {
            shots.push(None);
            continue;
        }
        let frames = frames(&video)?;
        let last = frames.len().saturating_sub(1);
        let chosen = [0, last / 2, last].map(|frame| frames[frame].clone());
        shots.push(Reading::mean(&reader.read(&chosen)?));
    }
    Ok(shots)
}

/// The first `count` stories of the first run: for each, one row of pictures of every run, one
/// picture from the middle of each shot. Shots that were not made are grey.
pub fn run_sheet(folders: &[PathBuf], count: usize) -> Result<Option<image::RgbImage>, EvalError> {
    let Some(first) = folders.first() else {
        return Ok(None);
    };
    let mut rows = Vec::new();
    for story in stories(first)?.iter().take(count) {
        for folder in folders {
            rows.push(middles(folder, story)?);
        }
    }
    Ok(grid(&rows))
}

/// A picture from the middle of each shot.
fn middles(folder: &Path, story: &Story) -> Result<Vec<RgbImage>, EvalError> {
    let mut pictures = Vec::with_capacity(story.shots.len());
    for video in videos(folder, story) {
        let frames = match video.is_file() {
            true => frames(&video)?,
            false => Vec::new(),
        };
        let middle = frames.get(frames.len() / 2).cloned();
        pictures.extend(middle.or_else(grey));
    }
    Ok(pictures)
}

fn grey() -> Option<RgbImage> {
    let (width, height) = SIZE;
    let bytes = vec![128; width as usize * height as usize * 3];
    RgbImage::new(width, height, bytes).ok()
}

/// The videos of a story's shots, whether they are there or not.
fn videos(folder: &Path, story: &Story) -> Vec<PathBuf> {
    let folder = folder.join("stories").join(story.id.as_str());
    let script = story.script();
    let shots = script.shots();
    shots
        .map(|(shot, _)| folder.join(format!("{shot}.mp4")))
        .collect()
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use storyloom_tinyworld::{Draw, Scene, Split};

    use super::super::score::tests::forgetful;
    use super::*;
    use crate::{Metric, evaluate};

    /// Writes a video as a run does.
    fn write_video(path: &Path, scene: &Scene) {
        let mut child = Command::new("ffmpeg")
            .args(["-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"])
            .args([
                "-s", "160x96", "-r", "8", "-i", "pipe:0", "-c:v", "libx264", "-crf", "10",
            ])
            .args(["-pix_fmt", "yuv420p"])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for frame in scene.clip(9, 160, 96).unwrap().frames() {
            stdin.write_all(frame.data()).unwrap();
        }
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }

    /// A run folder whose pictures are drawn after `look`.
    fn write_run(folder: &Path, mut look: impl FnMut(&Scene) -> Scene) {
        for seed in 0..3 {
            let story = Story::draw(seed, Split::HeldOut);
            let videos = folder.join("stories").join(story.id.as_str());
            std::fs::create_dir_all(&videos).unwrap();
            let script = story.script();
            let file = serde_json::json!({ "script": script });
            std::fs::write(videos.join("story.json"), file.to_string()).unwrap();
            for ((id, _), shot) in script.shots().zip(&story.shots) {
                write_video(&videos.join(format!("{id}.mp4")), &look(&shot.scene));
            }
        }
    }

    #[test]
    fn real_pictures_are_consistent_and_those_without_memory_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let runs: Vec<PathBuf> = ["forgetful", "real"]
            .map(|name| folder.path().join(name))
            .into();
        let mut draw = Draw::new(2, 2);
        write_run(&runs[0], |scene| forgetful(scene, &mut draw));
        write_run(&runs[1], |scene| *scene);
        let reader = Reader::shipped().unwrap();
        let (evaluation, readings) = evaluate(&reader, &runs).unwrap();
        let [without, with] = [0, 1].map(|run| &evaluation.all.runs[run].metrics);
        assert!(with[&Metric::Consistency].value > 0.97, "{with:?}");
        assert!(with[&Metric::PromptFollowing].value > 0.97, "{with:?}");
        assert!(without[&Metric::Consistency].value < 0.75, "{without:?}");
        let gain = evaluation.all.comparisons[0].metrics[&Metric::Consistency];
        assert!(gain.difference.low > 0.2, "{gain:?}");
        let sheet = run_sheet(&runs, 2).unwrap().unwrap();
        assert_eq!((sheet.width(), sheet.height()), (8 * 163 - 3, 4 * 99 - 3));
        let csv = crate::shots_csv(&readings);
        let line = "1,tiny-held-out-0,01_01,subject,true,";
        assert!(csv.contains(line), "{csv}");
    }

    #[test]
    fn stories_of_other_runs_and_versions_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let stories = folder.path().join("stories");
        std::fs::create_dir_all(stories.join("lighthouse-keeper")).unwrap();
        let reader = Reader::untrained().unwrap();
        let failed = read_run(&reader, folder.path());
        assert!(
            matches!(failed, Err(EvalError::NoStories { .. })),
            "{failed:?}"
        );
        let other = Story::draw(4, Split::Train).script();
        let videos = stories.join("tiny-train-3");
        std::fs::create_dir_all(&videos).unwrap();
        let file = serde_json::json!({ "script": other }).to_string();
        std::fs::write(videos.join("story.json"), file).unwrap();
        let failed = read_run(&reader, folder.path());
        assert!(
            matches!(failed, Err(EvalError::OtherWorld { .. })),
            "{failed:?}"
        );
    }
}
