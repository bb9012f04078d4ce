//! Stage `denoise`: the sampling loop over one or two experts.

use std::path::Path;
use std::sync::Arc;

use storyloom_models::sampler::{Expert, SamplerSettings, Schedule, Solver, SolverState};
use storyloom_models::wan::{ForwardInputs, TextContext, WanTransformer};
use storyloom_nn::checkpoint::{Checkpoint, Target, component_folder};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::lora::{LoraSettings, apply_lora};
use storyloom_nn::shard::Shard;
use storyloom_nn::tensor_file::{from_host, to_host};
use storyloom_story::LoopState;
use tch::{Kind, Tensor};

use crate::method::storymem::adapters::{AdaptedExpert, adapter_file};
use crate::method::storymem::no_image_to_video;
use crate::replica::help::{Help, Leaders};
use crate::replica::wire::{Tensors, take};
use crate::replica::{Answer, Command, Crew, Pipeline, Replica, serve};

/// The transformers of a pipeline and how they are sampled.
#[derive(Debug)]
pub struct Denoiser {
    experts: Experts,
    settings: DenoiseSettings,
    schedule: Schedule,
    pipeline: Pipeline,
    /// The ranks that share the transformers.
    crew: Option<Arc<Crew>>,
    /// Leaders of other replicas, who may help.
    leaders: Option<Arc<Leaders>>,
}

/// The transformers of a pipeline, whole or this rank's slices.
#[derive(Debug)]
pub(crate) struct Experts {
    high: WanTransformer,
    low: Option<WanTransformer>,
}

impl Experts {
    /// Loads `transformer` and, where the pipeline has one, `transformer_2`, with their adapters.
    pub(crate) fn open(
        pipeline: &Path,
        target: Target,
        lora: Option<(&Path, LoraSettings)>,
        shard: &Shard,
    ) -> Result<Self> {
        let has_low = component_folder(pipeline, AdaptedExpert::Low.component()).is_dir();
        let expert = |expert: AdaptedExpert| {
            let folder = component_folder(pipeline, expert.component());
            let mut model = WanTransformer::open_shard(&folder, target, shard)?;
            if let Some((lora, settings)) = lora {
                let file = adapter_file(lora, expert, !has_low)?;
                apply_lora(&mut model, &file, target, settings)?;
            }
            Ok::<_, ModelError>(model)
        };
        Ok(Self {
            high: expert(AdaptedExpert::High)?,
            low: has_low.then(|| expert(AdaptedExpert::Low)).transpose()?,
        })
    }

    fn model(&self, expert: Expert) -> &WanTransformer {
        match (expert, &self.low) {
            (Expert::Low, Some(low)) => low,
            _ => &self.high,
        }
    }
}

/// Sampler and guidance of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenoiseSettings {
    /// Solver, grid and boundary.
    pub sampler: SamplerSettings,
    /// Guidance scale of the high-noise expert; 1 skips the negative prompt.
    pub guidance_high: f64,
    /// Guidance scale of the low-noise expert.
    pub guidance_low: f64,
}

/// Text rows of both prompts, `[1, rows, text_dim]` in f32, zero after each prompt's end.
#[derive(Debug)]
pub struct TextPair {
    /// The prompt.
    pub positive: Tensor,
    /// What the picture should not be.
    pub negative: Tensor,
}

/// What a sampling loop starts from.
#[derive(Debug)]
pub struct DenoiseInputs<'a> {
    /// Noise `[1, channels, frames, height, width]` in f32.
    pub noise: &'a Tensor,
    /// Both prompts.
    pub text: &'a TextPair,
    /// Condition channels `[1, more, frames, height, width]`, put behind the noise.
    pub condition: Option<&'a Tensor>,
    /// Temporal positions of the latent frames.
    pub temporal_positions: &'a [i64],
}

