//! Text to video: from the pictures.

use super::open::FlowParts;
use super::text_encoder;
use crate::error::Result;
use crate::params::Tensors;
use crate::run::Run;
use crate::stage::StageFiles;
use crate::stages::{Opened, StageName};

pub(in crate::stages) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::Clips;
    let mut parts = FlowParts::begin(run, files, false)?;
    let given = run.files(stage)?.given()?;
    parts.start.frozen = given.as_ref().map(text_encoder);
    let first = run.average(StageName::Pictures, stage.name())?;
    parts.finish(run, stage, run.preset.clips, Some(first))
}

/// Transformer and text encoder, which `wants` starts from.
pub(crate) fn finished(run: &Run, wants: &'static str) -> Result<Tensors> {
    let stage = StageName::Clips;
    let mut tensors = run.average(stage, wants)?;
    // A text encoder that was given stays as it is and is not in the checkpoint.
    if let Some(given) = run.files(stage)?.given()? {
        tensors.extend(text_encoder(&given));
    }
    Ok(tensors)
}

/// The text encoder, which `wants` works with: that of the set that the run goes on from, or else the one
/// that was trained along.
pub(crate) fn encoder(run: &Run, wants: &'static str) -> Result<Tensors> {
    let stage = StageName::Clips;
    match run.files(stage)?.given()? {
        Some(given) => Ok(text_encoder(&given)),
        None => Ok(text_encoder(&run.average(stage, wants)?)),
    }
}
