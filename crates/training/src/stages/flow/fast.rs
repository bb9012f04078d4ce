//! The same in few steps: a student learns from the finished model.

use super::clips;
use super::open::FlowParts;
use super::{FlowSettings, text_encoder, widened};
use crate::error::Result;
use crate::optimizer::AdamSettings;
use crate::params::{self, Tensors};
use crate::run::Run;
use crate::stage::StageFiles;
use crate::stages::{Opened, StageName};

/// Text to video.
pub(in crate::stages) fn open_clips(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::FastClips;
    let parts = FlowParts::begin(run, files, false)?;
    let teacher = clips::finished(run, stage.name())?;
    let settings = run.preset.fast(run.preset.clips);
    student(run, stage, parts, &teacher, settings)
}

/// Memory pictures and text to video.
pub(in crate::stages) fn open_memory(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::FastMemory;
    let parts = FlowParts::begin(run, files, true)?;
    let text_to_video = clips::finished(run, stage.name())?;
    let mut teacher = run.average(StageName::Memory, stage.name())?;
    teacher.extend(text_encoder(&text_to_video));
    let settings = run.preset.fast(run.preset.memory);
    student(run, stage, parts, &teacher, settings)
}

fn student(
    run: &Run,
    stage: StageName,
    mut parts: FlowParts,
    teacher: &Tensors,
    settings: (FlowSettings, AdamSettings),
) -> Result<Opened> {
    parts.start.frozen = Some(text_encoder(teacher));
    parts.start.teacher = Some(params::shallow(teacher));
    let first = widened(teacher, parts.channels())?;
    parts.finish(run, stage, settings, Some(first))
}
