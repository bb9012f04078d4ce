//! What the stages share that train a transformer by flow matching.

use super::{FlowSettings, FlowShape, FlowStage, FlowStart};
use crate::error::Result;
use crate::optimizer::AdamSettings;
use crate::params::Tensors;
use crate::run::Run;
use crate::stage::StageFiles;
use crate::stages::{Opened, StageName};
use crate::words::Words;

/// A stage of flow matching that is being put together.
pub(super) struct FlowParts {
    /// What it starts from; what was saved of it is in there.
    pub start: FlowStart,
    words: Words,
    shape: FlowShape,
}

impl FlowParts {
    /// Begins with what was saved; `takes_pictures` is whether the transformer sees memory.
    pub fn begin(run: &Run, files: &StageFiles, takes_pictures: bool) -> Result<Self> {
        let words = run.words()?;
        let shape = FlowShape {
            transformer: run.preset.shape.transformer(takes_pictures)?,
            text: run.preset.shape.text_encoder(words.rows())?,
        };
        let start = FlowStart {
            params: files.params()?,
            begun: Tensors::new(),
            frozen: None,
            teacher: None,
            state: files.state()?,
        };
        Ok(Self {
            start,
            words,
            shape,
        })
    }

    /// Shapes of transformer and text encoder, the words, and what it starts from.
    pub fn apart(self) -> (FlowShape, Words, FlowStart) {
        (self.shape, self.words, self.start)
    }

    /// Channels that the transformer takes.
    pub fn channels(&self) -> i64 {
        self.shape.transformer.in_channels
    }

    /// The stage; `first` are the weights that it begins with if nothing was saved.
    pub fn finish(
        mut self,
        run: &Run,
        stage: StageName,
        (settings, adam): (FlowSettings, AdamSettings),
        first: Option<Tensors>,
    ) -> Result<Opened> {
        self.start.params = self.start.params.or(first);
        let (name, codec) = (stage.name(), run.codec()?);
        let (shape, words, start) = (self.shape, self.words, self.start);
        let stage = FlowStage::new(name, shape, settings, codec, words, start, run.seed)?;
        Ok((Box::new(stage), adam))
    }
}
