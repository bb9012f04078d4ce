//! One shot, from its request to its commit record. **Start reading here.**

mod clock;
mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use storyloom_memory::arrays::{decode_frames, encode_array, encode_frames};
use storyloom_memory::ledger::record::RECORD_FORMAT;
use storyloom_memory::pictures::encode_png;
use storyloom_memory::select::Selection;
use storyloom_memory::{
    Basis, BlobRef, CommitRecord, Committed, KeyframeRecord, MemoryBank, MemoryPolicy,
    PictureRecord, Remembered, SeenRecord,
};
use storyloom_story::{
    Clip, ErrorClass, HostTensor, PassName, Resolution, RgbImage, ShotInputs, ShotRequest, Stage,
    StoryId,
};
use storyloom_telemetry::Reporter;

use crate::config::{StopAt, StopFlag};
use crate::error::RunError;
use crate::folder::output::{ClipForm, VideoFiles};
use crate::run::engine::{EngineError, Pass, PassOutput, Scores, ShotEngine};
use crate::run::gate::Gates;
use crate::run::lease::Lease;
use crate::run::lost_record::Lost;
use clock::StageClock;
pub use steps::Checkpoints;
use steps::Steps;

/// What every shot of a run is made with.
pub struct ShotContext<'a> {
    /// Makes the pictures.
    pub engine: &'a dyn ShotEngine,
    /// What is remembered.
    pub bank: &'a MemoryBank,
    /// Writes videos.
    pub videos: &'a VideoFiles,
    /// What is kept of a shot, and what a later one sees of it.
    pub policy: &'a dyn MemoryPolicy,
    /// Hears of progress.
    pub reporter: &'a dyn Reporter,
    /// Asks to stop.
    pub stop: &'a StopFlag,
    /// When a shot that is being made is saved.
    pub checkpoints: Checkpoints,
    /// Where shots wait for the networks.
    pub gates: Gates,
}

/// What one shot is given besides its request.
pub struct ShotPlan {
    /// What is asked for.
    pub request: ShotRequest,
    /// The whole bank of the story, oldest first.
    pub history: Vec<Remembered>,
    /// Positions in `history` that the shot sees.
    pub window: Vec<usize>,
    /// The frames it continues, as the shot before stored them.
    pub continues: Option<BlobRef>,
    /// Digest of the record of the shot before.
    pub previous: Option<String>,
    /// Digest of the plan that its story follows, if that was planned from a brief.
    pub story_plan: Option<String>,
    /// The record that is to be made again, if it was there before and others follow from it.
    pub(crate) lost: Option<Lost>,
    /// Size of the story's film: the middle of each frame.
    pub film: Resolution,
    /// Shots of the story that are still to be made, this one included: the longer the way, the
    /// sooner its turn.
    pub remaining: usize,
}

impl ShotPlan {
    /// All that decides the latents of the shot.
    fn basis(&self, engine: String) -> Basis {
        Basis {
            request: self.request.clone(),
            engine,
            memory_seen: self.memory_seen(),
            continues: self.continues.clone(),
            previous: self.previous.clone(),
        }
    }

    /// How its record names what it sees.
    pub(crate) fn memory_seen(&self) -> Vec<SeenRecord> {
        let window = self.window.iter();
        window.map(|&at| self.history[at].seen()).collect()
    }
}

/// Makes a shot: every stage by name, in order. Nothing exists before the last line.
///
/// Only the holder of the story's lease commits; if another program did so before, its record is
/// the answer.
pub fn make_shot(
    context: &ShotContext,
    lease: &Lease,
    plan: &ShotPlan,
) -> Result<CommitRecord, RunError> {
    let mut record = make_files(context, plan, BTreeMap::new())?;
    if let Some(lost) = &plan.lost {
        lost.restore(&mut record)?;
    }
    let begun = Instant::now();
    context.engine.check_weights()?;
    lease.check()?;
    let mut record = match context.bank.commit(&mut record)? {
        Committed::New => record,
        Committed::Before(theirs) => *theirs,
    };
    // The record on disk cannot say what it took itself; the story sums up what we return.
    *record.seconds.entry(Stage::Commit).or_default() += begun.elapsed().as_secs_f64();
    Ok(record)
}

