//! The loop over noise levels of the FLUX pipelines: text to image, conditions beside it (Kontext), and true
//! classifier-free guidance (specification `flux`, 5.1, 6.1 and 7.4).

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::gradients;
use storyloom_nn::noise::{Stream, gaussian};
use storyloom_story::Seed;
use tch::Tensor;

use super::{FluxContext, FluxPositions, FluxTransformer, Modulations, pack};
use crate::sampler::{SamplerKind, Schedule, Solver, SolverMemory};
use crate::text::FluxText;

/// Packed tokens that stand behind those that are made, at every step the same: a condition picture, memory.
#[derive(Debug)]
pub struct FluxCondition {
    /// `[batch, tokens, in_channels]`.
    pub tokens: Tensor,
    /// Where they stand.
    pub positions: FluxPositions,
    /// What tells them apart from others: rows `[tokens, width]`, or one for all of them, f32, that are added to the
    /// embedded tokens.
    pub added: Option<Tensor>,
}

/// How a prompt guides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FluxGuidance {
    /// The scale that is an input of dev and Kontext; `None` for models without.
    pub embedded: Option<f32>,
    /// The scale of true classifier-free guidance; above 1 it takes a negative prompt and a second forward.
    pub true_cfg_scale: f64,
}

impl FluxGuidance {
    /// By one forward a step.
    pub fn embedded(scale: Option<f32>) -> Self {
        Self {
            embedded: scale,
            true_cfg_scale: 1.0,
        }
    }
}

/// What is made, and of what.
#[derive(Debug)]
pub struct FluxPicture<'a> {
    /// Rows and columns of tokens that are made.
    pub grid: [i64; 2],
    /// The prompt.
    pub text: &'a FluxText,
    /// What is not to be seen; used only with true classifier-free guidance.
    pub negative: Option<&'a FluxText>,
    /// Tokens behind those that are made.
    pub conditions: &'a [FluxCondition],
    /// How the prompt guides.
    pub guidance: FluxGuidance,
}

/// A sampling loop whose conditions are computed: everything that no step changes.
#[derive(Debug)]
pub struct FluxSampler<'a> {
    model: &'a FluxTransformer,
    schedule: Schedule,
    positive: Branch,
    /// The other prompt, and the scale.
    negative: Option<(Branch, f64)>,
    /// Embedded, `[batch, tokens, width]`.
    conditions: Option<Tensor>,
    /// Tokens that are made.
    tokens: i64,
}

/// What one prompt gives all steps.
#[derive(Debug)]
struct Branch {
    context: FluxContext,
    modulations: Modulations,
}

/// Noise of a picture of `grid` tokens of `channels` channels, packed: `[1, tokens, channels]` f32 on the CPU. It is
/// drawn for the latent, so that a token has its noise by where it stands.
///
/// # Errors
/// libtorch refuses.
pub fn flux_noise(seed: Seed, channels: i64, [rows, columns]: [i64; 2]) -> Result<Tensor> {
    let latent = [1, channels / 4, 2 * rows, 2 * columns];
    pack(&gaussian(seed, Stream::Shot, &latent)?)
}

