//! One story: a chain of shots, each of which sees the ones before.

use std::path::Path;
use std::time::Instant;

use storyloom_memory::arrays::EMBEDDING;
use storyloom_memory::ledger::record::{v1, v2};
use storyloom_memory::storage::{UNFINISHED, move_aside};
use storyloom_memory::{BlobRef, MemoryError, MemoryItem, PictureRecord, References, ShotRecord};
use storyloom_story::{
    Clip, Media, Method, Resolution, RgbImage, Seed, ShotId, ShotRequest, ShotScript, StoryId,
    VideoSpec,
};
use storyloom_telemetry::{AttemptEnd, Event, ShotEvent};
use tracing::field;

use crate::config::RunConfig;
use crate::engine::KeptContent;
use crate::error::RunError;
use crate::folder::film_size::film_size;
use crate::folder::no_keyframes::Keeping;
use crate::folder::output::{ClipFile, WHOLE_VIDEO};
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::folder::sizes::FileSizes;
use crate::folder::story_cost::StoryCost;
use crate::run::attempt::{attempt_shot, end_of, report_end, with_retries};
use crate::run::chain::{Chain, opening, plan};
use crate::run::inputs::{first_shot, in_shape, open_pictures, own_size};
use crate::run::lease::Lease;
use crate::run::lost_record::{Lost, recorded};
use crate::run::mend::mend_shot;
use crate::run::planning::restored::restore_plan;
use crate::run::shot::{
    Admitted, ShotContext, ShotPlan, check_scores, keep, keyframes, remember, vector,
};

/// Why a story could not be finished, and at which shot.
#[derive(Debug)]
pub struct StoryError {
    /// The shot; `None` before the first.
    pub shot: Option<ShotId>,
    /// What happened.
    pub error: RunError,
}

/// Makes what is missing of a story, in order, and its whole video. What exists is not touched.
///
/// `lease` is the right to do so; it is looked at again before anything gets its final name.
pub fn make_story(
    context: &ShotContext,
    folder: &RunFolder,
    config: &RunConfig,
    lease: &Lease,
    file: &mut StoryFile,
) -> Result<(), StoryError> {
    match make_shots(context, folder, config, lease, file) {
        // A clip was damaged since it was made. Looked at again, its shot is made again for it.
        Err(StoryError {
            shot: None,
            error: RunError::Memory(error @ MemoryError::Damaged { .. }),
        }) => {
            tracing::warn!(story = %file.id, "{error}");
            make_shots(context, folder, config, lease, file)
        }
        made => made,
    }
}

