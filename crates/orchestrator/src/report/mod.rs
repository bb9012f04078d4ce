//! A static page of a run: `DIR/report/index.html`, from the records only.

use std::path::{Path, PathBuf};

use minijinja::Environment;
use serde::Serialize;
use storyloom_memory::{BlobRef, CommitRecord};
use storyloom_story::Stage;

use crate::config::Videos;
use crate::error::RunError;
use crate::output::{PLACEHOLDER, write_poster};
use crate::run_folder::{RunFolder, StoryFile, StoryState};
use crate::status::{Counts, readable_record, status};

const PAGE: &str = include_str!("page.html");
/// Width of the pictures of the contact sheets, in pixels.
const POSTER_WIDTH: u32 = 320;

#[derive(Serialize)]
struct Page {
    title: String,
    engine: String,
    version: String,
    stories: Counts,
    shots: Counts,
    shots_per_hour: Option<f64>,
    has_videos: bool,
    list: Vec<StoryView>,
}

#[derive(Serialize)]
struct StoryView {
    id: String,
    name: Option<String>,
    overview: Option<String>,
    state: &'static str,
    reason: Option<String>,
    video: Option<String>,
    shots: Vec<ShotView>,
}

#[derive(Serialize)]
struct ShotView {
    id: String,
    prompt: String,
    made: Option<MadeView>,
}

#[derive(Serialize)]
struct MadeView {
    poster: String,
    video: String,
    opening: &'static str,
    frames: u32,
    seconds: f64,
    stages: Vec<(&'static str, f64)>,
    saw: Vec<String>,
    added: Vec<String>,
}

/// Writes the report of the run in `folder` and returns the page's path.
///
/// Pictures that an earlier report made are kept.
pub fn write_report(folder: &RunFolder) -> Result<PathBuf, RunError> {
    let run = folder.run_file()?;
    let status = status(folder)?;
    let mut list = Vec::with_capacity(run.stories.len());
    for id in &run.stories {
        list.push(view_story(folder, &folder.story_file(id)?)?);
    }
    let title = folder
        .root()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let page = Page {
        has_videos: run.videos() == Videos::Encoded,
        title: title.unwrap_or_else(|| "run".to_owned()),
        engine: run.engine.engine,
        version: run.version,
        stories: status.stories,
        shots: status.shots,
        shots_per_hour: status.shots_per_hour,
        list,
    };
    let path = folder.root().join("report/index.html");
    let html = render(&page).map_err(|error| RunError::Folder {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    folder.storage().write(&path, html.as_bytes())?;
    Ok(path)
}

fn render(page: &Page) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    // The name ends in .html, which turns on escaping.
    environment.add_template("page.html", PAGE)?;
    environment
        .get_template("page.html")?
        .render(minijinja::value::Serde(page))
}

fn view_story(folder: &RunFolder, file: &StoryFile) -> Result<StoryView, RunError> {
    let (state, reason) = match &file.state {
        StoryState::Pending => ("pending", None),
        StoryState::Running => ("running", None),
        StoryState::Done => ("done", None),
        StoryState::Failed { reason, .. } => ("failed", Some(reason.clone())),
        StoryState::Quarantined { reason, .. } => ("quarantined", Some(reason.clone())),
    };
    let mut shots = Vec::new();
    for (shot, script) in file.script.shots() {
        let record = readable_record(folder, &file.id, shot);
        let made = record
            .map(|record| view_shot(folder, file, &record))
            .transpose()?;
        shots.push(ShotView {
            id: shot.to_string(),
            prompt: script.prompt.clone(),
            made,
        });
    }
    let video = file.video.as_ref();
    Ok(StoryView {
        id: file.id.to_string(),
        name: file.script.name.clone(),
        overview: file.script.overview.clone(),
        state,
        reason,
        video: video.map(|video| format!("../stories/{}/{}", file.id, video.file)),
        shots,
    })
}

fn view_shot(
    folder: &RunFolder,
    file: &StoryFile,
    record: &CommitRecord,
) -> Result<MadeView, RunError> {
    let below = |name: &str| format!("../stories/{}/{name}", file.id);
    let poster = poster(folder, file, record)?;
    let stages = Stage::ALL.into_iter();
    let stages = stages
        .filter_map(|stage| Some((stage.name(), *record.seconds.get(&stage)?)))
        .collect();
    Ok(MadeView {
        poster,
        video: below(&record.video.file),
        opening: match record.request.opening {
            storyloom_story::Opening::Text => "from text",
            storyloom_story::Opening::Memory => "cut, from memory",
            storyloom_story::Opening::LastFrame => "continues the last frame",
            storyloom_story::Opening::Motion => "continues the last five frames",
        },
        frames: record.frame_count,
        seconds: record.seconds.values().sum(),
        stages,
        saw: record
            .memory_seen
            .iter()
            .map(|seen| below(&seen.file))
            .collect(),
        added: record
            .keyframes
            .iter()
            .map(|key| below(&key.picture.file))
            .collect(),
    })
}

/// The picture of a shot on the contact sheet: its middle frame, named by the video's content.
fn poster(folder: &RunFolder, file: &StoryFile, record: &CommitRecord) -> Result<String, RunError> {
    let content = &record.video.content.blake3;
    let digest = content.get(..12).unwrap_or(content);
    let name = format!("posters/{}/{}.{digest}.jpg", file.id, record.request.shot);
    let path = folder.root().join("report").join(&name);
    if !path.is_file() && *content != BlobRef::of(PLACEHOLDER).blake3 {
        let parent = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|error| RunError::Folder {
            path: parent.to_owned(),
            reason: error.to_string(),
        })?;
        let video = folder.story(&file.id).join(&record.video.file);
        if let Err(error) = write_poster(&video, record.frame_count / 2, POSTER_WIDTH, &path) {
            tracing::warn!(%error, "a shot of the report has no picture");
        }
    }
    Ok(name)
}
