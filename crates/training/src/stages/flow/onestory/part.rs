//! A part of a step: samples, what the networks make of them, and the loss.

use storyloom_models::onestory::{OneStoryConfig, OneStoryMemory};
use storyloom_models::text::T5Encoder;
use storyloom_models::wan::{AppendedTokens, TextContext, WanTransformer};
use storyloom_nn::checkpoint::{Checkpoint, Weights};
use storyloom_nn::tch::{Device, Kind, Reduction, Tensor, no_grad};
use storyloom_story::onestory::{ChosenFrame, choose};

use super::super::{Distil, FlowModel, FlowShape, column, parts, weighted_mean};
use super::batch::{Batch, Context};
use super::lesson::Sees;
use crate::error::Result;
use crate::params::{Tensors, checkpoint_of, plain_on};
use crate::words::Tokens;

/// The shapes of all networks.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// Transformer and text encoder.
    pub flow: FlowShape,
    /// Selector and patchifiers.
    pub memory: OneStoryConfig,
}

/// All networks, loaded.
pub struct Networks {
    /// Transformer and text encoder.
    pub flow: FlowModel,
    /// Selector and patchifiers.
    pub memory: OneStoryMemory,
}

impl Networks {
    /// Takes the text encoder from `frozen` and the rest from `weights`.
    pub fn load(
        weights: &Weights,
        frozen: &Tensors,
        shapes: &Shapes,
    ) -> storyloom_nn::Result<Self> {
        let fixed = checkpoint_of(frozen);
        let text = fixed.weights(weights.target()).sub(parts::TEXT);
        let transformer = weights.sub(parts::TRANSFORMER);
        Ok(Self {
            flow: FlowModel {
                transformer: WanTransformer::load(&transformer, shapes.flow.transformer.clone())?,
                text: T5Encoder::load(&text, shapes.flow.text.clone())?,
            },
            memory: OneStoryMemory::load(&weights.sub(parts::ONESTORY), &shapes.memory)?,
        })
    }

    /// The velocity of latents and condition `[batch, 2 z + 4, frames, h, w]` at noise levels `sigmas`, with
    /// the context behind them.
    pub fn velocity(
        &self,
        hidden: &Tensor,
        sigmas: &[f64],
        text: &TextContext,
        context: Option<&Context>,
    ) -> Result<Tensor> {
        let positions: Vec<i64> = (0..hidden.size()[2]).collect();
        let appended = context.map(|context| AppendedTokens {
            tokens: &context.tokens,
            positions: &context.positions,
            is_clean: false,
        });
        self.flow
            .velocity_beside(hidden, sigmas, &positions, text, appended)
    }

    /// The words of captions and of an empty one behind them, `[captions + 1, rows, channels]`; zeros
    /// behind the ends.
    pub fn rows(&self, tokens: &Tokens) -> Result<Tensor> {
        Ok(self.flow.words(tokens)?.f_mul(&tokens.factors()?)?)
    }
}

/// A part of a step.
pub(super) struct Part {
    pub shapes: Shapes,
    /// The captions, and an empty one behind them.
    pub tokens: Tokens,
    /// For each sample the caption that it is asked for by, by its place; the last is empty.
    pub asked_by: Vec<i64>,
    pub batch: Batch,
    pub sees: Sees,
    pub noise: Tensor,
    pub sigmas: Vec<f64>,
    pub teacher: Option<Teacher>,
    pub frozen: Tensors,
    /// Weight of the loss of the selector: lambda of the paper.
    pub lambda: f64,
    pub device: Device,
}

/// Who shows where a step should lead.
pub(super) struct Teacher {
    pub tensors: Tensors,
    pub distil: Distil,
    /// Noise level after the step of each sample.
    pub next: Vec<f64>,
}

impl Part {
    pub fn loss(self, checkpoint: &Checkpoint) -> Result<Tensor> {
        let weights = checkpoint.weights(plain_on(self.device));
        let networks = Networks::load(&weights, &self.frozen, &self.shapes)?;
        let rows = networks.rows(&self.tokens)?;
        let scores = self.scores(&networks, &rows)?;
        let chosen = self.chosen(scores.as_ref())?;
        let context = self.context(&networks, chosen.as_deref())?;
        let velocity = self.batch_velocity()?;
        let noisy = self
            .batch
            .clean
            .f_add(&velocity.f_mul(&column(&self.sigmas, self.device)?)?)?;
        let text = self.asked(&networks, &rows)?;
        let wanted = match &self.teacher {
            Some(teacher) => no_grad(|| self.taught(teacher, &noisy, chosen.as_deref()))?,
            None => velocity,
        };
        let hidden = self.hidden(&noisy)?;
        let found = networks.velocity(&hidden, &self.sigmas, &text, context.as_ref())?;
        let squares = found.f_mse_loss(&wanted, Reduction::None)?;
        let shot = weighted_mean(&squares, &self.batch.emphasis)?;
        match scores {
            None => Ok(shot),
            Some(scores) => {
                let selector = selector_loss(&scores, &self.batch.labels)?;
                Ok(shot.f_add(&selector.f_mul_scalar(self.lambda)?)?)
            }
        }
    }

