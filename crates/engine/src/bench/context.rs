//! `bench context`: what the memory of OneStory costs, beside the plain transformer in the same run.

use std::time::Instant;

use serde::Serialize;
use storyloom_models::onestory::{OneStoryConfig, OneStoryMemory, context_positions};
use storyloom_models::wan::{
    AppendedTokens, ForwardInputs, TextContext, WanConfig, WanTransformer,
};
use storyloom_nn::cuda::synchronize;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::onestory::{Budget, ChosenFrame, ContextTime, Plane, choose};
use tch::{Device, Tensor};

use super::denoise::{Subject, TEXT_ROWS};
use super::{BenchSettings, DenoiseModel, Timing, noise, peak_resident_bytes};

/// What `bench context` is told besides.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ContextSettings {
    /// Shots of the history.
    pub shots: usize,
    /// Denoising steps of a shot.
    pub steps: usize,
    /// Forwards of a step: two with guidance.
    pub forwards: usize,
}

/// Figures of `bench context`.
#[derive(Debug, Clone, Serialize)]
pub struct ContextFigures {
    /// What was asked for.
    pub settings: BenchSettings,
    /// The same of history and sampling.
    pub story: ContextSettings,
    /// Folder of the transformer, or the name of its shape.
    pub model: String,
    /// Tokens of the shot.
    pub tokens: i64,
    /// One forward with each budget, all in turns, from the plain transformer on.
    pub budgets: Vec<BudgetFigures>,
    /// Scoring the frames of the history and making tokens of the chosen ones, once a shot, by the number
    /// of shots of the history.
    pub selection: Vec<SelectionFigures>,
}

/// Forwards with one budget.
#[derive(Debug, Clone, Serialize)]
pub struct BudgetFigures {
    /// Units of the budget.
    pub budget: u32,
    /// Context tokens.
    pub context_tokens: u32,
    /// One forward of one sample.
    pub forward: Timing,
    /// The median, beside that of the plain transformer.
    pub over_plain: f64,
    /// Tokens, beside those of the plain transformer.
    pub tokens_over_plain: f64,
}

/// Selection over a history of some length.
#[derive(Debug, Clone, Serialize)]
pub struct SelectionFigures {
    /// Shots of the history.
    pub shots: usize,
    /// Scores and tokens.
    pub select: Timing,
    /// As a share of the denoising of a shot with a budget of 1.
    pub share_of_denoising: f64,
    /// Largest resident memory of the process so far, in bytes.
    pub peak_resident_bytes: Option<u64>,
}

/// Times forwards with budgets of 0 to 3, and selection over a history that grows up to `story.shots`.
///
/// # Errors
/// The checkpoint is not that of a Wan transformer, or libtorch refuses.
pub fn context(
    model: DenoiseModel,
    settings: &BenchSettings,
    story: ContextSettings,
) -> Result<ContextFigures> {
    settings.prepare();
    let _guard = tch::no_grad_guard();
    let subject = Subject::open(model, settings.target()?)?;
    let bench = Bench::new(&subject.model, settings)?;
    let budgets = bench.budgets()?;
    let with_one = budgets.iter().find(|figures| figures.budget == 1);
    let forward = with_one.map_or(f64::NAN, |figures| figures.forward.median_seconds);
    let denoising = forward * (story.steps * story.forwards) as f64;
    let mut selection = Vec::new();
    for shots in history_lengths(story.shots) {
        let select = bench.select(shots)?;
        selection.push(SelectionFigures {
            shots,
            share_of_denoising: select.median_seconds / denoising,
            select,
            peak_resident_bytes: peak_resident_bytes(),
        });
    }
    Ok(ContextFigures {
        settings: settings.clone(),
        story,
        model: subject.name,
        tokens: bench.tokens(),
        budgets,
        selection,
    })
}

