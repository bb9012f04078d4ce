//! Flow matching: the stages that train transformers on latents.
//!
//! A sample `x = (1 - sigma) clean + sigma noise` is shown with its caption, and the velocity
//! `noise - clean` is to be predicted, as in Wan.

pub(crate) mod clips;
pub(super) mod fast;
mod lora;
pub(super) mod memory;
pub(super) mod memory_lora;
pub mod onestory;
mod open;
pub(super) mod pictures;
mod preview;
mod samples;
mod start;
mod teacher;

use std::ops::Range;
use std::path::Path;

use storyloom_models::text::{T5Config, T5Encoder, TEXT_ROWS};
use storyloom_models::wan::{
    AppendedTokens, ForwardInputs, TextContext, WanConfig, WanTransformer,
};
use storyloom_nn::checkpoint::{Checkpoint, Weights};
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_nn::tch::{Device, Kind, Reduction, Tensor, no_grad};
use storyloom_story::Seed;
use storyloom_tinyworld::draws::Draws;

use crate::attribute_head::AttributeHead;
use crate::error::Result;
use crate::latents::{LatentCodec, Length, Pool};
use crate::params::{Params, Tensors, plain_on};
use crate::stage::{Job, Stage};
use crate::words::{Tokens, Words};

pub use samples::Batch;
pub(crate) use start::start_of;
pub use start::{carried_over, text_encoder, transformer, widened};
pub use teacher::Distil;
use teacher::Teacher;

/// What a transformer is trained with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowSettings {
    /// Parts of a step that are done side by side.
    pub parts: usize,
    /// Samples per part.
    pub samples: usize,
    /// Share of samples whose caption is empty, for guidance.
    pub dropped: f64,
    /// Stories in the pool.
    pub pool: usize,
    /// Steps between new stories of the pool.
    pub renew_every: u64,
    /// Flow shift of the noise levels.
    pub shift: f64,
    /// Share of samples at [`EARLY`] noise levels, on top of those that are drawn there anyway.
    pub early: f64,
    /// Most memory pictures of a sample; 0 for text to video.
    pub memory: usize,
    /// Whether only single pictures are trained on, or whole clips.
    pub length: Length,
    /// Share of the parts with clips that take single pictures all the same, twice as many: what
    /// things look like takes longer to learn than how they move, and a picture costs a third.
    pub stills: f64,
    /// How a finished model is made faster; `None` trains on the data alone.
    pub distil: Option<Distil>,
    /// Rank of the adapters that learn in the place of the transformer; `None`: it learns itself.
    pub adapters: Option<i64>,
}

impl FlowSettings {
    /// A noise level: early for a share of samples, else as in logit-normal sampling, shifted.
    fn sigma(&self, draws: &mut Draws) -> f64 {
        if self.early > 0.0 && draws.chance(self.early) {
            return EARLY.start + (EARLY.end - EARLY.start) * draws.unit();
        }
        let level = 1.0 / (1.0 + (-draws.normal()).exp());
        let level = if draws.chance(0.1) {
            draws.unit()
        } else {
            level
        };
        let shift = self.shift;
        (shift * level / (1.0 + (shift - 1.0) * level)).clamp(0.002, 0.999)
    }
}

/// Noise levels at which nothing but captions and memory tells the colour of large areas: from lower
/// ones it can be guessed, for the noise of many latents cancels out.
pub const EARLY: Range<f64> = 0.9..0.999;

/// Names of the networks in the parameters.
pub mod parts {
    /// The transformer.
    pub const TRANSFORMER: &str = "transformer";
    /// What OneStory adds to it.
    pub const ONESTORY: &str = "onestory";
    /// The text encoder.
    pub const TEXT: &str = "text_encoder";
    /// What reads attributes from the words of the text encoder; trained along, and not shipped.
    pub const ATTRIBUTE_HEAD: &str = "ballot";
}

/// The shapes of transformer and text encoder.
#[derive(Debug, Clone)]
pub struct FlowShape {
    /// The transformer.
    pub transformer: WanConfig,
    /// The text encoder.
    pub text: T5Config,
}

/// Transformer and text encoder, loaded.
pub struct FlowModel {
    transformer: WanTransformer,
    text: T5Encoder,
}

impl FlowModel {
    /// Takes both from `weights`.
    pub fn load(weights: &Weights, shape: &FlowShape) -> storyloom_nn::Result<Self> {
        let transformer = weights.sub(parts::TRANSFORMER);
        Ok(Self {
            transformer: WanTransformer::load(&transformer, shape.transformer.clone())?,
            text: T5Encoder::load(&weights.sub(parts::TEXT), shape.text.clone())?,
        })
    }