impl<'a> FluxSampler<'a> {
    /// Prepares a loop over `schedule`.
    ///
    /// # Errors
    /// Sizes that do not fit each other or the model, and guidance for a model without.
    pub fn new(
        model: &'a FluxTransformer,
        schedule: Schedule,
        picture: &FluxPicture,
    ) -> Result<Self> {
        let _guard = gradients::guard();
        let tokens = picture.grid.iter().product();
        let noisy = FluxPositions::grid(0.0, picture.grid);
        let conditions = picture.conditions.iter();
        let positions = conditions.fold(noisy, |all, condition| {
            all.followed_by(&condition.positions)
        });
        let branch = |text: &FluxText| -> Result<Branch> {
            let rows = FluxPositions::text(text.rows.size().get(1).copied().unwrap_or(0));
            let samples = text.pooled.size().first().copied().unwrap_or(0) as usize;
            let scales = picture.guidance.embedded;
            let scales = scales.map(|scale| vec![scale; samples]);
            let sigmas = schedule.sigmas()[..schedule.steps()].iter();
            let sigmas: Vec<f32> = sigmas.map(|&sigma| sigma as f32).collect();
            Ok(Branch {
                context: model.context(&text.rows, &rows, &positions)?,
                modulations: model.modulations(&sigmas, scales.as_deref(), &text.pooled)?,
            })
        };
        let embedded = picture.conditions.iter();
        let embedded = embedded.map(|condition| {
            let tokens = model.embed(&condition.tokens)?;
            Ok(match &condition.added {
                Some(rows) => tokens.f_add(rows)?,
                None => tokens,
            })
        });
        let embedded = embedded.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            positive: branch(picture.text)?,
            negative: negative(picture)
                .map(|(text, scale)| Ok::<_, ModelError>((branch(text)?, scale)))
                .transpose()?,
            conditions: match embedded.is_empty() {
                true => None,
                false => Some(Tensor::f_cat(&embedded, 1)?),
            },
            model,
            schedule,
            tokens,
        })
    }

    /// The grid of noise levels.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The velocity of `latents` `[batch, tokens, in_channels]` at `step`, f32 of the same shape: of the prompt, and
    /// with true guidance then of the negative one.
    ///
    /// # Errors
    /// There is no such step, or the latents have another shape.
    pub fn velocity(&self, step: usize, latents: &Tensor) -> Result<Tensor> {
        let _guard = gradients::guard();
        let positive = self.branch_velocity(&self.positive, step, latents)?;
        let Some((branch, scale)) = &self.negative else {
            return Ok(positive);
        };
        let negative = self.branch_velocity(branch, step, latents)?;
        guided(&positive, &negative, *scale)
    }

    fn branch_velocity(&self, branch: &Branch, step: usize, latents: &Tensor) -> Result<Tensor> {
        let noisy = self.model.embed(latents)?;
        let image = match &self.conditions {
            Some(conditions) => Tensor::f_cat(&[&noisy, conditions], 1)?,
            None => noisy,
        };
        let vectors = branch.modulations.step(step)?;
        let (model, context) = (self.model, &branch.context);
        model.velocity(image, &vectors, context, self.tokens)
    }

    /// From `latents` before step `done` to those behind the last step, all packed, f32; `after` sees the number of
    /// finished steps and the latents behind each, and may end the loop by an error. Started in the middle with what
    /// it was given there, it gives the same bits.
    ///
    /// # Errors
    /// As [`velocity`](Self::velocity), and those of `after`.
    pub fn run(
        &self,
        latents: &Tensor,
        done: usize,
        mut after: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let _guard = gradients::guard();
        let nothing = SolverMemory::default();
        let mut solver = Solver::resume(SamplerKind::Euler, &self.schedule, done, nothing)?;
        let mut latents = latents.shallow_clone();
        for step in done..self.schedule.steps() {
            let velocity = self.velocity(step, &latents)?;
            latents = solver.step(&velocity, &latents)?;
            after(step + 1, &latents)?;
        }
        Ok(latents)
    }
}

/// From the negative prompt's velocity through the prompt's, and beyond.
fn guided(positive: &Tensor, negative: &Tensor, scale: f64) -> Result<Tensor> {
    let difference = positive.f_sub(negative)?;
    Ok(negative.f_add(&difference.f_mul_scalar(scale)?)?)
}

/// The negative prompt and the scale, where these guide.
fn negative<'a>(picture: &FluxPicture<'a>) -> Option<(&'a FluxText, f64)> {
    let scale = picture.guidance.true_cfg_scale;
    let text = picture.negative?;
    if scale > 1.0 {
        return Some((text, scale));
    }
    tracing::warn!("a negative prompt is not used without true_cfg_scale above 1");
    None
}

#[cfg(test)]
mod tests {
    use super::super::vectors_test::{dev_config, model, schnell_config};
    use super::*;
    use crate::sampler::FlowConfig;
    use storyloom_nn::testing::vectors::{
        assert_begins, assert_vector, flux_vector, numbers, wave,
    };

    const GRID: [i64; 2] = [4, 3];

    fn text(rows: [f64; 2], pooled: [f64; 2]) -> FluxText {
        FluxText {
            rows: wave(rows[0], rows[1], &[1, 5, 24]),
            pooled: wave(pooled[0], pooled[1], &[1, 12]),
        }
    }

    fn prompt() -> FluxText {
        text([0.2, 0.5], [0.4, 0.2])
    }

    fn condition() -> FluxCondition {
        FluxCondition {
            tokens: pack(&wave(0.25, 0.4, &[1, 4, 4, 6])).unwrap(),
            positions: FluxPositions::grid(1.0, [2, 3]),
            added: None,
        }
    }

    fn latents() -> Tensor {
        wave(0.3, 1.0, &[1, 12, 16])
    }

    fn schedule(steps: usize) -> Schedule {
        FlowConfig::dev().schedule(steps, 12).unwrap()
    }