impl Denoiser {
    /// Loads the transformers of a pipeline, to be sampled by this rank alone.
    pub fn open(
        pipeline: &Path,
        target: Target,
        settings: DenoiseSettings,
        lora: Option<(&Path, LoraSettings)>,
    ) -> Result<Self> {
        let experts = Experts::open(pipeline, target, lora, &Shard::default())?;
        // Alone, it does not matter which of the two it is.
        Self::new(pipeline, experts, settings, Pipeline::TextToVideo)
    }

    /// Samples with `experts`, which were loaded from `folder`.
    pub(crate) fn new(
        folder: &Path,
        experts: Experts,
        mut settings: DenoiseSettings,
        pipeline: Pipeline,
    ) -> Result<Self> {
        if settings.sampler.boundary.is_some() && experts.low.is_none() {
            if !has_one_expert(folder)? {
                let reason = "a boundary between two experts is set, but there is no transformer_2";
                return Err(ModelError::bad_file(folder, reason));
            }
            settings.sampler.boundary = None;
        }
        Ok(Self {
            experts,
            settings,
            schedule: Schedule::new(&settings.sampler)?,
            pipeline,
            crew: None,
            leaders: None,
        })
    }

    /// The same with the ranks that have the other slices, and with leaders who may help.
    pub(crate) fn with_ranks(
        mut self,
        crew: Option<&Arc<Crew>>,
        leaders: Option<&Arc<Leaders>>,
    ) -> Self {
        self.crew = crew.cloned();
        self.leaders = leaders.cloned();
        self
    }

    /// The folders that [`Denoiser::open`] reads, for digests.
    pub fn checkpoints(pipeline: &Path) -> Result<Vec<Checkpoint>> {
        ["transformer", "transformer_2"]
            .iter()
            .map(|name| component_folder(pipeline, name))
            .filter(|folder| folder.is_dir())
            .map(|folder| Checkpoint::open(&folder))
            .collect()
    }

    /// Channels of the latents that are sampled.
    pub fn latent_channels(&self) -> i64 {
        self.experts.high.config().out_channels
    }

    /// Channels of the condition that the transformers expect behind the latents.
    pub fn condition_channels(&self) -> i64 {
        self.experts.high.config().in_channels - self.latent_channels()
    }

