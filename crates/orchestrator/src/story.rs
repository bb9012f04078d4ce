//! One story: a chain of shots, each of which sees the ones before.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use storyloom_memory::arrays::encode_array;
use storyloom_memory::commit::RECORD_FORMAT;
use storyloom_memory::pictures::decode_picture;
use storyloom_memory::window::{WindowSettings, window};
use storyloom_memory::{
    BlobRef, CommitRecord, KeyframeRecord, MemoryError, PictureRecord, ReferencesRecord,
};
use storyloom_story::{
    Continuation, ErrorClass, Method, Opening, Resolution, RgbImage, Seed, ShotId, ShotRequest,
    ShotScript, VideoSpec,
};
use storyloom_telemetry::Event;

use crate::config::RunConfig;
use crate::engine::ShotEngine;
use crate::error::RunError;
use crate::run_folder::{RunFolder, StoryFile, StoryState};
use crate::shot::{ShotPlan, Studio, check_scores, make_shot, store_picture, vector};

/// Why a story could not be finished, and at which shot.
#[derive(Debug)]
pub struct StoryError {
    /// The shot; `None` before the first.
    pub shot: Option<ShotId>,
    /// What happened.
    pub error: RunError,
}

/// Makes what is missing of a story, in order, and its whole video. What exists is not touched.
pub fn make_story<E: ShotEngine>(
    studio: &Studio<E>,
    folder: &RunFolder,
    config: &RunConfig,
    file: &mut StoryFile,
) -> Result<(), StoryError> {
    let before = |error| StoryError { shot: None, error };
    let size = begin(studio, folder, config, file).map_err(before)?;
    let video = VideoSpec {
        width: size.width,
        height: size.height,
        ..config.video
    };
    let has_references = !file.reference_images.is_empty();

    let shots: Vec<(ShotId, ShotScript)> = file
        .script
        .shots()
        .map(|(id, shot)| (id, shot.clone()))
        .collect();
    let mut done: Vec<ShotId> = Vec::with_capacity(shots.len());
    let mut last: Option<CommitRecord> = None;
    for (id, shot) in &shots {
        let at = |error: RunError| StoryError {
            shot: Some(*id),
            error,
        };
        let stored = studio
            .bank
            .record(&file.id, *id)
            .map_err(|error| at(error.into()))?;
        let record = match stored {
            Some(record) => record,
            None => {
                if studio.stop.is_set() {
                    return Err(at(RunError::Stopped));
                }
                let opening = opening(shot, last.is_some(), has_references, config.continuation);
                let request = ShotRequest {
                    story: file.id.clone(),
                    shot: *id,
                    attempt: 0,
                    seed: Seed(0),
                    method: Method::StoryMem,
                    opening,
                    prompt: shot.prompt.clone(),
                    video,
                };
                let run_seed = file.seed.unwrap_or(config.seed);
                let chain = Chain {
                    done: &done,
                    last: last.as_ref(),
                    window: config.window,
                };
                attempt_shot(studio, chain, request, run_seed, config.attempts).map_err(at)?
            }
        };
        done.push(*id);
        last = Some(record);
    }
    finish(studio, folder, file, &done).map_err(before)
}

/// What a shot knows of the shots before it.
#[derive(Clone, Copy)]
struct Chain<'a> {
    done: &'a [ShotId],
    last: Option<&'a CommitRecord>,
    window: WindowSettings,
}

/// How a shot begins (StoryMem specification, section 3.6).
pub(crate) fn opening(
    shot: &ShotScript,
    has_previous: bool,
    has_references: bool,
    continuation: Continuation,
) -> Opening {
    match (has_previous, shot.cut, continuation) {
        (false, _, _) if has_references => Opening::Memory,
        (false, _, _) => Opening::Text,
        (true, false, Continuation::Mi2v) => Opening::LastFrame,
        (true, false, Continuation::Mm2v) => Opening::Motion,
        _ => Opening::Memory,
    }
}

/// Tries a shot: again with the same noise after trouble that may pass, with other noise after
/// trouble with the shot itself.
fn attempt_shot<E: ShotEngine>(
    studio: &Studio<E>,
    chain: Chain,
    request: ShotRequest,
    run_seed: u64,
    attempts: u32,
) -> Result<CommitRecord, RunError> {
    const PATIENCE: [Duration; 3] = [
        Duration::from_millis(100),
        Duration::from_millis(500),
        Duration::from_secs(2),
    ];
    let mut patience = PATIENCE.iter();
    let mut attempt = 0;
    loop {
        let seed = Seed::derive(run_seed, &request.story, request.shot, attempt);
        let request = ShotRequest {
            attempt,
            seed,
            ..request.clone()
        };
        let begun = Instant::now();
        let result = plan(studio, chain, request.clone()).and_then(|plan| make_shot(studio, &plan));
        let ShotRequest { story, shot, .. } = &request;
        let error = match result {
            Ok(record) => {
                let seconds = begun.elapsed().as_secs_f64();
                studio.reporter.report(&Event::ShotCommitted {
                    story,
                    shot: *shot,
                    seconds,
                });
                return Ok(record);
            }
            Err(error) => error,
        };
        let reason = error.to_string();
        let failed = Event::AttemptFailed {
            story,
            shot: *shot,
            attempt,
            reason: &reason,
        };
        match error.class() {
            ErrorClass::Transient => {
                let Some(wait) = patience.next() else {
                    return Err(error);
                };
                studio.reporter.report(&failed);
                std::thread::sleep(*wait);
            }
            ErrorClass::Shot if attempt + 1 < attempts => {
                studio.reporter.report(&failed);
                attempt += 1;
            }
            _ => return Err(error),
        }
    }
}