/// The stages of a shot up to what its record names, durably; the record itself is not written.
///
/// `finished` has the latents of passes that were denoised before.
pub(crate) fn make_files(
    context: &ShotContext,
    plan: &ShotPlan,
    mut finished: BTreeMap<PassName, HostTensor>,
) -> Result<CommitRecord, RunError> {
    let mut clock = StageClock::new(context.reporter, plan);
    let (engine, gates) = (context.engine, &context.gates);

    let inputs = clock.time(Stage::Plan, None, || load_inputs(context.bank, plan))?;
    let passes = engine.passes(&inputs);
    finished.extend(steps::finished_passes(context, plan, &passes));
    let mut made: Vec<PassOutput> = Vec::with_capacity(passes.len());
    let mut decoding = None;
    for (at, name) in passes.iter().enumerate() {
        // Only the last decoded pass goes on to `select` in the same turn.
        drop(decoding.take());
        let pass = Pass {
            name,
            before: &made,
        };
        let latents = match finished.remove(name) {
            Some(latents) => latents,
            None => denoise(context, plan, &inputs, pass, &mut clock)?,
        };
        // One way in for both: a decoded shot need not wait for another one's decoding, and what comes
        // next of its story waits for it.
        decoding = Some(clock.enter(&gates.decode));
        let clip = clock.time(Stage::Decode, None, || {
            let clip = engine.decode(&inputs, pass, &latents)?;
            if at + 1 == passes.len() {
                expect_frames(&plan.request, &clip)?;
            }
            Ok(clip)
        })?;
        made.push(PassOutput {
            name: name.clone(),
            latents,
            clip,
        });
    }
    // The shot is what the last pass has made.
    let shot = made.last().ok_or_else(no_passes)?;
    let chosen = clock.time(Stage::Select, None, || {
        choose_keyframes(context, plan, &shot.clip)
    })?;
    drop(decoding);
    let record = clock.time(Stage::Commit, None, || {
        store_outputs(context, plan, shot, &chosen)
    })?;
    Ok(CommitRecord {
        seconds: clock.into_seconds(),
        ..record
    })
}

/// Stages `encode` and `denoise` of a pass.
fn denoise(
    context: &ShotContext,
    plan: &ShotPlan,
    inputs: &ShotInputs,
    pass: Pass,
    clock: &mut StageClock,
) -> Result<HostTensor, RunError> {
    let (engine, gates) = (context.engine, &context.gates);
    let encoded = clock.time(Stage::Encode, Some(&gates.encode), || {
        Ok(engine.encode(inputs, pass)?)
    })?;
    clock.time(Stage::Denoise, Some(&gates.denoise), || {
        if context.stop.asked() == Some(StopAt::Step) {
            return Err(RunError::Stopped);
        }
        let basis = plan.basis(engine.describe().fingerprint);
        let mut steps = Steps::new(context, basis, pass);
        let resume = steps.resume();
        let latents = engine.denoise(inputs, &encoded, resume, &mut steps);
        steps.end()?;
        let latents = latents?;
        finite(Stage::Denoise, &latents)?;
        Ok(latents)
    })
}

/// What follows the record of a shot: its files get their names, and nobody needs the saved step.
/// All of it can be done again.
pub(crate) fn tidy_up(context: &ShotContext, record: &CommitRecord) -> Result<(), RunError> {
    let ShotRequest { story, shot, .. } = &record.request;
    context.bank.install(story, &record.pictures())?;
    Ok(context.bank.forget_step(story, *shot)?)
}

/// Stage `plan`: reads the pictures that the shot sees, checked against their records.
fn load_inputs(bank: &MemoryBank, plan: &ShotPlan) -> Result<ShotInputs, RunError> {
    let story = &plan.request.story;
    let memory = plan
        .window
        .iter()
        .map(|&position| bank.load(story, &plan.history[position]))
        .collect::<Result<_, _>>()?;
    let given = plan.request.opening.given_frames();
    let previous_tail = match &plan.continues {
        Some(blob) => {
            let frames = decode_frames(Path::new(&blob.blake3), &bank.blobs().get(blob)?)?;
            frames[frames.len().saturating_sub(given)..].to_vec()
        }
        None => Vec::new(),
    };
    Ok(ShotInputs {
        request: plan.request.clone(),
        memory,
        previous_tail,
    })
}

/// The keyframes of a shot that are new to the bank, with all that is stored of them.
struct Chosen {
    selection: Selection,
    admitted: Vec<Admitted>,
}

struct Admitted {
    position: usize,
    frame: usize,
    quality: f32,
    embedding: HostTensor,
    latents: HostTensor,
}

/// Stage `select`: scores every frame once, chooses, and keeps what is new to the bank.
fn choose_keyframes(
    context: &ShotContext,
    plan: &ShotPlan,
    clip: &Clip,
) -> Result<Chosen, RunError> {
    let frames: Vec<&RgbImage> = clip.frames().iter().collect();
    let scores = context.engine.score(&frames)?;
    check_scores(&scores, frames.len())?;
    let selection = context.policy.keep(&scores.embeddings, &scores.quality);
    let bank: Vec<Vec<f32>> = plan
        .history
        .iter()
        .map(|remembered| context.bank.embedding(remembered))
        .collect::<Result<_, _>>()?;
    let mut admitted = Vec::new();
    for (position, &frame) in selection.frames.iter().enumerate() {
        let embedding = &scores.embeddings[frame];
        if !context.policy.admits(embedding, &bank) {
            continue;
        }
        let size = plan.request.video.resolution();
        let latents = context.engine.remember(frames[frame], size)?;
        finite(Stage::Select, &latents)?;
        admitted.push(Admitted {
            position,
            frame,
            quality: scores.quality[frame],
            embedding: vector(embedding)?,
            latents,
        });
    }
    Ok(Chosen {
        selection,
        admitted,
    })
}