    /// Projects captions for the transformer.
    pub fn context(&self, tokens: &Tokens) -> Result<TextContext> {
        self.context_of(&self.words(tokens)?, tokens)
    }

    /// The words of captions as the text encoder sees them, `[captions, rows, channels]`.
    fn words(&self, tokens: &Tokens) -> Result<Tensor> {
        Ok(self.text.forward(&tokens.ids, Some(&tokens.mask))?)
    }

    /// Projects the words of captions.
    fn context_of(&self, words: &Tensor, tokens: &Tokens) -> Result<TextContext> {
        self.context_of_rows(&words.f_mul(&tokens.factors()?)?)
    }

    /// Projects the words of captions `[captions, rows, channels]`, zeros behind their ends.
    fn context_of_rows(&self, rows: &Tensor) -> Result<TextContext> {
        let (captions, count, width) = rows.size3()?;
        let padding = Tensor::f_zeros([captions, 1, width], (Kind::Float, rows.device()))?;
        let rows = Tensor::f_cat(&[rows, &padding], 1)?;
        Ok(self
            .transformer
            .prepare_short_context(&rows, TEXT_ROWS - count)?)
    }

    /// The velocity of `[batch, channels, frames, h, w]` at noise levels `sigmas`.
    pub fn velocity(
        &self,
        hidden_states: &Tensor,
        sigmas: &[f64],
        positions: &[i64],
        context: &TextContext,
    ) -> Result<Tensor> {
        self.velocity_beside(hidden_states, sigmas, positions, context, None)
    }

    /// The same with `appended` tokens behind those of the samples.
    fn velocity_beside(
        &self,
        hidden_states: &Tensor,
        sigmas: &[f64],
        positions: &[i64],
        context: &TextContext,
        appended: Option<AppendedTokens>,
    ) -> Result<Tensor> {
        let times: Vec<f64> = sigmas
            .iter()
            .map(|sigma| (1000.0 * sigma).trunc())
            .collect();
        let inputs = ForwardInputs {
            hidden_states,
            timestep: &Tensor::f_from_slice(&times)?,
            temporal_positions: Some(positions),
            appended,
        };
        Ok(self.transformer.forward(&inputs, context)?)
    }
}

/// A stage that trains a transformer, and for text to video the text encoder with it.
pub struct FlowStage {
    name: &'static str,
    shape: FlowShape,
    settings: FlowSettings,
    params: Params,
    /// The text encoder, once it is finished, and a transformer that only its adapters change.
    frozen: Tensors,
    /// Transformer and text encoder of the teacher, where there is one.
    teacher: Option<Tensors>,
    pool: Pool,
    codec: LatentCodec,
    words: Words,
    /// Frames of a clip, pixels.
    frames: usize,
    seed: u64,
    device: Device,
}

/// What a stage starts from.
pub struct FlowStart {
    /// The parameters, of an earlier stage or saved; new ones where there are none.
    pub params: Option<Tensors>,
    /// Parameters of an earlier stage that are a part of the new ones.
    pub begun: Tensors,
    /// The finished text encoder, with names below [`parts::TEXT`]; trained along if absent. With
    /// adapters also the transformer that these change.
    pub frozen: Option<Tensors>,
    /// The teacher of a distillation: transformer and text encoder.
    pub teacher: Option<Tensors>,
    /// The saved state.
    pub state: Tensors,
}

impl FlowStage {
    /// A stage of this name.
    pub fn new(
        name: &'static str,
        shape: FlowShape,
        settings: FlowSettings,
        codec: LatentCodec,
        words: Words,
        start: FlowStart,
        seed: u64,
    ) -> Result<Self> {
        let device = codec.device();
        let frozen = start.frozen.unwrap_or_default();
        let params = match (start.params, settings.adapters) {
            (Some(tensors), _) => Params::of(tensors, device)?,
            (None, Some(rank)) => Params::start(
                Seed(seed),
                "lora",
                device,
                |weights| lora::load(weights, &frozen, rank),
                lora::start_of,
            )?,
            (None, None) => Params::start(
                Seed(seed),
                "flow",
                device,
                |weights| {
                    FlowModel::load(weights, &shape)?;
                    AttributeHead::load(&weights.sub(parts::ATTRIBUTE_HEAD), shape.text.d_model)
                        .map(drop)
                },
                start_of,
            )?
            .replaced(start.begun)?,
        };
        let mut pool = Pool::new(codec.clone(), settings.length, seed << 32, settings.pool);
        pool.restore(&start.state)?;
        Ok(Self {
            name,
            shape,
            settings,
            params,
            frozen,
            teacher: start.teacher,
            pool,
            frames: codec.source().frames,
            codec,
            words,
            seed,
            device,
        })
    }
}