    /// The grid of noise levels.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Walks from noise to clean latents of the same shape.
    ///
    /// After every step `observer` is shown where the loop stands; `false` stops it. With `resume`
    /// the loop goes on from a saved state of the same inputs, to the same bits. Text is projected
    /// once per expert, when its first step comes.
    pub fn sample(
        &self,
        inputs: &DenoiseInputs,
        resume: Option<&LoopState>,
        observer: &mut dyn FnMut(&Standing) -> bool,
    ) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let steps = self.schedule.steps();
        let (mut solver, mut sample) = match resume {
            None => {
                let solver = Solver::new(self.settings.sampler.kind, &self.schedule);
                (solver, inputs.noise.f_to_kind(Kind::Float)?)
            }
            Some(state) => self.restore(state, inputs.noise)?,
        };
        let mut helper = Helper {
            leaders: self.leaders.as_deref(),
            rank: None,
        };
        let mut prepared: Option<(Expert, Prepared)> = None;
        for step in solver.state().step..steps {
            let expert = self.schedule.expert(step);
            let joined = helper.look(self.guidance(expert) != 1.0)?;
            let ready = match prepared.take() {
                Some((current, ready)) if current == expert && !joined => ready,
                _ => self.prepare(expert, inputs.text, &helper)?,
            };
            let velocity = self.velocity(expert, &ready, inputs, &sample, step, &helper)?;
            sample = solver.step(&velocity, &sample)?;
            prepared = Some((expert, ready));
            let standing = Standing {
                solver: &solver,
                sample: &sample,
                steps,
            };
            if !observer(&standing) && step + 1 < steps {
                return Err(ModelError::Interrupted {
                    step: step + 1,
                    steps,
                });
            }
        }
        Ok(sample)
    }

    fn restore(&self, state: &LoopState, like: &Tensor) -> Result<(Solver, Tensor)> {
        if state.total != self.schedule.steps() {
            let reason = format!("saved in a loop of {} steps", state.total);
            return Err(ModelError::input("loop state", reason));
        }
        let array = |name: &str| -> Result<Option<Tensor>> {
            let Some(array) = state.arrays.get(name) else {
                return Ok(None);
            };
            let tensor = from_host(array, like.device())?;
            if tensor.size() != like.size() {
                let reason = format!("{name} is {:?}, not {:?}", tensor.size(), like.size());
                return Err(ModelError::input("loop state", reason));
            }
            Ok(Some(tensor))
        };
        let missing = || ModelError::input("loop state", "it has no sample");
        let sample = array(SAMPLE)?.ok_or_else(missing)?;
        let [newer, older] = ESTIMATES.map(array);
        let solver = SolverState {
            step: state.done,
            order: state.order,
            estimates: [newer?, older?].into_iter().flatten().collect(),
            corrected: array(CORRECTED)?,
        };
        let kind = self.settings.sampler.kind;
        Ok((Solver::resume(kind, &self.schedule, solver)?, sample))
    }

    fn guidance(&self, expert: Expert) -> f64 {
        match (expert, &self.experts.low) {
            (Expert::Low, Some(_)) => self.settings.guidance_low,
            _ => self.settings.guidance_high,
        }
    }

    /// Whether another rank computes with the negative prompt, and which.
    fn negative_leader(&self) -> Option<usize> {
        self.crew.as_ref()?.replica.negative_leader()
    }

    /// Sends a command to the ranks that take part in a forward.
    fn tell(&self, guided: bool, command: &Command, tensors: &[(&str, &Tensor)]) -> Result<()> {
        let Some(crew) = &self.crew else {
            return Ok(());
        };
        let named = tensors
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()));
        crew.tell(&crew.replica.followers(guided), command, &named.collect())
    }

    fn prepare(&self, expert: Expert, text: &TextPair, helper: &Helper) -> Result<Prepared> {
        let mut guided = self.guidance(expert) != 1.0;
        if guided && helper.rank.is_some() {
            let pipeline = self.pipeline;
            let negative = Tensors::from([(POSITIVE.to_owned(), text.negative.shallow_clone())]);
            helper.send(&Help::Prepare { pipeline, expert }, &negative)?;
            guided = false;
        }
        let command = Command::Prepare {
            pipeline: self.pipeline,
            expert,
            guided,
        };
        let texts = [(POSITIVE, &text.positive), (NEGATIVE, &text.negative)];
        self.tell(guided, &command, &texts)?;
        let model = self.experts.model(expert);
        let own = guided && self.negative_leader().is_none();
        // In the order in which followers prepare theirs.
        let positive = model.prepare_context(&text.positive, None)?;
        let negative = own.then(|| model.prepare_context(&text.negative, None));
        Ok(Prepared {
            positive,
            negative: negative.transpose()?,
        })
    }

    /// The guided velocity in f32; both branches see the same condition.
    fn velocity(
        &self,
        expert: Expert,
        ready: &Prepared,
        inputs: &DenoiseInputs,
        sample: &Tensor,
        step: usize,
        helper: &Helper,
    ) -> Result<Tensor> {
        let (model, guidance) = (self.experts.model(expert), self.guidance(expert));
        let hidden_states = match inputs.condition {
            Some(condition) => Tensor::f_cat(&[sample, condition], 1)?,
            None => sample.shallow_clone(),
        };
        let timestep = self.schedule.timesteps()[step];
        let command = Command::Forward {
            timestep,
            positions: inputs.temporal_positions.to_vec(),
        };
        let guided = guidance != 1.0;
        let is_helped = guided && helper.rank.is_some();
        if is_helped {
            let tensors = Tensors::from([(HIDDEN.to_owned(), hidden_states.shallow_clone())]);
            let positions = inputs.temporal_positions.to_vec();
            helper.send(
                &Help::Forward {
                    timestep,
                    positions,
                },
                &tensors,
            )?;
        }
        self.tell(guided && !is_helped, &command, &[(HIDDEN, &hidden_states)])?;
        let timestep = Tensor::f_from_slice(&[timestep])?;
        let forward = ForwardInputs {
            hidden_states: &hidden_states,
            timestep: &timestep,
            temporal_positions: Some(inputs.temporal_positions),
        };
        let positive = model.forward(&forward, &ready.positive)?;
        let negative = match (&ready.negative, self.negative_leader(), &self.crew) {
            _ if is_helped => take(&mut helper.velocity()?, VELOCITY)?,
            (Some(context), _, _) => model.forward(&forward, context)?,
            (None, Some(rank), Some(crew)) if guided => {
                let (_, mut tensors) = crew.answer(rank, positive.device())?;
                take(&mut tensors, VELOCITY)?
            }
            _ => return Ok(positive),
        };
        Ok(positive
            .f_sub(&negative)?
            .f_mul_scalar_(guidance)?
            .f_add_(&negative)?)
    }
}

