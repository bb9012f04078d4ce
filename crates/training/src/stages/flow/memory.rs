//! Memory pictures and text to video: from text to video with room for pictures.

use super::clips;
use super::open::FlowParts;
use super::{carried_over, text_encoder, widened};
use crate::error::Result;
use crate::run::Run;
use crate::stage::StageFiles;
use crate::stages::{Opened, StageName};

pub(in crate::stages) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::Memory;
    let mut parts = FlowParts::begin(run, files, true)?;
    let channels = parts.channels();
    let text_to_video = clips::finished(run, stage.name())?;
    parts.start.frozen = Some(text_encoder(&text_to_video));
    let first = widened(&text_to_video, channels)?;
    let given = |stage| run.files(stage).and_then(|files| files.given());
    let first = match (given(StageName::Clips)?, given(stage)?) {
        (Some(clips), Some(memory)) => carried_over(&first, &memory, &widened(&clips, channels)?)?,
        _ => first,
    };
    parts.finish(run, stage, run.preset.memory, Some(first))
}
