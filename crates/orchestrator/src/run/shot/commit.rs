//! First half of stage `commit`: everything that a record names becomes durable.

use std::collections::BTreeMap;

use storyloom_memory::arrays::{encode_array, encode_frames};
use storyloom_memory::ledger::record::v1::{self, KeyframeRecord};
use storyloom_memory::ledger::record::v2::{self, MethodRecord, PassRecord};
use storyloom_memory::pictures::encode_png;
use storyloom_memory::{BlobRef, BlobStore, MemoryItem, PictureRecord, SeenRecord, ShotRecord};
use storyloom_story::{Clip, ErrorClass, Media, Opening, Stage};

use super::select::{Selected, keep};
use super::{ShotContext, ShotPlan};
use crate::engine::{EngineError, PassOutput};
use crate::error::RunError;
use crate::folder::output::ClipForm;

/// Stores what was made and kept, and names it in a record of the method's format.
pub(super) fn store_outputs(
    context: &ShotContext,
    plan: &ShotPlan,
    seen: &[SeenRecord],
    made: &[PassOutput],
    selected: &Selected,
) -> Result<ShotRecord, RunError> {
    let request = &plan.request;
    let Some((shot, earlier)) = made.split_last() else {
        return Err(super::no_passes().into());
    };
    let blobs = context.bank.blobs();
    let file = store_shot(context, plan, &shot.clip)?;
    let kept: Vec<MemoryItem> = selected
        .items
        .iter()
        .map(|admitted| {
            let name = format!("keyframes/{}_keyframe{}.png", request.shot, admitted.number);
            keep(context.bank, &request.story, name, admitted, Some(&file))
        })
        .collect::<Result<_, _>>()?;
    let terms = context.terms.of(request.method)?;
    let (engine, arithmetic) = (
        terms.engine.fingerprint.clone(),
        terms.engine.arithmetic.clone(),
    );
    let made = pass_record(blobs, shot)?;
    let offered = plan.history.len() as u32;
    if let Some(method) = MethodRecord::new(request.method, offered) {
        let earlier = earlier.iter().map(|pass| pass_record(blobs, pass));
        return Ok(ShotRecord::V2(v2::CommitRecord {
            format: v2::FORMAT,
            request: request.clone(),
            engine,
            arithmetic,
            seen: seen.to_vec(),
            earlier: earlier.collect::<Result<_, _>>()?,
            made,
            file,
            kept,
            method,
            seconds: BTreeMap::new(),
            previous: plan.previous.clone(),
            plan: plan.story_plan.clone(),
            digest: String::new(),
        }));
    }
    let no_selection = || wrong("its policy chooses no frames");
    Ok(ShotRecord::V1(v1::CommitRecord {
        format: v1::FORMAT,
        request: request.clone(),
        engine,
        arithmetic,
        memory_seen: seen.to_vec(),
        continues: plan.continues.clone(),
        latents: made.latents,
        frame_count: made.frame_count,
        frame_size: made.frame_size,
        frames_blake3: made.frames_blake3,
        tail: blobs.put(&encode_frames(shot.clip.tail(Opening::MOST_GIVEN_FRAMES))?)?,
        video: file,
        selection: selected.selection.clone().ok_or_else(no_selection)?,
        keyframes: keyframes(kept)?,
        seconds: BTreeMap::new(),
        previous: plan.previous.clone(),
        plan: plan.story_plan.clone(),
        digest: String::new(),
    }))
}

/// The video or picture of a shot.
fn store_shot(
    context: &ShotContext,
    plan: &ShotPlan,
    clip: &Clip,
) -> Result<PictureRecord, RunError> {
    let request = &plan.request;
    let (story, media) = (&request.story, request.method.profile().media);
    let file = media.file_name(request.shot);
    if let (Media::Picture, Some(picture)) = (media, clip.frames().first()) {
        let picture = encode_png(&picture.middle(plan.film))?;
        return Ok(context.bank.stage(story, file, &picture)?);
    }
    let staging = context.bank.staging(story);
    let name = |content: &BlobRef| context.bank.staged(story, &file, content);
    let form = ClipForm {
        size: plan.film,
        fps: request.video.fps,
    };
    let content = context.videos.write_clip(&staging, clip, form, name)?;
    Ok(PictureRecord { file, content })
}

fn pass_record(blobs: &BlobStore, made: &PassOutput) -> Result<PassRecord, RunError> {
    let clip = &made.clip;
    Ok(PassRecord {
        pass: made.name.clone(),
        latents: blobs.put(&encode_array(&made.latents)?)?,
        frame_count: clip.frames().len() as u32,
        frame_size: (clip.width(), clip.height()),
        frames_blake3: frames_digest(clip),
    })
}

/// The form of format 1 for what is kept.
pub(crate) fn keyframes(items: Vec<MemoryItem>) -> Result<Vec<KeyframeRecord>, EngineError> {
    let items = items.into_iter();
    items
        .map(|item| {
            KeyframeRecord::new(item).map_err(|part| wrong(&format!("a keyframe has no {part}")))
        })
        .collect()
}

fn wrong(what: &str) -> EngineError {
    EngineError {
        stage: Stage::Commit,
        class: ErrorClass::Run,
        message: format!("{what}, which records of format 1 have"),
    }
}

fn frames_digest(clip: &Clip) -> String {
    let mut hasher = blake3::Hasher::new();
    for frame in clip.frames() {
        hasher.update(frame.data());
    }
    hasher.finalize().to_hex().to_string()
}