/// Whether the pipeline says itself that it has no second expert.
pub(crate) fn has_one_expert(pipeline: &Path) -> Result<bool> {
    let path = pipeline.join("model_index.json");
    if !path.exists() {
        return Ok(false);
    }
    let text = std::fs::read(&path).map_err(|error| ModelError::io(&path, error))?;
    let index: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| ModelError::bad_file(&path, error.to_string()))?;
    Ok(index["transformer_2"][1].is_null())
}

/// The leader of another replica who computes with the negative prompt, while it has nothing else
/// to do. It is released when the loop ends, however that is.
struct Helper<'a> {
    leaders: Option<&'a Leaders>,
    rank: Option<usize>,
}

impl Helper<'_> {
    /// Looks for offers; whether one was accepted just now.
    fn look(&mut self, wanted: bool) -> Result<bool> {
        let Some(leaders) = self.leaders else {
            return Ok(false);
        };
        let offered = leaders.offers(wanted && self.rank.is_none())?;
        if let Some(rank) = offered {
            tracing::info!("the leader of replica {rank} helps with the negative prompt");
            self.rank = offered;
        }
        Ok(offered.is_some())
    }

    fn send(&self, help: &Help, tensors: &Tensors) -> Result<()> {
        match (self.leaders, self.rank) {
            (Some(leaders), Some(rank)) => leaders.send(rank, help, tensors),
            _ => Ok(()),
        }
    }

    fn velocity(&self) -> Result<Tensors> {
        match (self.leaders, self.rank) {
            (Some(leaders), Some(rank)) => leaders.velocity(rank),
            _ => Ok(Tensors::new()),
        }
    }
}

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        // A helper that is gone need not be released.
        let _ = self.send(&Help::Release, &Tensors::new());
    }
}

/// A leader without a story, who computes for another.
pub(crate) struct Guest<'a> {
    denoiser: &'a Denoiser,
    expert: Expert,
    ready: Prepared,
}

impl<'a> Guest<'a> {
    /// Projects the prompt in `tensors`.
    pub(crate) fn prepare(
        denoiser: &'a Denoiser,
        expert: Expert,
        tensors: &mut Tensors,
    ) -> Result<Self> {
        let text = take(tensors, POSITIVE)?;
        let command = Command::Prepare {
            pipeline: denoiser.pipeline,
            expert,
            guided: false,
        };
        // Without guidance nobody looks at the second text.
        denoiser.tell(false, &command, &[(POSITIVE, &text), (NEGATIVE, &text)])?;
        let positive = denoiser
            .experts
            .model(expert)
            .prepare_context(&text, None)?;
        let ready = Prepared {
            positive,
            negative: None,
        };
        Ok(Self {
            denoiser,
            expert,
            ready,
        })
    }

    /// One forward with it.
    pub(crate) fn forward(
        &self,
        timestep: f64,
        positions: Vec<i64>,
        tensors: &mut Tensors,
    ) -> Result<Tensors> {
        let hidden_states = take(tensors, HIDDEN)?;
        let command = Command::Forward {
            timestep,
            positions: positions.clone(),
        };
        self.denoiser
            .tell(false, &command, &[(HIDDEN, &hidden_states)])?;
        let inputs = ForwardInputs {
            hidden_states: &hidden_states,
            timestep: &Tensor::f_from_slice(&[timestep])?,
            temporal_positions: Some(&positions),
        };
        let model = self.denoiser.experts.model(self.expert);
        let velocity = model.forward(&inputs, &self.ready.positive)?;
        Ok(Tensors::from([(VELOCITY.to_owned(), velocity)]))
    }
}

