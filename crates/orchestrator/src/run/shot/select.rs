//! Stage `select`: what the story keeps of a shot.

use std::collections::BTreeMap;

use storyloom_memory::arrays::{EMBEDDING, encode_array};
use storyloom_memory::pictures::encode_png;
use storyloom_memory::select::Selection;
use storyloom_memory::{BlobRef, Keep, MemoryBank, MemoryItem, PictureRecord};
use storyloom_story::{
    Clip, ErrorClass, HostTensor, Method, PassName, Resolution, RgbImage, Stage, StoryId,
};

use super::{ShotContext, ShotPlan, finite};
use crate::engine::{EngineError, Kept, KeptContent, PassOutput, Scores};
use crate::error::RunError;

/// What is kept of a shot.
pub(super) struct Selected<'a> {
    /// How its frames were chosen, where they were by likeness and quality.
    pub selection: Option<Selection>,
    /// What is new to the memory.
    pub items: Vec<Admitted<'a>>,
}

/// Something that enters the memory of a story.
pub(crate) struct Admitted<'a> {
    /// Its number among what was chosen.
    pub number: usize,
    /// The frame of the shot that it shows; `None` where it stands for the whole shot.
    pub frame: Option<usize>,
    /// Its quality score.
    pub quality: Option<f32>,
    /// Its picture.
    pub picture: Option<&'a RgbImage>,
    /// What networks see of it, by name.
    pub arrays: BTreeMap<String, HostTensor>,
}

/// Stage `select`: keeps of a shot what the policy of its method says.
pub(super) fn select<'a>(
    context: &ShotContext,
    plan: &ShotPlan,
    made: &'a [PassOutput],
) -> Result<Selected<'a>, RunError> {
    let request = &plan.request;
    let policy = context.terms.of(request.method)?.memory.policy();
    let Some(shot) = made.last() else {
        return Err(super::no_passes().into());
    };
    let of = (request.method, request.video.resolution());
    let scores = match policy.wants_scores() {
        true => score(context, &shot.clip)?,
        false => Scores::NONE,
    };
    let selection = match policy.keep(&scores.embeddings, &scores.quality) {
        Keep::Frames(selection) => selection,
        Keep::Shot { shown } => {
            let picture = shown.map(|pass| first_frame(made, &pass)).transpose()?;
            let arrays = remember(context, of, KeptContent::Shot(made))?;
            let items = vec![Admitted {
                number: 0,
                frame: None,
                quality: None,
                picture,
                arrays,
            }];
            return Ok(Selected {
                selection: None,
                items,
            });
        }
    };
    let bank: Vec<Option<Vec<f32>>> = plan
        .history
        .iter()
        .map(|remembered| context.bank.embedding(remembered))
        .collect::<Result<_, _>>()?;
    let bank: Vec<Vec<f32>> = bank.into_iter().flatten().collect();
    let mut items = Vec::new();
    for (number, &frame) in selection.frames.iter().enumerate() {
        let embedding = &scores.embeddings[frame];
        if !policy.admits(embedding, &bank) {
            continue;
        }
        let picture = &shot.clip.frames()[frame];
        let mut arrays = remember(context, of, KeptContent::Picture(picture))?;
        arrays.insert(EMBEDDING.to_owned(), vector(embedding)?);
        items.push(Admitted {
            number,
            frame: Some(frame),
            quality: Some(scores.quality[frame]),
            picture: Some(picture),
            arrays,
        });
    }
    Ok(Selected {
        selection: Some(selection),
        items,
    })
}

fn score(context: &ShotContext, clip: &Clip) -> Result<Scores, RunError> {
    let frames: Vec<&RgbImage> = clip.frames().iter().collect();
    let scores = context.engine.score(&frames)?;
    check_scores(&scores, frames.len())?;
    Ok(scores)
}

/// What networks see of something that is kept, all of it finite.
pub(crate) fn remember(
    context: &ShotContext,
    (method, size): (Method, Resolution),
    what: KeptContent,
) -> Result<BTreeMap<String, HostTensor>, RunError> {
    let kept = Kept { method, size, what };
    let arrays = context.engine.remember(&kept)?;
    for array in arrays.values() {
        finite(Stage::Select, array)?;
    }
    Ok(arrays)
}

fn first_frame<'a>(made: &'a [PassOutput], pass: &PassName) -> Result<&'a RgbImage, EngineError> {
    let shown = made.iter().find(|made| made.name == *pass);
    let frame = shown.and_then(|made| made.clip.frames().first());
    frame.ok_or_else(|| EngineError {
        stage: Stage::Select,
        class: ErrorClass::Run,
        message: format!("the engine has no pass {pass}, whose picture is kept"),
    })
}

/// Makes something that enters the memory durable; `file` is what its picture is called. A picture that is
/// the whole of `shot` has the file of the shot.
pub(crate) fn keep(
    bank: &MemoryBank,
    story: &StoryId,
    file: String,
    admitted: &Admitted,
    shot: Option<&PictureRecord>,
) -> Result<MemoryItem, RunError> {
    let stage = |picture: &RgbImage| {
        let bytes = encode_png(picture)?;
        match shot.filter(|shot| shot.content == BlobRef::of(&bytes)) {
            Some(shot) => Ok(shot.clone()),
            None => bank.stage(story, file, &bytes),
        }
    };
    let picture = admitted.picture.map(stage).transpose()?;
    let arrays = admitted.arrays.iter();
    let arrays = arrays.map(|(name, array)| {
        let blob = bank.blobs().put(&encode_array(array)?)?;
        Ok((name.clone(), blob))
    });
    Ok(MemoryItem {
        number: admitted.number as u32,
        frame: admitted.frame.map(|frame| frame as u32),
        quality: admitted.quality,
        picture,
        arrays: arrays.collect::<Result<_, RunError>>()?,
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