/// Stage `plan`: what the shot sees of the bank.
fn plan<E: ShotEngine>(
    studio: &Studio<E>,
    chain: Chain,
    request: ShotRequest,
) -> Result<ShotPlan, RunError> {
    let history = studio.bank.history(&request.story, chain.done)?;
    let window = match request.opening {
        Opening::Text => Vec::new(),
        _ => window(history.len(), chain.window),
    };
    let continued = request.opening.given_frames() > 0;
    let continues = chain
        .last
        .filter(|_| continued)
        .map(|last| last.tail.clone());
    let previous = chain.last.map(|last| last.digest.clone());
    Ok(ShotPlan {
        request,
        history,
        window,
        continues,
        previous,
    })
}

/// Decides the story's size and puts its reference images into the bank, once.
fn begin<E: ShotEngine>(
    studio: &Studio<E>,
    folder: &RunFolder,
    config: &RunConfig,
    file: &mut StoryFile,
) -> Result<Resolution, RunError> {
    // Once they are in the bank, the files they came from are not needed any more.
    let stored = file.reference_images.is_empty() || studio.bank.references(&file.id)?.is_some();
    let references = if stored {
        Vec::new()
    } else {
        reference_pictures(config, file)?
    };
    let size = match (file.size, references.first()) {
        (Some(size), _) => size,
        (None, None) => config.video.resolution(),
        (None, Some(first)) => {
            let first = Resolution {
                width: first.width(),
                height: first.height(),
            };
            config.video.resolution().shaped_like(first)
        }
    };
    if file.size != Some(size) || file.state == StoryState::Pending {
        file.size = Some(size);
        file.state = StoryState::Running;
        folder.write_story(file)?;
    }
    if !references.is_empty() {
        store_references(studio, file, &references, size)?;
    }
    Ok(size)
}

fn reference_pictures(config: &RunConfig, file: &StoryFile) -> Result<Vec<RgbImage>, RunError> {
    let read = |name: &String| -> Result<RgbImage, RunError> {
        let path: PathBuf = config.input_folder.join(name);
        let bytes = std::fs::read(&path).map_err(|error| {
            let reason = format!("the reference image cannot be read: {error}");
            MemoryError::Damaged {
                path: path.clone(),
                reason,
            }
        })?;
        Ok(decode_picture(&path, &bytes)?)
    };
    file.reference_images.iter().map(read).collect()
}

fn store_references<E: ShotEngine>(
    studio: &Studio<E>,
    file: &StoryFile,
    references: &[RgbImage],
    size: Resolution,
) -> Result<(), RunError> {
    let pictures: Vec<&RgbImage> = references.iter().collect();
    let scores = studio.engine.score(&pictures)?;
    check_scores(&scores, pictures.len())?;
    let folder = studio.bank.story_folder(&file.id);
    let blobs = studio.bank.blobs();
    let mut records = Vec::with_capacity(references.len());
    for (position, picture) in references.iter().enumerate() {
        let name = format!("keyframes/00_00_keyframe{position}.png");
        records.push(KeyframeRecord {
            position: position as u32,
            frame: 0,
            quality: scores.quality[position],
            picture: store_picture(studio.bank, &folder, name, picture)?,
            latents: blobs.put(&encode_array(&studio.engine.remember(picture, size)?)?)?,
            embedding: blobs.put(&encode_array(&vector(&scores.embeddings[position])?)?)?,
        });
    }
    let mut record = ReferencesRecord {
        format: RECORD_FORMAT,
        engine: studio.engine.describe().fingerprint,
        pictures: records,
        digest: String::new(),
    };
    Ok(studio.bank.commit_references(&file.id, &mut record)?)
}

/// Joins the shots and marks the story as done.
fn finish<E: ShotEngine>(
    studio: &Studio<E>,
    folder: &RunFolder,
    file: &mut StoryFile,
    shots: &[ShotId],
) -> Result<(), RunError> {
    let story = folder.story(&file.id);
    let name = "story.mp4";
    if file.state == StoryState::Done && story.join(name).is_file() {
        return Ok(());
    }
    let clips: Vec<PathBuf> = shots
        .iter()
        .map(|shot| story.join(format!("{shot}.mp4")))
        .collect();
    let content: BlobRef = studio.videos.join_clips(&story.join(name), &clips)?;
    file.video = Some(PictureRecord {
        file: name.to_owned(),
        content,
    });
    file.state = StoryState::Done;
    folder.write_story(file)?;
    studio
        .reporter
        .report(&Event::StoryFinished { story: &file.id });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specification, section 10 item 20.
    #[test]
    fn saved_lengths_of_a_shot_list() {
        let shot = |cut| ShotScript {
            prompt: "p".to_owned(),
            first_frame_prompt: None,
            cut,
        };
        let saved = |continuation| {
            [true, false, false, true]
                .map(|cut| 81 - opening(&shot(cut), true, false, continuation).given_frames())
        };
        assert_eq!(saved(Continuation::Mi2v), [81, 80, 80, 81]);
        assert_eq!(saved(Continuation::Mm2v), [81, 76, 76, 81]);
        assert_eq!(saved(Continuation::None), [81, 81, 81, 81]);
        assert_eq!(
            opening(&shot(true), false, false, Continuation::Mi2v),
            Opening::Text
        );
        assert_eq!(
            opening(&shot(true), false, true, Continuation::Mi2v),
            Opening::Memory
        );
    }
}