/// Names of tensors in messages between ranks.
const POSITIVE: &str = "positive";
const NEGATIVE: &str = "negative";
const HIDDEN: &str = "hidden_states";
const VELOCITY: &str = "velocity";

const SAMPLE: &str = "sample";
const ESTIMATES: [&str; 2] = ["estimate.0", "estimate.1"];
const CORRECTED: &str = "corrected";

/// Where a sampling loop stands between two steps.
pub struct Standing<'a> {
    solver: &'a Solver,
    sample: &'a Tensor,
    steps: usize,
}

impl Standing<'_> {
    /// Steps finished.
    pub fn done(&self) -> usize {
        self.solver.state().step
    }

    /// Steps in all.
    pub fn total(&self) -> usize {
        self.steps
    }

    /// A copy on the host, enough to go on elsewhere.
    pub fn save(&self) -> Result<LoopState> {
        let state = self.solver.state();
        let estimates = ESTIMATES.into_iter().zip(&state.estimates);
        let corrected = state.corrected.iter().map(|tensor| (CORRECTED, tensor));
        let tensors = estimates
            .chain(corrected)
            .chain(std::iter::once((SAMPLE, self.sample)));
        let arrays = tensors.map(|(name, tensor)| Ok((name.to_owned(), to_host(tensor)?)));
        Ok(LoopState {
            done: state.step,
            total: self.steps,
            order: state.order,
            arrays: arrays.collect::<Result<_>>()?,
        })
    }
}

/// Text keys and values for one expert.
struct Prepared {
    positive: TextContext,
    negative: Option<TextContext>,
}

/// A rank that shares the transformers of a leader.
pub(crate) struct Follower<'a> {
    pub(crate) replica: &'a Replica,
    pub(crate) target: Target,
    pub(crate) text_to_video: Experts,
    pub(crate) image_to_video: Option<Experts>,
    /// Decodes its rows of a picture, where the ranks share that too.
    pub(crate) decode_rows: Box<dyn FnMut(Tensor) -> Result<()> + 'a>,
}