/// 1, 2, 4, … up to `most`, which is always among them.
fn history_lengths(most: usize) -> Vec<usize> {
    let doubled = std::iter::successors(Some(1), |shots| Some(shots * 2));
    let shorter = doubled.take_while(|&shots| shots < most);
    shorter.chain([most.max(1)]).collect()
}

/// The networks and what they are given.
struct Bench<'a> {
    model: &'a WanTransformer,
    memory: OneStoryMemory,
    settings: &'a BenchSettings,
    /// Of the latents: frames, rows, columns.
    latent: [i64; 3],
    text: Tensor,
}

/// The context of one budget.
struct Context {
    budget: u32,
    tokens: Tensor,
    positions: Tensor,
}

impl<'a> Bench<'a> {
    fn new(model: &'a WanTransformer, settings: &'a BenchSettings) -> Result<Self> {
        let config = model.config();
        let rows = i64::from(TEXT_ROWS);
        Ok(Self {
            model,
            memory: OneStoryMemory::random(&shape(config), settings.target()?)?,
            settings,
            latent: config.latent(settings.clip),
            text: noise(settings.device, &[1, rows, config.text_dim])?,
        })
    }

    fn tokens(&self) -> i64 {
        self.model.config().tokens(self.latent)
    }

    fn plane(&self) -> Plane {
        let [_, rows, columns] = self.latent;
        [rows, columns].map(|length| u32::try_from(length).unwrap_or(u32::MAX))
    }

    /// The latents of one shot of the history.
    fn shot(&self) -> Result<Tensor> {
        let [frames, rows, columns] = self.latent;
        let channels = self.model.config().out_channels;
        noise(self.settings.device, &[1, channels, frames, rows, columns])
    }

    /// Frames that are chosen by their scores.
    fn chosen(&self, scores: &[f32], units: u32) -> Result<Vec<ChosenFrame>> {
        let budget = Budget {
            units,
            counts: None,
        };
        let counts = budget.counts(self.plane());
        let counts = counts.map_err(|error| ModelError::input("budget", error.to_string()))?;
        Ok(choose(scores, counts))
    }

    /// The context tokens of `chosen`, every frame of them being the same.
    fn context_of(&self, shot: &Tensor, chosen: &[ChosenFrame]) -> Result<Tensor> {
        let frames = self.latent[0];
        let frame = |chosen: &ChosenFrame| -> Result<Tensor> {
            Ok(shot
                .f_select(0, 0)?
                .f_select(1, chosen.frame as i64 % frames)?)
        };
        let latents: Vec<Tensor> = chosen.iter().map(frame).collect::<Result<_>>()?;
        self.memory.patchifiers.forward(chosen, &latents)
    }

    fn contexts(&self) -> Result<Vec<Context>> {
        let shot = self.shot()?;
        // More than any budget sees, of shots of any length.
        let frames = self.latent[0].max(1) * Budget::MOST_FRAMES as i64;
        let scores: Vec<f32> = (0..frames).map(|frame| frame as f32).collect();
        let of = |units: u32| -> Result<Context> {
            let chosen = self.chosen(&scores, units)?;
            let time = ContextTime::default();
            let positions = context_positions(&chosen, scores.len(), self.plane(), time)?;
            Ok(Context {
                budget: units,
                tokens: self.context_of(&shot, &chosen)?,
                positions: positions.f_unsqueeze(0)?,
            })
        };
        (1..=Budget::MOST).map(of).collect()
    }