/// As [`make_story`], once.
fn make_shots(
    context: &ShotContext,
    folder: &RunFolder,
    config: &RunConfig,
    lease: &Lease,
    file: &mut StoryFile,
) -> Result<(), StoryError> {
    let before = |error| StoryError { shot: None, error };
    lease.check().map_err(before)?;
    restore_plan(folder, file, config.seed).map_err(before)?;
    let film = begin(context, folder, config, lease, file).map_err(before)?;
    let method = folder.method_of(file);
    let media = method.profile().media;
    let Resolution { width, height } = film.generated(config.grid);
    let video = VideoSpec {
        width,
        height,
        frames: media.frames(config.video.frames),
        ..config.video
    };
    let has_references = file.has_inputs();

    let story = folder.story(&file.id);
    let shots: Vec<(ShotId, ShotScript)> =
        file.shots().map(|(id, shot)| (id, shot.clone())).collect();
    let there = recorded(context.bank, &file.id).map_err(before)?;
    let ids: Vec<ShotId> = shots.iter().map(|(id, _)| *id).collect();
    let mut done: Vec<ShotId> = Vec::with_capacity(shots.len());
    let mut clips: Vec<ClipFile> = Vec::with_capacity(shots.len());
    let mut work = StoryCost::default();
    let mut keeping = Keeping::new(config);
    let mut sizes = FileSizes::default();
    let mut last: Option<ShotRecord> = None;
    for (id, shot) in &shots {
        let at = |error: RunError| StoryError {
            shot: Some(*id),
            error,
        };
        let chain = Chain {
            done: &done,
            last: last.as_ref(),
            story_plan: file.plan.as_deref(),
            lost: None,
            film,
            remaining: shots.len() - done.len(),
        };
        let record = match committed(context, lease, &file.id, *id).map_err(at)? {
            Some(record) => {
                keep_whole(context, lease, chain, &record).map_err(at)?;
                record
            }
            None => {
                if context.stop.asked().is_some() {
                    return Err(at(RunError::Stopped));
                }
                let opening = opening(
                    method,
                    shot,
                    last.is_some(),
                    has_references,
                    config.continuation,
                );
                let terms = context.terms.of(method);
                let policy = terms.map_err(|error| at(error.into()))?.memory.policy();
                let request = ShotRequest {
                    related: match policy.wants_characters() {
                        true => file.related(*id),
                        false => Vec::new(),
                    },
                    story: file.id.clone(),
                    shot: *id,
                    attempt: 0,
                    seed: Seed(0),
                    method,
                    opening,
                    prompt: shot.prompt.clone(),
                    video,
                };
                let run_seed = file.seed.unwrap_or(config.seed);
                let later = &ids[done.len() + 1..];
                let lost = Lost::look(context.bank, folder, (&file.id, *id), media, later, &there)
                    .map_err(at)?;
                let chain = Chain {
                    lost: lost.as_ref(),
                    ..chain
                };
                attempt_shot(context, lease, chain, request, run_seed, config.attempts)
                    .map_err(at)?
            }
        };
        done.push(*id);
        clips.push(ClipFile {
            path: story.join(&record.file().file),
            frames: record.frame_count(),
            content: record.file().content.clone(),
        });
        work.add(&record);
        keeping.add(&record);
        sizes.note(&record.pictures());
        sizes.measure(
            folder.storage().as_ref(),
            &story,
            &format!("commits/{id}.json"),
        );
        last = Some(record);
    }
    if let Some(references) = context
        .bank
        .references(&file.id)
        .map_err(|error| before(error.into()))?
    {
        sizes.note(&references.pictures());
    }
    for record in ["commits/references.json", "plan.json"] {
        sizes.measure(folder.storage().as_ref(), &story, record);
    }
    file.sizes = sizes;
    file.work = Some(work);
    file.no_keyframes = keeping.finding();
    let film = (media == Media::Clip).then_some((clips.as_slice(), config.video.fps));
    with_retries(context, || finish(context, folder, lease, file, film)).map_err(before)
}

/// The record of a shot that exists, with all its files under their names: the program that committed it
/// may not have got to that. A record that says nothing sound moves out of the way.
fn committed(
    context: &ShotContext,
    lease: &Lease,
    story: &StoryId,
    shot: ShotId,
) -> Result<Option<ShotRecord>, RunError> {
    let path = context.bank.record_path(story, shot);
    with_retries(context, || {
        let record = match context.bank.record(story, shot) {
            Ok(None) if context.bank.storage().is_taken(&path) => {
                Err(MemoryError::damaged(&path, "is no file"))
            }
            record => record,
        };
        let record = match record {
            Err(error @ MemoryError::Damaged { .. }) => {
                lease.check()?;
                let aside = move_aside(context.bank.storage(), &path)?;
                tracing::warn!(%story, %shot, kept = %aside.display(), "{error}; the shot is made again");
                None
            }
            record => record?,
        };
        if let Some(record) = &record {
            context.bank.install(story, &record.pictures())?;
        }
        Ok(record)
    })
}

/// Makes the files of a finished shot again that are gone or damaged.
fn keep_whole(
    context: &ShotContext,
    lease: &Lease,
    chain: Chain,
    record: &ShotRecord,
) -> Result<(), RunError> {
    let harms = context.bank.harms(record)?;
    if harms.is_empty() {
        return Ok(());
    }
    if context.stop.asked().is_some() {
        return Err(RunError::Stopped);
    }
    let plan = ShotPlan {
        previous: record.previous().clone(),
        ..plan(context, chain, record.request().clone())?
    };
    let ShotRequest {
        story,
        shot,
        attempt,
        ..
    } = record.request();
    let begun = Event::Shot {
        story,
        shot: *shot,
        event: ShotEvent::AttemptBegun { attempt: *attempt },
    };
    context.reporter.report(&begun);
    let span = tracing::info_span!("shot", %story, %shot, attempt, error = field::Empty);
    let mended = span
        .in_scope(|| with_retries(context, || mend_shot(context, lease, &plan, record, &harms)));
    if let Err(error) = &mended {
        span.record("error", field::display(error));
    }
    drop(span);
    let (end, reason) = match &mended {
        Ok(()) => (AttemptEnd::Committed, None),
        Err(error) => (end_of(error), Some(error.to_string())),
    };
    report_end(context, record.request(), end, reason.as_deref());
    mended
}