/// First half of stage `commit`: everything the record names becomes durable.
fn store_outputs(
    context: &ShotContext,
    plan: &ShotPlan,
    PassOutput { latents, clip, .. }: &PassOutput,
    chosen: &Chosen,
) -> Result<CommitRecord, RunError> {
    /// Enough for every way to continue a shot.
    const TAIL: usize = 5;
    let request = &plan.request;
    let blobs = context.bank.blobs();
    let video = format!("{}.mp4", request.shot);
    let staging = context.bank.staging(&request.story);
    let name = |content: &BlobRef| context.bank.staged(&request.story, &video, content);
    let form = ClipForm {
        size: plan.film,
        fps: request.video.fps,
    };
    let content = context.videos.write_clip(&staging, clip, form, name)?;
    let keyframes = chosen
        .admitted
        .iter()
        .map(|admitted| {
            let file = format!(
                "keyframes/{}_keyframe{}.png",
                request.shot, admitted.position
            );
            let picture = &clip.frames()[admitted.frame];
            store_keyframe(context.bank, &request.story, file, picture, admitted)
        })
        .collect::<Result<_, _>>()?;
    let engine = context.engine.describe();
    Ok(CommitRecord {
        format: RECORD_FORMAT,
        request: request.clone(),
        engine: engine.fingerprint,
        arithmetic: engine.arithmetic,
        memory_seen: plan.memory_seen(),
        continues: plan.continues.clone(),
        latents: blobs.put(&encode_array(latents)?)?,
        frame_count: clip.frames().len() as u32,
        frame_size: (clip.width(), clip.height()),
        frames_blake3: frames_digest(clip),
        tail: blobs.put(&encode_frames(clip.tail(TAIL))?)?,
        video: PictureRecord {
            file: video,
            content,
        },
        selection: chosen.selection.clone(),
        keyframes,
        seconds: BTreeMap::new(),
        previous: plan.previous.clone(),
        plan: plan.story_plan.clone(),
        digest: String::new(),
    })
}

fn store_keyframe(
    bank: &MemoryBank,
    story: &StoryId,
    file: String,
    picture: &RgbImage,
    admitted: &Admitted,
) -> Result<KeyframeRecord, RunError> {
    Ok(KeyframeRecord {
        position: admitted.position as u32,
        frame: admitted.frame as u32,
        quality: admitted.quality,
        picture: bank.stage(story, file, &encode_png(picture)?)?,
        latents: bank.blobs().put(&encode_array(&admitted.latents)?)?,
        embedding: bank.blobs().put(&encode_array(&admitted.embedding)?)?,
    })
}

/// An embedding as an array.
pub(crate) fn vector(values: &[f32]) -> Result<HostTensor, RunError> {
    HostTensor::new(vec![values.len()], values.to_vec()).map_err(|error| {
        let message = error.to_string();
        RunError::Engine(EngineError {
            stage: Stage::Select,
            class: ErrorClass::Shot,
            message,
        })
    })
}

fn frames_digest(clip: &Clip) -> String {
    let mut hasher = blake3::Hasher::new();
    for frame in clip.frames() {
        hasher.update(frame.data());
    }
    hasher.finalize().to_hex().to_string()
}

fn finite(stage: Stage, array: &HostTensor) -> Result<(), EngineError> {
    match array.first_non_finite() {
        None => Ok(()),
        Some(position) => Err(EngineError {
            stage,
            class: ErrorClass::Shot,
            message: format!(
                "the latents are not finite (first at position {position}); \
                 check the checkpoint with `storyloom model inspect`"
            ),
        }),
    }
}

fn no_passes() -> EngineError {
    EngineError {
        stage: Stage::Plan,
        class: ErrorClass::Run,
        message: "the engine names no pass that makes the shot".to_owned(),
    }
}

fn expect_frames(request: &ShotRequest, clip: &Clip) -> Result<(), EngineError> {
    let wanted = request.saved_frames();
    let found = clip.frames().len();
    if found == wanted as usize {
        return Ok(());
    }
    let message = format!("{found} frames were decoded, {wanted} are needed");
    Err(EngineError {
        stage: Stage::Decode,
        class: ErrorClass::Shot,
        message,
    })
}

/// One finite embedding and score per picture.
pub(crate) fn check_scores(scores: &Scores, pictures: usize) -> Result<(), EngineError> {
    let complete = scores.embeddings.len() == pictures && scores.quality.len() == pictures;
    let values = scores.embeddings.iter().flatten().chain(&scores.quality);
    if complete && values.into_iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let message = "the scores of the frames are not complete or not finite".to_owned();
    Err(EngineError {
        stage: Stage::Select,
        class: ErrorClass::Shot,
        message,
    })
}