    fn picture<'a>(text: &'a FluxText, conditions: &'a [FluxCondition]) -> FluxPicture<'a> {
        FluxPicture {
            grid: GRID,
            text,
            negative: None,
            conditions,
            guidance: FluxGuidance::embedded(Some(2.5)),
        }
    }

    fn run(sampler: &FluxSampler) -> Tensor {
        sampler.run(&latents(), 0, |_, _| Ok(())).unwrap()
    }

    /// Specification `flux`, tests 10 and 16.
    #[test]
    fn kontext_is_that_of_diffusers_wherever_it_is_resumed() {
        let (model, prompt, conditions) = (model(&dev_config()), prompt(), [condition()]);
        let sampler = FluxSampler::new(&model, schedule(3), &picture(&prompt, &conditions));
        let sampler = sampler.unwrap();
        let mut trace = vec![latents()];
        let last = sampler.run(&latents(), 0, |done, latents| {
            assert_eq!(done, trace.len());
            trace.push(latents.copy());
            Ok(())
        });
        let last = last.unwrap();
        let expected = flux_vector("modules/cases/pipeline_kontext/output");
        assert_vector("kontext", &last, &expected, 1e-5);
        for (done, latents) in trace.iter().enumerate() {
            let resumed = sampler.run(latents, done, |_, _| Ok(())).unwrap();
            assert_eq!(resumed, last, "from step {done}");
        }
        let alone = FluxSampler::new(&model, schedule(3), &picture(&prompt, &[])).unwrap();
        let difference = (run(&alone) - last).abs().max().double_value(&[]);
        assert!(difference > 1e-2, "{difference}");
    }

    #[test]
    fn true_guidance_is_that_of_diffusers() {
        let (model, prompt) = (model(&dev_config()), prompt());
        let negative = text([0.35, 0.1], [0.15, 0.7]);
        let with = |negative, true_cfg_scale| {
            let picture = FluxPicture {
                negative,
                guidance: FluxGuidance {
                    embedded: Some(3.5),
                    true_cfg_scale,
                },
                ..picture(&prompt, &[])
            };
            run(&FluxSampler::new(&model, schedule(2), &picture).unwrap())
        };
        let expected = flux_vector("modules/cases/pipeline_true_cfg/output");
        assert_vector("true cfg", &with(Some(&negative), 4.0), &expected, 1e-5);
        // It is off without a negative prompt, and at scale 1.
        let off = with(None, 4.0);
        assert_eq!(with(Some(&negative), 1.0), off);
        assert_eq!(with(None, 1.0), off);
    }

    /// Specification `flux`, 6.1, on plain numbers.
    #[test]
    fn guidance_goes_from_the_negative_beyond_the_positive() {
        let vector = flux_vector("true_cfg");
        let [positive, negative] = ["pos", "neg"].map(|name| {
            let values = numbers(&vector[name]);
            Tensor::from_slice(&values)
        });
        let found = guided(&positive, &negative, 4.0).unwrap();
        assert_begins("guided", &found, &vector["output"], 1e-12);
    }

    #[test]
    fn guidance_for_a_model_without_is_an_error() {
        let (model, prompt) = (model(&schnell_config()), prompt());
        let error = FluxSampler::new(&model, schedule(1), &picture(&prompt, &[]));
        assert!(error.unwrap_err().to_string().contains("guidance"));
        let picture = FluxPicture {
            guidance: FluxGuidance::embedded(None),
            ..picture(&prompt, &[])
        };
        let schedule = FlowConfig::default().schedule(1, 12).unwrap();
        let sampler = FluxSampler::new(&model, schedule, &picture).unwrap();
        assert_eq!(run(&sampler).size(), [1, 12, 16]);
        let stopped = sampler.run(&latents(), 0, |step, _| {
            Err(ModelError::Interrupted { step, steps: 1 })
        });
        assert!(stopped.is_err());
    }

    /// A token's noise follows from its place in the latent.
    #[test]
    fn noise_is_drawn_for_the_latent() {
        let noise = flux_noise(Seed(7), 16, [4, 3]).unwrap();
        assert_eq!(noise.size(), [1, 12, 16]);
        let latent = gaussian(Seed(7), Stream::Shot, &[1, 4, 8, 6]).unwrap();
        let value = latent.double_value(&[0, 2, 5, 3]);
        assert_eq!(noise.double_value(&[0, 2 * 3 + 1, 2 * 4 + 2 + 1]), value);
    }
}
