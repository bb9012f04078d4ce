//! Text to video: from the pictures.

use super::flow::FlowParts;
use super::{Opened, StageName};
use crate::error::Result;
use crate::flow::text_encoder;
use crate::run::Run;
use crate::stage::StageFiles;

pub(super) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let stage = StageName::Clips;
    let mut parts = FlowParts::begin(run, files, false)?;
    let given = run.files(stage)?.given()?;
    parts.start.frozen = given.as_ref().map(text_encoder);
    let first = run.average(StageName::Pictures, stage)?;
    parts.finish(run, stage, run.preset.clips, Some(first))
}