impl Follower<'_> {
    /// Takes part in forwards until the leader is done.
    pub(crate) fn serve(mut self) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let mut prepared: Option<(Pipeline, Expert, Vec<TextContext>)> = None;
        let (replica, device) = (self.replica, self.target.device);
        // With two halves each has its own prompt; otherwise all ranks go through both, in the
        // order of the leader.
        let half = (replica.degrees().cfg == 2).then_some(replica.place().cfg);
        let answers = replica.negative_leader() == Some(replica.seat.index);
        serve(replica, device, |command, mut tensors| match command {
            Command::Prepare {
                pipeline,
                expert,
                guided,
            } => {
                let texts = match half {
                    Some(0) => &[POSITIVE][..],
                    Some(_) => &[NEGATIVE],
                    None if guided => &[POSITIVE, NEGATIVE],
                    None => &[POSITIVE],
                };
                let model = self.experts(pipeline)?.model(expert);
                let context = |name: &&str| model.prepare_context(&take(&mut tensors, name)?, None);
                let contexts = texts.iter().map(context).collect::<Result<_>>()?;
                prepared = Some((pipeline, expert, contexts));
                Ok(None)
            }
            Command::Forward {
                timestep,
                positions,
            } => {
                let hidden_states = take(&mut tensors, HIDDEN)?;
                let missing = || ModelError::input("forward", "no prompt was prepared");
                let (pipeline, expert, contexts) = prepared.as_ref().ok_or_else(missing)?;
                let timestep = Tensor::f_from_slice(&[timestep])?;
                let inputs = ForwardInputs {
                    hidden_states: &hidden_states,
                    timestep: &timestep,
                    temporal_positions: Some(&positions),
                };
                let model = self.experts(*pipeline)?.model(*expert);
                let mut answer = Tensors::new();
                for context in contexts {
                    answer.insert(VELOCITY.to_owned(), model.forward(&inputs, context)?);
                }
                Ok(answers.then_some((Answer::Done, answer)))
            }
            Command::DecodeRows => {
                (self.decode_rows)(take(
                    &mut tensors,
                    crate::method::storymem::decode::LATENTS,
                )?)?;
                Ok(None)
            }
            other => Err(ModelError::input(
                "command",
                format!("{other:?} is not for this rank"),
            )),
        })
    }

    fn experts(&self, pipeline: Pipeline) -> Result<&Experts> {
        match pipeline {
            Pipeline::TextToVideo => Ok(&self.text_to_video),
            Pipeline::ImageToVideo => self.image_to_video.as_ref().ok_or_else(no_image_to_video),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_models::autoencoder::AutoencoderKlWan;
    use storyloom_models::sampler::{Reference, SamplerKind};
    use storyloom_models::text::PromptEncoder;
    use storyloom_models::wan::condition_channels;
    use storyloom_nn::testing::{golden, golden_tensors, relative_error};
    use storyloom_story::Opening;
    use tch::Device;

    fn settings(shift: f64, boundary: f64, guidance: [f64; 2]) -> DenoiseSettings {
        let sampler = SamplerSettings {
            kind: SamplerKind::UniPc,
            reference: Reference::Diffusers,
            steps: 8,
            shift,
            boundary: Some(boundary),
        };
        let [guidance_high, guidance_low] = guidance;
        DenoiseSettings {
            sampler,
            guidance_high,
            guidance_low,
        }
    }

    fn text(case: &str) -> TextPair {
        let encoder = PromptEncoder::open(&golden(case), Target::CPU_F32).unwrap();
        let recipe = std::fs::read(golden(case).join("recipe.json")).unwrap();
        let recipe: serde_json::Value = serde_json::from_slice(&recipe).unwrap();
        let encode = |key: &str| encoder.encode(recipe[key].as_str().unwrap()).unwrap();
        TextPair {
            positive: encode("prompt"),
            negative: encode("negative_prompt"),
        }
    }

    /// The golden pipelines of diffusers: prompt and noise to latents and pixels, two experts.
    #[test]
    fn whole_pipelines() {
        for (case, settings, high) in [
            ("pipeline-t2v", settings(12.0, 0.875, [4.0, 3.0]), 6),
            ("pipeline-i2v", settings(5.0, 0.9, [3.5, 3.5]), 3),
        ] {
            let io = golden_tensors(case, "io.safetensors");
            let text = text(case);
            assert!(relative_error(&text.positive, &io["prompt_embeds"]) < 2e-5);
            assert!(relative_error(&text.negative, &io["negative_prompt_embeds"]) < 2e-5);
            let vae = AutoencoderKlWan::open(&golden(case).join("vae"), Device::Cpu).unwrap();
            let condition = io.get("image").map(|image| {
                let frame = image.to_kind(Kind::Float).permute([2, 0, 1]) / 127.5 - 1.0;
                let rest = Tensor::zeros([3, 8, 32, 48], (Kind::Float, Device::Cpu));
                let clip = Tensor::cat(&[frame.unsqueeze(1), rest], 1).unsqueeze(0);
                let latents = vae
                    .normalize(&vae.encode(&clip).unwrap())
                    .unwrap()
                    .squeeze_dim(0);
                let channels = condition_channels(&[], &latents, 9, Opening::LastFrame).unwrap();
                assert!(relative_error(&channels, &io["condition"].squeeze_dim(0)) < 2e-5);
                channels.unsqueeze(0)
            });
            let denoiser = Denoiser::open(&golden(case), Target::CPU_F32, settings, None).unwrap();
            let experts = (0..8).filter(|&step| denoiser.schedule.expert(step) == Expert::High);
            assert_eq!(experts.count(), high);
            let inputs = DenoiseInputs {
                noise: &io["latents"],
                text: &text,
                condition: condition.as_ref(),
                temporal_positions: &[0, 1, 2],
            };
            let mut seen = Vec::new();
            let mut saved = Vec::new();
            let latents = denoiser
                .sample(&inputs, None, &mut |standing| {
                    seen.push((standing.done(), standing.total()));
                    saved.push(standing.save().unwrap());
                    true
                })
                .unwrap();
            assert_eq!(seen.last(), Some(&(8, 8)));
            let error = relative_error(&latents, &io["output_latents"]);
            assert!(error < 1e-4, "{case}: latents {error:.2e}");
            let pixels = vae.decode(&vae.denormalize(&latents).unwrap()).unwrap();
            let video = pixels.squeeze_dim(0).transpose(0, 1).unsqueeze(0) / 2.0 + 0.5;
            let error = relative_error(&video, &io["output_video"]);
            assert!(error < 1e-4, "{case}: pixels {error:.2e}");

            // From every step, across the change of experts too, the same bits.
            for state in &saved[..7] {
                let resumed = denoiser.sample(&inputs, Some(state), &mut |_| true);
                assert_eq!(resumed.unwrap(), latents, "after step {}", state.done);
            }
            let mut other = saved[2].clone();
            other.total = 9;
            assert!(
                denoiser
                    .sample(&inputs, Some(&other), &mut |_| true)
                    .is_err()
            );
            let stopped = denoiser
                .sample(&inputs, None, &mut |standing| standing.done() < 3)
                .unwrap_err();
            assert!(matches!(
                stopped,
                ModelError::Interrupted { step: 3, steps: 8 }
            ));
        }
    }

    /// TI2V-5B samples with one transformer and a timestep for each token: the tokens of a given
    /// first frame stay at zero.
    #[test]
    fn the_way_of_ti2v_5b() {
        let case = "pipeline-ti2v5b";
        let io = golden_tensors(case, "io.safetensors");
        let folder = golden(case).join("transformer");
        let model = WanTransformer::open(&folder, Target::CPU_F32).unwrap();
        let vae = AutoencoderKlWan::open(&golden("vae22").join("vae"), Device::Cpu).unwrap();
        let settings = SamplerSettings {
            boundary: None,
            ..settings(5.0, 1.0, [5.0; 2]).sampler
        };
        let schedule = Schedule::new(&settings).unwrap();
        let contexts = ["prompt_embeds", "negative_prompt_embeds"]
            .map(|name| model.prepare_context(&io[name], None).unwrap());
        let frame = io["image_tensor"].unsqueeze(2);
        let given = vae.normalize(&vae.encode(&frame).unwrap()).unwrap();
        let first = Tensor::zeros_like(&io["latents"]);
        let _ = first.narrow(2, 0, 1).fill_(1.0);
        for (with_image, expected) in [(false, "output_latents_t2v"), (true, "output_latents_i2v")]
        {
            let placed = |sample: &Tensor| match with_image {
                true => sample.where_self(&first.eq(0.0), &given.expand_as(sample)),
                false => sample.shallow_clone(),
            };
            let mut solver = Solver::new(settings.kind, &schedule);
            let mut sample = io["latents"].shallow_clone();
            for &time in schedule.timesteps() {
                // Three latent frames of one by two tokens.
                let still = if with_image { 0.0 } else { time };
                let times = [still, still, time, time, time, time];
                let timestep = Tensor::from_slice(&times).unsqueeze(0);
                let hidden_states = placed(&sample);
                let inputs = ForwardInputs {
                    hidden_states: &hidden_states,
                    timestep: &timestep,
                    temporal_positions: None,
                };
                let [positive, negative] =
                    [0, 1].map(|which: usize| model.forward(&inputs, &contexts[which]).unwrap());
                let velocity = &negative + (positive - &negative) * 5.0;
                sample = solver.step(&velocity, &sample).unwrap();
            }
            let error = relative_error(&placed(&sample), &io[expected]);
            assert!(error < 1e-4, "{expected}: {error:.2e}");
        }
    }
}