/// Decides the size of the story's film and puts what it begins with into the bank, once.
fn begin(
    context: &ShotContext,
    folder: &RunFolder,
    config: &RunConfig,
    lease: &Lease,
    file: &mut StoryFile,
) -> Result<Resolution, RunError> {
    let method = folder.method_of(file);
    // Once they are in the bank, the files they came from are not needed any more.
    let stored = !file.has_inputs() || has_references(context, lease, &file.id, method)?;
    let (references, inputs) = if stored {
        (Vec::new(), file.inputs.clone())
    } else {
        open_pictures(config, file)?
    };
    let first = references.first();
    let size = film_size(context.bank, config, file)?;
    let size = size.unwrap_or_else(|| own_size(config, first));
    let ready_made = match stored {
        true => None,
        false => first_shot(config, file, &inputs, size)?,
    };
    let goes_on = matches!(file.state, StoryState::Running | StoryState::Done);
    if file.size != Some(size) || file.inputs != inputs || !goes_on {
        file.size = Some(size);
        file.inputs = inputs;
        file.state = StoryState::Running;
        lease.check()?;
        folder.write_story(file)?;
    }
    if !stored {
        let made = size.generated(config.grid);
        let references = in_shape(config, file, &references, made)?;
        let references = (&references[..], ready_made.as_ref());
        store_references(context, file, method, references, made)?;
    }
    Ok(size)
}