    /// The velocity from what is to be made to its noise.
    fn batch_velocity(&self) -> Result<Tensor> {
        Ok(self.noise.f_sub(&self.batch.clean)?)
    }

    fn hidden(&self, noisy: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_cat(&[noisy, &self.batch.condition], 1)?)
    }

    /// The selector's scores, `[batch, F]`, by the captions themselves; `None` without history.
    fn scores(&self, networks: &Networks, rows: &Tensor) -> Result<Option<Tensor>> {
        if self.batch.history.is_empty() {
            return Ok(None);
        }
        let captions = rows.f_narrow(0, 0, rows.size()[0] - 1)?;
        let selector = &networks.memory.selector;
        Ok(Some(selector.forward(&captions, &self.batch.history)?))
    }

    /// The frames that each sample sees; no gradient flows through the choice.
    fn chosen(&self, scores: Option<&Tensor>) -> Result<Option<Vec<Vec<ChosenFrame>>>> {
        Ok(match (&self.sees, scores) {
            (Sees::Nothing, _) | (Sees::Selected(_), None) => None,
            (Sees::Fixed(chosen), _) => Some(chosen.clone()),
            (Sees::Selected(counts), Some(scores)) => {
                let scores = scores.f_detach()?.f_to_device(Device::Cpu)?;
                let one = |sample| -> Result<Vec<ChosenFrame>> {
                    let scores: Vec<f32> = Vec::try_from(&scores.f_select(0, sample)?)?;
                    Ok(choose(&scores, *counts))
                };
                Some((0..scores.size()[0]).map(one).collect::<Result<_>>()?)
            }
        })
    }

    fn context(
        &self,
        networks: &Networks,
        chosen: Option<&[Vec<ChosenFrame>]>,
    ) -> Result<Option<Context>> {
        let history = &self.batch.history;
        let patchifiers = &networks.memory.patchifiers;
        let context = chosen.map(|chosen| Context::of(patchifiers, history, chosen));
        context.transpose()
    }

    /// The captions as samples are asked for by them, for the transformer.
    fn asked(&self, networks: &Networks, rows: &Tensor) -> Result<TextContext> {
        let places = Tensor::f_from_slice(&self.asked_by)?.f_to_device(self.device)?;
        networks
            .flow
            .context_of_rows(&rows.f_index_select(0, &places)?)
    }

    /// The mean velocity on the teacher's way from `noisy` to the next noise levels.
    fn taught(
        &self,
        teacher: &Teacher,
        noisy: &Tensor,
        chosen: Option<&[Vec<ChosenFrame>]>,
    ) -> Result<Tensor> {
        let checkpoint = checkpoint_of(&teacher.tensors);
        let weights = checkpoint.weights(plain_on(self.device));
        let networks = Networks::load(&weights, &self.frozen, &self.shapes)?;
        let rows = networks.rows(&self.tokens)?;
        let with = self.asked(&networks, &rows)?;
        let samples = self.asked_by.len() as i64;
        let empty = rows.f_narrow(0, rows.size()[0] - 1, 1)?;
        let empty = empty.f_expand([samples, -1, -1], false)?;
        let without = networks.flow.context_of_rows(&empty)?;
        let context = self.context(&networks, chosen)?;
        let others = context.as_ref().filter(|_| teacher.distil.recall > 0.0);
        let others = others.map(Context::of_others).transpose()?;
        let levels = [self.sigmas.as_slice(), &teacher.next];
        teacher.distil.way(noisy, levels, |sample, sigmas| {
            let hidden = self.hidden(sample)?;
            let velocity = |text: &TextContext, context: Option<&Context>| {
                networks.velocity(&hidden, sigmas, text, context)
            };
            let wanted = velocity(&with, context.as_ref())?;
            let base = velocity(&without, context.as_ref())?;
            let other = others.as_ref().map(|others| velocity(&with, Some(others)));
            let other = other.transpose()?;
            teacher.distil.guided(&wanted, &base, other.as_ref())
        })
    }
}

/// The mean squared error of scores `[batch, F]` to their labels (section 5.3 of the specification).
pub(super) fn selector_loss(scores: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let error = scores.f_sub(labels)?;
    Ok(error.f_square()?.f_mean(Kind::Float)?)
}
