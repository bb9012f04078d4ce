//! Stage `scorer`: the vision tower that tells whether a frame shows something new.
//!
//! Trained as CLIP is (Radford et al. 2021): a picture and its caption shall be nearer to each other
//! than to the others of the batch. The caption's side is a bag of words, which is left behind: only
//! the vision tower is shipped, as a `CLIPVisionModelWithProjection`.

use std::path::Path;

use storyloom_models::vision::clip::{
    ClipVision, ClipVisionConfig, PixelRule, SelectionResize, pixel_values,
};
use storyloom_nn::checkpoint::{Checkpoint, Target, Weights};
use storyloom_nn::image::plain_picture;
use storyloom_nn::tch::{Device, Kind, Reduction, Tensor, no_grad};
use storyloom_story::Seed;
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{News, Sample, Scene, Split, Story, caption};

use super::{Opened, StageName};
use crate::clips::{ClipSource, picture};
use crate::error::Result;
use crate::params::{Params, Start, Tensors, checkpoint_of};
use crate::run::Run;
use crate::stage::{Job, Stage, StageFiles};
use crate::words::{Tokens, Words};

/// What the tower is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScorerSettings {
    /// Parts of a step that are done side by side.
    pub parts: usize,
    /// Pairs of a picture and a caption per part, told apart among themselves.
    pub pairs: usize,
}

/// What belongs to the caption's side, in the parameters.
mod own {
    /// One row per word, `[words, projection]`.
    pub const WORDS: &str = "words.weight";
    /// Logarithm of the factor of similarities.
    pub const SCALE: &str = "logit_scale";
}

/// Held-out pictures that a preview tells apart.
const SHOWN: usize = 64;
/// The factor of similarities at first and at most, as in CLIP.
const SCALES: [f64; 2] = [1.0 / 0.07, 100.0];

/// The stage.
pub struct ScorerStage {
    config: ClipVisionConfig,
    settings: ScorerSettings,
    params: Params,
    words: Words,
    source: ClipSource,
    seed: u64,
    device: Device,
}

impl ScorerStage {
    /// A stage with `params`, or with new ones.
    pub fn new(
        config: ClipVisionConfig,
        settings: ScorerSettings,
        words: Words,
        source: ClipSource,
        seed: u64,
        device: Device,
        params: Option<Tensors>,
    ) -> Result<Self> {
        let params = match params {
            Some(tensors) => Params::of(tensors, device)?,
            None => {
                let load = |weights: &Weights| -> storyloom_nn::Result<()> {
                    shipped(weights, &config)?;
                    let _ = weights.take(own::WORDS, &[words.rows(), config.projection_dim])?;
                    let _ = weights.take(own::SCALE, &[1])?;
                    Ok(())
                };
                Params::start(Seed(seed), "scorer", device, load, start)?
            }
        };
        Ok(Self {
            config,
            settings,
            params,
            words,
            source,
            seed,
            device,
        })
    }

    fn network(&self) -> Network {
        Network {
            config: self.config.clone(),
            rows: self.words.rows(),
            source: self.source,
            device: self.device,
        }
    }

    /// The captions of `scenes`, which tell everything.
    fn captions(&self, scenes: &[(Scene, f32)]) -> Result<Tokens> {
        let told = |(scene, _): &(Scene, f32)| caption(scene, News::ALL);
        let captions: Vec<String> = scenes.iter().map(told).collect();
        self.words.encode(&captions)?.on(self.device)
    }
}

/// Asks `weights` for everything that is shipped: the tower and its projection.
pub fn shipped(weights: &Weights, config: &ClipVisionConfig) -> storyloom_nn::Result<()> {
    ClipVision::load(weights, config.clone())?;
    let size = [config.projection_dim, config.hidden_size];
    weights.take("visual_projection.weight", &size).map(drop)
}

/// The tensors of the vision tower among `tensors`, as they are shipped.
pub fn vision_tower(tensors: &Tensors) -> Tensors {
    let shipped = |name: &str| name != own::WORDS && name != own::SCALE;
    let tower = tensors.iter().filter(|(name, _)| shipped(name));
    tower
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect()
}

fn start(name: &str, shape: &[i64]) -> Start {
    if name == own::SCALE {
        return Start::Constant(SCALES[0].ln());
    }
    if name.contains("norm") && name.ends_with("weight") {
        return Start::Constant(1.0);
    }
    if name.ends_with("bias") {
        return Start::Constant(0.0);
    }
    if name == own::WORDS {
        return Start::Normal(1.0);
    }
    if name.contains("class_embedding") || name.contains("position_embedding") {
        return Start::Normal(0.3);
    }
    if name.contains("out_proj") || name.contains("fc2") {
        return Start::fan_in(shape, 0.5);
    }
    Start::fan_in(shape, 1.0)
}