/// Whether a story has what it begins with in its bank, whole. What is damaged of them moves out of the
/// way, to be made again from the files: these make the same record.
fn has_references(
    context: &ShotContext,
    lease: &Lease,
    story: &StoryId,
    method: Method,
) -> Result<bool, RunError> {
    let terms = context.terms.of(method)?;
    let bank = context.bank;
    let path = bank.references_path(story);
    if !bank.storage().is_taken(&path) {
        return Ok(false);
    }
    let damage = match bank.references(story) {
        Ok(Some(record)) => match terms.foreign_references(&record) {
            Some(what) => format!("{}: {what}", path.display()),
            None => {
                bank.install_references(story)?;
                let harms = bank.reference_harms(story, &record)?;
                match harms.first() {
                    None => return Ok(true),
                    Some(harm) => format!("{}: {}", harm.path.display(), harm.reason),
                }
            }
        },
        Ok(None) => "no file stands in its place".to_owned(),
        Err(error @ MemoryError::Damaged { .. }) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    lease.check()?;
    let aside = move_aside(bank.storage(), &path)?;
    tracing::warn!(%story, kept = %aside.display(), "{damage}; the pictures are looked at again");
    Ok(false)
}

fn store_references(
    context: &ShotContext,
    file: &StoryFile,
    method: Method,
    (references, ready_made): (&[RgbImage], Option<&Clip>),
    size: Resolution,
) -> Result<(), RunError> {
    let terms = context.terms.of(method)?;
    let pictures: Vec<&RgbImage> = references.iter().collect();
    let scores = match terms.memory.policy().wants_scores() {
        true => Some(context.engine.score(&pictures)?),
        false => None,
    };
    if let Some(scores) = &scores {
        check_scores(scores, pictures.len())?;
    }
    let mut items = Vec::with_capacity(references.len());
    for (number, picture) in references.iter().enumerate() {
        let kept = (method, size);
        let mut arrays = remember(context, kept, KeptContent::Picture(picture))?;
        if let Some(scores) = &scores {
            let embedding = vector(&scores.embeddings[number])?;
            arrays.insert(EMBEDDING.to_owned(), embedding);
        }
        let admitted = Admitted {
            number,
            frame: Some(0),
            quality: scores.as_ref().map(|scores| scores.quality[number]),
            picture: Some(picture),
            arrays,
        };
        let name = format!("keyframes/00_00_keyframe{number}.png");
        items.push(keep(context.bank, &file.id, name, &admitted, None)?);
    }
    if let Some(clip) = ready_made {
        let admitted = Admitted {
            number: items.len(),
            frame: None,
            quality: None,
            picture: None,
            arrays: remember(context, (method, size), KeptContent::Clip(clip))?,
        };
        items.push(keep(
            context.bank,
            &file.id,
            String::new(),
            &admitted,
            None,
        )?);
    }
    let engine = terms.engine.fingerprint.clone();
    let mut record = references_record(method, engine, items)?;
    context.engine.check_weights()?;
    Ok(context.bank.commit_references(&file.id, &mut record)?)
}

/// The record of reference images in the format of a method.
fn references_record(
    method: Method,
    engine: String,
    items: Vec<MemoryItem>,
) -> Result<References, RunError> {
    let digest = String::new();
    Ok(match method.profile().record_format {
        v1::FORMAT => References::V1(v1::ReferencesRecord {
            format: v1::FORMAT,
            engine,
            pictures: keyframes(items)?,
            digest,
        }),
        _ => References::V2(v2::ReferencesRecord {
            format: v2::FORMAT,
            engine,
            items,
            digest,
        }),
    })
}

/// Joins the shots to a film, if there is to be one, and marks the story as done. It is so in `file` when
/// it is so on disk. `film` has the shots' videos and their frames per second; a story of pictures has none.
fn finish(
    context: &ShotContext,
    folder: &RunFolder,
    lease: &Lease,
    file: &mut StoryFile,
    film: Option<(&[ClipFile], u32)>,
) -> Result<(), RunError> {
    let path = folder.story(&file.id).join(WHOLE_VIDEO);
    let clips = film.map_or(&[][..], |(clips, _)| clips);
    let joined = clips.iter().map(|clip| clip.content.blake3.clone());
    let joined: Vec<String> = joined.collect();
    let is_of_these = file.joined.is_empty() || file.joined == joined;
    let is_there = match film {
        Some(_) => is_whole(context, &path, file),
        None => file.video.is_none(),
    };
    if file.state == StoryState::Done && is_of_these && is_there {
        // A shot of it was missing.
        return tidy(context, file);
    }
    lease.check()?;
    let mut done = file.clone();
    if let Some((clips, fps)) = film {
        let begun = Instant::now();
        let content: BlobRef = context.videos.join_clips(&path, clips, fps)?;
        if let Some(work) = &mut done.work {
            work.end = Some(begun.elapsed().as_secs_f64());
        }
        done.video = Some(PictureRecord {
            file: WHOLE_VIDEO.to_owned(),
            content,
        });
    }
    done.joined = joined;
    if film.is_none() {
        done.video = None;
    }
    done.state = StoryState::Done;
    lease.check()?;
    // Before, since nobody looks into a story again that is done.
    tidy(context, file)?;
    folder.write_story(&done)?;
    *file = done;
    if let Some(finding) = &file.no_keyframes {
        tracing::warn!(story = %file.id, "{finding}; its shots do not see each other");
    }
    context
        .reporter
        .report(&Event::StoryFinished { story: &file.id });
    Ok(())
}

/// Whether the film of a story is the one that it notes.
fn is_whole(context: &ShotContext, film: &Path, file: &StoryFile) -> bool {
    let noted = file.video.as_ref().map(|video| &video.content);
    let found = context.bank.storage().read(film);
    found.is_ok_and(|found| noted.is_none_or(|noted| *noted == BlobRef::of(&found)))
}

/// Removes what programs that ended early left behind in a finished story, as far as a listing shows it.
fn tidy(context: &ShotContext, file: &StoryFile) -> Result<(), RunError> {
    let storage = context.bank.storage();
    let story = context.bank.story_folder(&file.id);
    let staging = context.bank.staging(&file.id);
    let is_folder = |path: &Path| {
        let found = storage.metadata(path);
        found.is_some_and(|found| found.is_folder)
    };
    for name in storage.list(&staging)? {
        if !is_folder(&staging.join(&name)) {
            storage.remove(&staging.join(name))?;
        }
    }
    for part in ["", "commits", "keyframes", "checkpoints"] {
        let folder = story.join(part);
        for name in storage.list(&folder)? {
            let is_left = name.starts_with(UNFINISHED) || part == "checkpoints";
            // Nobody here makes folders there: one is somebody else's.
            if is_left && !is_folder(&folder.join(&name)) {
                storage.remove(&folder.join(name))?;
            }
        }
    }
    Ok(())
}