/// Weight of what is read from the words of a caption beside what is drawn of it.
const HEARD: f64 = 0.1;
/// Weight of the memory pictures in the loss. They are given, and what is made of them is dropped.
const GIVEN: f64 = 0.1;

impl Stage for FlowStage {
    fn name(&self) -> &'static str {
        self.name
    }

    fn params(&self) -> &Params {
        &self.params
    }

    fn jobs(&mut self, step: u64) -> Result<Vec<Job>> {
        // Two by two, for they are encoded side by side.
        let due = step > 0 && step.is_multiple_of(2 * self.settings.renew_every);
        self.pool.fill(if due { 2 } else { 0 })?;
        let mut jobs: Vec<Job> = Vec::new();
        for part in 0..self.settings.parts {
            let purpose = format!("{}/{part}", self.name);
            let mut draws = Draws::new(self.seed, &purpose, step);
            let entries = self.pool.entries();
            let grid = self.shape.transformer.latent_grid();
            let batch = Batch::draw(&mut draws, entries, &self.settings, grid, self.frames)?;
            let (sigmas, teacher) = match (&self.teacher, self.settings.distil) {
                (Some(teacher), Some(distil)) => {
                    let count = batch.captions.len();
                    let [sigmas, next] = distil.steps_of(&mut draws, count)?;
                    let empty = vec![String::new(); count];
                    let teacher = Teacher {
                        tensors: crate::params::shallow(teacher),
                        distil,
                        next,
                        empty: self.words.encode(&empty)?.on(self.device)?,
                    };
                    (sigmas, Some(teacher))
                }
                _ => {
                    let levels = batch.captions.iter();
                    let levels = levels.map(|_| self.settings.sigma(&mut draws));
                    (levels.collect(), None)
                }
            };
            let part = StepPart {
                shape: self.shape.clone(),
                tokens: self.words.encode(&batch.captions)?.on(self.device)?,
                noise: gaussian(Seed(draws.number()), Stream::Shot, &batch.clean.size())?
                    .f_to_device(self.device)?,
                batch,
                sigmas,
                teacher,
                frozen: crate::params::shallow(&self.frozen),
                adapters: self.settings.adapters,
                device: self.device,
            };
            jobs.push(Box::new(move |checkpoint| part.loss(checkpoint)));
        }
        Ok(jobs)
    }

    fn state(&self) -> Result<Tensors> {
        self.pool.state()
    }

    fn preview(&mut self, average: &Tensors, folder: &Path, step: u64) -> Result<()> {
        let tensors = match self.settings.adapters {
            Some(rank) => {
                let adapters = crate::params::checkpoint_of(average);
                lora::applied(&self.frozen, &adapters.weights(plain_on(self.device)), rank)?
            }
            None => {
                let mut tensors = crate::params::shallow(&self.frozen);
                tensors.extend(crate::params::shallow(average));
                tensors
            }
        };
        let path = folder.join(format!("preview-{step:06}.png"));
        preview::draw(
            &preview::Model {
                tensors: &tensors,
                shape: &self.shape,
                codec: &self.codec,
                words: &self.words,
                length: self.settings.length,
                memory: self.settings.memory,
                distil: self.settings.distil,
                device: self.device,
            },
            &path,
        )
    }
}

/// A part of a step.
struct StepPart {
    shape: FlowShape,
    tokens: Tokens,
    batch: Batch,
    noise: Tensor,
    sigmas: Vec<f64>,
    teacher: Option<Teacher>,
    frozen: Tensors,
    adapters: Option<i64>,
    device: Device,
}

impl StepPart {
    /// The networks with the trained `weights`, and what reads captions where that is trained.
    fn model(&self, weights: &Weights) -> Result<(FlowModel, Option<AttributeHead>)> {
        if self.frozen.is_empty() {
            let head =
                AttributeHead::load(&weights.sub(parts::ATTRIBUTE_HEAD), self.shape.text.d_model)?;
            return Ok((FlowModel::load(weights, &self.shape)?, Some(head)));
        }
        let target = weights.target();
        if let Some(rank) = self.adapters {
            let tensors = lora::applied(&self.frozen, weights, rank)?;
            let checkpoint = crate::params::checkpoint_of(&tensors);
            let model = FlowModel::load(&checkpoint.weights(target), &self.shape)?;
            return Ok((model, None));
        }
        let frozen = crate::params::checkpoint_of(&self.frozen);
        let text = frozen.weights(target).sub(parts::TEXT);
        let transformer = weights.sub(parts::TRANSFORMER);
        let model = FlowModel {
            transformer: WanTransformer::load(&transformer, self.shape.transformer.clone())?,
            text: T5Encoder::load(&text, self.shape.text.clone())?,
        };
        Ok((model, None))
    }