impl Stage for ScorerStage {
    fn name(&self) -> &'static str {
        "scorer"
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn jobs(&mut self, step: u64) -> Result<Vec<Job>> {
        let mut jobs: Vec<Job> = Vec::with_capacity(self.settings.parts);
        for part in 0..self.settings.parts {
            let mut draws = Draws::new(self.seed, &format!("scorer/{part}"), step);
            let scene = |_| {
                let sample = Sample::draw(draws.number(), 0, Split::Train);
                (sample.scene, draws.unit() as f32)
            };
            let scenes: Vec<(Scene, f32)> = (0..self.settings.pairs).map(scene).collect();
            let (network, tokens) = (self.network(), self.captions(&scenes)?);
            jobs.push(Box::new(move |checkpoint| {
                let scores = network.similarities(checkpoint, &scenes, &tokens)?;
                let pictures = told_apart(&scores)?;
                let captions = told_apart(&scores.f_transpose(0, 1)?)?;
                Ok(pictures.f_add(&captions)?.f_mul_scalar(0.5)?)
            }));
        }
        Ok(jobs)
    }

    fn preview(&mut self, average: &Tensors, _folder: &Path, step: u64) -> Result<()> {
        let of = |seed: u64| {
            let story = Story::draw(seed, Split::HeldOut);
            (story.shots[seed as usize % story.shots.len()].scene, 0.5)
        };
        let scenes: Vec<(Scene, f32)> = (0..SHOWN as u64).map(of).collect();
        let (network, tokens) = (self.network(), self.captions(&scenes)?);
        let checkpoint = checkpoint_of(average);
        let scores = no_grad(|| network.similarities(&checkpoint, &scenes, &tokens))?;
        let found = Vec::<i64>::try_from(&scores.f_argmax(1, false)?)?;
        let right = (0..).zip(&found).filter(|&(own, &found)| own == found);
        let share = right.count() as f64 / SHOWN as f64;
        let share = format!("{share:.3}");
        tracing::info!(
            stage = "scorer",
            step,
            right = share,
            of = SHOWN,
            "held out"
        );
        Ok(())
    }
}

/// Both sides, for one thread.
#[derive(Clone)]
struct Network {
    config: ClipVisionConfig,
    /// Words that captions are made of.
    rows: i64,
    source: ClipSource,
    device: Device,
}

impl Network {
    /// Scaled cosines of each picture (rows) to each caption.
    fn similarities(
        &self,
        checkpoint: &Checkpoint,
        scenes: &[(Scene, f32)],
        tokens: &Tokens,
    ) -> Result<Tensor> {
        let (kind, space) = (Kind::Float, self.config.projection_dim);
        let device = self.device;
        let weights = checkpoint.weights(Target { kind, device });
        let tower = ClipVision::load(&weights, self.config.clone())?;
        let words = weights.take(own::WORDS, &[self.rows, space])?;
        let scale = weights.take(own::SCALE, &[1])?;
        let pictures = tower.embed_normalised(&self.pixels(scenes)?)?;
        let sum = Tensor::f_embedding(&words, &tokens.ids, -1, false, false)?
            .f_mul(&tokens.factors()?)?
            .f_sum_dim_intlist([1_i64].as_slice(), false, kind)?;
        let length = sum.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?;
        let captions = sum.f_div(&length.f_clamp_min(1e-6)?)?;
        let scale = scale.f_clamp_max(SCALES[1].ln())?.f_exp()?;
        let cosines = pictures.f_matmul(&captions.f_transpose(0, 1)?)?;
        Ok(cosines.f_mul(&scale)?)
    }

    /// Pictures of `scenes` at these moments, made as keyframes are for the tower.
    fn pixels(&self, scenes: &[(Scene, f32)]) -> Result<Tensor> {
        let plain = |(scene, moment): &(Scene, f32)| -> Result<_> {
            Ok(plain_picture(&picture(scene, *moment, self.source.size)?)?)
        };
        let pictures = scenes.iter().map(plain).collect::<Result<Vec<_>>>()?;
        let pictures: Vec<_> = pictures.iter().collect();
        let side = self.config.image_size as u32;
        let rule = PixelRule::Selection(SelectionResize::Pillow);
        Ok(pixel_values(&pictures, side, rule)?)
    }
}

/// Cross entropy of rows of scores whose right answer is on the diagonal.
fn told_apart(scores: &Tensor) -> Result<Tensor> {
    let right = Tensor::f_arange(scores.size()[0], (Kind::Int64, scores.device()))?;
    let none = None::<&Tensor>;
    Ok(scores.f_cross_entropy_loss(&right, none, Reduction::Mean, NOBODY, 0.0)?)
}

/// A class that is not counted; there is none.
const NOBODY: i64 = -100;

pub(super) fn open(run: &Run, files: &StageFiles) -> Result<Opened> {
    let (settings, adam) = run.preset.scorer;
    let words = run.words()?;
    let config = run.preset.shape.clip()?;
    let (source, saved) = (run.preset.source, files.params()?);
    let stage = ScorerStage::new(config, settings, words, source, run.seed, run.device, saved)?;
    Ok((Box::new(stage), adam))
}

/// The vision tower of the set that `run` goes on from, or the one that it has trained, for `wants`.
pub(crate) fn finished(run: &Run, wants: &'static str) -> Result<Tensors> {
    let stage = StageName::Scorer;
    match run.files(stage)?.given()? {
        Some(given) => Ok(given),
        None => run.average(stage, wants),
    }
}
