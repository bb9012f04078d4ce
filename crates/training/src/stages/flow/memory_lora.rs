//! Memory pictures and text to video as adapters of the text-to-video model, which stays as it is.

use super::clips;
use super::open::FlowParts;
use super::{text_encoder, widened};
use crate::error::Result;
use crate::run::Run;
use crate::stage::StageFiles;
use crate::stages::{Opened, StageName};

pub(in crate::stages) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::MemoryLora;
    let mut parts = FlowParts::begin(run, files, true)?;
    let text_to_video = clips::finished(run, stage.name())?;
    let mut adapted = text_encoder(&text_to_video);
    adapted.extend(widened(&text_to_video, parts.channels())?);
    parts.start.frozen = Some(adapted);
    parts.finish(run, stage, run.preset.lora(), None)
}
