//! Text to a picture: from the text encoder of `captions`, or from the set that the run goes on from.

use super::open::FlowParts;
use super::{text_encoder, transformer};
use crate::error::Result;
use crate::run::Run;
use crate::stage::StageFiles;
use crate::stages::{Opened, StageName};

pub(in crate::stages) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::Pictures;
    let mut parts = FlowParts::begin(run, files, false)?;
    let mut first = None;
    if let Some(given) = run.files(StageName::Clips)?.given()? {
        parts.start.frozen = Some(text_encoder(&given));
        first = Some(transformer(&given));
    } else if parts.start.params.is_none() {
        parts.start.begun = run.average(StageName::Captions, stage.name())?;
    }
    parts.finish(run, stage, run.preset.pictures, first)
}
