//! Stage `captions`: the text encoder learns which word belongs to which thing.
//!
//! In the published models the text encoder comes trained; ours starts from nothing. What it is told
//! by pictures alone does not bind colours to things in any time that we have, and words are cheap: the
//! attributes of a scene are read from its caption by a [`AttributeHead`], which is left behind.

use std::path::Path;

use storyloom_models::text::{T5Config, T5Encoder};
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::tch::{Device, Kind, Tensor, no_grad};
use storyloom_story::Seed;
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{News, Sample, Scene, Split, caption};

use super::Opened;
use crate::attribute_head::{Answers, AttributeHead};
use crate::error::Result;
use crate::params::{Params, Tensors, checkpoint_of};
use crate::reader::{Tally, shares};
use crate::run::Run;
use crate::stage::{Job, Stage, StageFiles};
use crate::stages::flow::{parts, start_of};
use crate::words::{Tokens, Words};

/// What the text encoder is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaptionSettings {
    /// Parts of a step that are done side by side.
    pub parts: usize,
    /// Captions per part.
    pub captions: usize,
}

/// Held-out captions that a preview reads.
const SHOWN: u64 = 256;

/// The stage.
pub struct CaptionStage {
    config: T5Config,
    settings: CaptionSettings,
    params: Params,
    words: Words,
    seed: u64,
    device: Device,
}

impl CaptionStage {
    /// A stage with `params`, or with new ones.
    pub fn new(
        config: T5Config,
        settings: CaptionSettings,
        words: Words,
        seed: u64,
        device: Device,
        params: Option<Tensors>,
    ) -> Result<Self> {
        let load = |weights: &Weights| Listener::load(weights, &config).map(drop);
        let params = match params {
            Some(tensors) => Params::of(tensors, device)?,
            None => Params::start(Seed(seed), "flow", device, load, start_of)?,
        };
        Ok(Self {
            config,
            settings,
            params,
            words,
            seed,
            device,
        })
    }

    fn tokens(&self, scenes: &[Scene]) -> Result<Tokens> {
        let told = scenes.iter().map(|scene| caption(scene, News::ALL));
        self.words
            .encode(&told.collect::<Vec<_>>())?
            .on(self.device)
    }
}

/// Text encoder and head.
struct Listener {
    text: T5Encoder,
    head: AttributeHead,
}

impl Listener {
    fn load(weights: &Weights, config: &T5Config) -> storyloom_nn::Result<Self> {
        Ok(Self {
            text: T5Encoder::load(&weights.sub(parts::TEXT), config.clone())?,
            head: AttributeHead::load(&weights.sub(parts::ATTRIBUTE_HEAD), config.d_model)?,
        })
    }

    fn of(checkpoint: &Checkpoint, config: &T5Config, device: Device) -> Result<Self> {
        let kind = Kind::Float;
        Ok(Self::load(
            &checkpoint.weights(Target { kind, device }),
            config,
        )?)
    }

    /// Scores `[captions, classes]`.
    fn scores(&self, tokens: &Tokens) -> Result<Tensor> {
        let words = self.text.forward(&tokens.ids, Some(&tokens.mask))?;
        self.head.scores(&words, Some(&tokens.mask))
    }
}

impl Stage for CaptionStage {
    fn name(&self) -> &'static str {
        "captions"
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn jobs(&mut self, step: u64) -> Result<Vec<Job>> {
        let mut jobs: Vec<Job> = Vec::with_capacity(self.settings.parts);
        for part in 0..self.settings.parts {
            let mut draws = Draws::new(self.seed, &format!("captions/{part}"), step);
            let scene = |_| Sample::draw(draws.number(), 0, Split::Train).scene;
            let scenes: Vec<Scene> = (0..self.settings.captions).map(scene).collect();
            let mut answers = Answers::default();
            scenes.iter().for_each(|scene| answers.push(Some(scene)));
            let (tokens, config, device) =
                (self.tokens(&scenes)?, self.config.clone(), self.device);
            jobs.push(Box::new(move |checkpoint| {
                answers.loss(&Listener::of(checkpoint, &config, device)?.scores(&tokens)?)
            }));
        }
        Ok(jobs)
    }

    fn preview(&mut self, average: &Tensors, _folder: &Path, step: u64) -> Result<()> {
        let scene = |index| Sample::draw(self.seed, index, Split::HeldOut).scene;
        let scenes: Vec<Scene> = (0..SHOWN).map(scene).collect();
        let tokens = self.tokens(&scenes)?;
        let listener = Listener::of(&checkpoint_of(average), &self.config, self.device)?;
        let scores = no_grad(|| listener.scores(&tokens))?;
        let mut tally = Tally::default();
        for (scene, reading) in scenes.iter().zip(shares(&scores)?) {
            tally.note(scene, &reading);
        }
        // Each caption is a story of its own.
        let accuracy = tally.accuracy(SHOWN);
        let [least, mean] = [accuracy.least(), accuracy.mean()].map(|share| format!("{share:.3}"));
        tracing::info!(stage = "captions", step, least, mean, "held out");
        Ok(())
    }
}

pub(super) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let (settings, adam) = run.preset.captions;
    let words = run.words()?;
    let config = run.preset.shape.text_encoder(words.rows())?;
    let (seed, device, saved) = (run.seed, run.device, files.params()?);
    let stage = CaptionStage::new(config, settings, words, seed, device, saved)?;
    Ok((Box::new(stage), adam))
}