    fn loss(self, checkpoint: &Checkpoint) -> Result<Tensor> {
        let (model, head) = self.model(&checkpoint.weights(plain_on(self.device)))?;
        let clean = self.batch.clean.f_to_device(self.device)?;
        let mut velocity = self.noise.f_sub(&clean)?;
        let noisy = self.noisy(&clean, &velocity, &self.sigmas)?;
        if let Some(teacher) = &self.teacher {
            velocity = no_grad(|| teacher.velocity(&self, &noisy))?;
        }
        let words = model.words(&self.tokens)?;
        let context = model.context_of(&words, &self.tokens)?;
        let positions = &self.batch.positions;
        let found = model.velocity(&self.hidden(&noisy)?, &self.sigmas, positions, &context)?;
        let loss = self.error(&found, &velocity)?;
        Ok(match head {
            Some(head) => {
                let scores = head.scores(&words, Some(&self.tokens.mask))?;
                let heard = self.batch.told.loss(&scores)?;
                loss.f_add(&heard.f_mul_scalar(HEARD)?)?
            }
            None => loss,
        })
    }

    /// The mean squared error of velocities, by [`Emphasis`](crate::latents::emphasis::Emphasis); memory
    /// counts little.
    fn error(&self, found: &Tensor, wanted: &Tensor) -> Result<Tensor> {
        let memory = self.batch.memory as i64;
        let squares = found.f_mse_loss(wanted, Reduction::None)?;
        let weights = self.batch.emphasis.f_to_device(self.device)?;
        let made = squares.f_narrow(2, memory, squares.size()[2] - memory)?;
        let made = weighted_mean(&made, &weights)?;
        match memory {
            0 => Ok(made),
            _ => {
                let given = squares.f_narrow(2, 0, memory)?.f_mean(None)?;
                Ok(made.f_add(&given.f_mul_scalar(GIVEN)?)?)
            }
        }
    }

    /// The noisy latents with the condition behind them.
    fn hidden(&self, noisy: &Tensor) -> Result<Tensor> {
        Ok(match &self.batch.condition {
            Some(condition) => Tensor::f_cat(&[noisy, &condition.f_to_device(self.device)?], 1)?,
            None => noisy.shallow_clone(),
        })
    }

    /// `clean` latents, so far on their way to noise, with the `velocity` of that way.
    fn noisy(&self, clean: &Tensor, velocity: &Tensor, sigmas: &[f64]) -> Result<Tensor> {
        Ok(clean.f_add(&velocity.f_mul(&self.column(sigmas)?)?)?)
    }

    /// One number per sample, as a factor of latents.
    fn column(&self, values: &[f64]) -> Result<Tensor> {
        column(values, self.device)
    }
}

/// The mean of `values` of which each counts as `weights` say.
fn weighted_mean(values: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let mean = values.f_mul(weights)?.f_mean(None)?;
    Ok(mean.f_div(&weights.f_mean(None)?)?)
}

/// One number per sample, as a factor of latents on `device`.
fn column(values: &[f64], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?
        .f_to_kind(Kind::Float)?
        .f_view([-1, 1, 1, 1, 1])?
        .f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    /// The share of samples above noise level `sigma`.
    fn share_above(settings: &FlowSettings, sigma: f64) -> f64 {
        let mut draws = Draws::new(1, "sigma", 0);
        let levels = (0..20_000).map(|_| settings.sigma(&mut draws));
        levels.filter(|level| *level > sigma).count() as f64 / 20_000.0
    }

    #[test]
    fn memory_learns_from_the_first_steps_of_sampling_too() {
        let (memory, _) = Preset::tiny().memory;
        let plain = FlowSettings {
            early: 0.0,
            ..memory
        };
        assert!(share_above(&plain, 0.95) < 0.05);
        // All early levels are alike, and the others are as they were.
        for sigma in [0.9, 0.95, 0.97] {
            let early = memory.early * (EARLY.end - sigma) / (EARLY.end - EARLY.start);
            let wanted = early + (1.0 - memory.early) * share_above(&plain, sigma);
            assert!((share_above(&memory, sigma) - wanted).abs() < 0.015);
        }
        assert!(share_above(&memory, 0.999) == 0.0);
    }
}