    /// Forwards with each budget in turns, after one of each that is not timed.
    fn budgets(&self) -> Result<Vec<BudgetFigures>> {
        let contexts = self.contexts()?;
        let text = self.model.prepare_context(&self.text, None)?;
        let turns: Vec<Option<&Context>> = std::iter::once(None)
            .chain(contexts.iter().map(Some))
            .collect();
        let mut seconds = vec![Vec::new(); turns.len()];
        for round in 0..=self.settings.repeats.max(1) {
            for (turn, seconds) in turns.iter().zip(&mut seconds) {
                let taken = self.forward(&text, *turn)?;
                if round > 0 {
                    seconds.push(taken);
                }
            }
        }
        let timings: Vec<Timing> = seconds.into_iter().map(Timing::of).collect();
        let plain = timings[0].median_seconds;
        let own = self.tokens();
        let figures = turns.iter().zip(timings).map(|(turn, forward)| {
            let tokens = turn.map_or(0, |context| context.tokens.size()[1]);
            BudgetFigures {
                budget: turn.map_or(0, |context| context.budget),
                context_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
                over_plain: forward.median_seconds / plain,
                tokens_over_plain: (own + tokens) as f64 / own as f64,
                forward,
            }
        });
        Ok(figures.collect())
    }

    /// Seconds of one forward.
    fn forward(&self, text: &TextContext, context: Option<&Context>) -> Result<f64> {
        let [frames, rows, columns] = self.latent;
        let channels = self.model.config().in_channels;
        let hidden = noise(self.settings.device, &[1, channels, frames, rows, columns])?;
        let inputs = ForwardInputs {
            hidden_states: &hidden,
            timestep: &Tensor::f_from_slice(&[500_i64])?,
            temporal_positions: None,
            appended: context.map(|context| AppendedTokens {
                tokens: &context.tokens,
                positions: &context.positions,
                is_clean: false,
            }),
        };
        synchronize(self.settings.device);
        let begun = Instant::now();
        drop(self.model.forward(&inputs, text)?);
        synchronize(self.settings.device);
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Scores over a history of `shots`, and the tokens of a budget of 1.
    fn select(&self, shots: usize) -> Result<Timing> {
        let shot = self.shot()?;
        let selector = &self.memory.selector;
        self.settings.time(|| {
            let asked = selector.ask(&self.text)?;
            let glances = (1..=shots)
                .rev()
                .map(|age| selector.look(&asked, &shot, age));
            let glances = glances.collect::<Result<Vec<_>>>()?;
            let scores = selector
                .scores(&asked, &glances)?
                .f_to_device(Device::Cpu)?;
            let scores: Vec<f32> = Vec::try_from(scores.f_flatten(0, -1)?)?;
            self.context_of(&shot, &self.chosen(&scores, 1)?).map(drop)
        })
    }
}

/// The parts that OneStory adds to a transformer of this shape.
fn shape(config: &WanConfig) -> OneStoryConfig {
    let default = OneStoryConfig::default();
    let width = config.width();
    OneStoryConfig {
        width,
        head_dim: match width % default.head_dim {
            0 => default.head_dim,
            _ => config.attention_head_dim,
        },
        text_dim: config.text_dim,
        latent_channels: config.out_channels,
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_budget_and_every_length_of_history_is_timed() {
        let config = WanConfig::named("tiny").unwrap();
        let model = DenoiseModel::Random {
            name: "tiny",
            config: &config,
        };
        let settings = BenchSettings {
            dtype: "f32".to_owned(),
            threads: 0,
            repeats: 1,
            clip: [9, 64, 96],
            device: Device::Cpu,
        };
        let story = ContextSettings {
            shots: 3,
            steps: 10,
            forwards: 2,
        };
        let figures = context(model, &settings, story).unwrap();
        assert_eq!(figures.tokens, 3 * 24);
        let tokens: Vec<u32> = figures.budgets.iter().map(|of| of.context_tokens).collect();
        assert_eq!(tokens, [0, 24, 48, 72], "a frame has 24 tokens");
        let over = (72.0 + 24.0) / 72.0;
        assert!((figures.budgets[1].tokens_over_plain - over).abs() < 1e-9);
        let shots: Vec<usize> = figures.selection.iter().map(|of| of.shots).collect();
        assert_eq!(shots, [1, 2, 3]);
        assert!(
            figures
                .selection
                .iter()
                .all(|of| of.share_of_denoising > 0.0)
        );
        assert_eq!(history_lengths(40), [1, 2, 4, 8, 16, 32, 40]);
    }
}
