//! The one file that plugs the networks of `models` into the trait of the orchestrator.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use storyloom_engine::method::storymem::encode::Conditions;
use storyloom_engine::method::storymem::{
    DenoiseSettings, StoryMemEngine, StoryMemPaths, StoryMemSettings, serve,
};
use storyloom_engine::method::wan;
use storyloom_engine::replica::Replica;
use storyloom_engine::sampling::LoopProgress;
use storyloom_models::sampler::SamplerSettings;
use storyloom_nn::ModelError;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::cuda;
use storyloom_nn::tch::{self, Kind};
use storyloom_orchestrator::{
    Encoded, EngineDescription, EngineError, Kept, KeptContent, Pass, Scores, ShotEngine,
    StepObserver,
};
use storyloom_story::{
    Capacities, Clip, ErrorClass, HostTensor, LoopState, MemoryFrame, Method, RgbImage, ShotInputs,
    Stage,
};

use crate::checkpoints;
use crate::config::options::{Device, Dtype};
use crate::config::resolved::{Compute, EngineConfig};
use crate::config::value::PerExpert;
use crate::exit::{Exit, Failure};
use crate::world::RankSlot;

/// The networks of a run behind the orchestrator's trait.
#[derive(Debug)]
pub struct TorchEngine {
    models: StoryMemEngine,
    description: EngineDescription,
    /// Whether ranks were found to be gone.
    world_is_broken: AtomicBool,
}

/// Loads the networks that this rank needs to lead `replica`.
///
/// # Errors
/// There is no checkpoint, or it is not what the config asks for.
pub fn build_engine(
    config: &EngineConfig,
    replica: Replica,
    slot: &RankSlot,
) -> Result<TorchEngine, Failure> {
    let settings = settings(config, slot)?;
    let models = StoryMemEngine::open(&paths(config)?, &settings, replica).map_err(at_loading)?;
    let identity = models.identity();
    let description = EngineDescription {
        engine: "torch".to_owned(),
        fingerprint: identity.fingerprint.clone(),
        arithmetic: identity.arithmetic.clone(),
        models: identity.digests.clone(),
        quality_score: identity.quality_score.to_owned(),
    };
    Ok(TorchEngine {
        models,
        description,
        world_is_broken: AtomicBool::new(false),
    })
}

/// Does what the leader of `replica` asks, on any other rank of it.
///
/// # Errors
/// As [`build_engine`], or the world fell apart.
pub fn follow(config: &EngineConfig, replica: Replica, slot: &RankSlot) -> Result<(), Failure> {
    serve(&paths(config)?, &settings(config, slot)?, replica).map_err(at_loading)
}

/// Whatever keeps networks from loading is the config's fault, but for ranks that are gone.
fn at_loading(error: ModelError) -> Failure {
    match error.class() {
        ErrorClass::Interrupted => error.into(),
        _ => Failure::new(Exit::Config, error),
    }
}

/// Where the checkpoints lie, all of which are there.
fn paths(config: &EngineConfig) -> Result<StoryMemPaths, Failure> {
    let set = checkpoints::of(config)?;
    match set.is_whole() {
        true => Ok(set.paths),
        false => Err(Failure::new(Exit::Config, set.missing())),
    }
}

impl TorchEngine {
    /// Whether ranks of this world are gone or late: then it cannot end in good order.
    pub fn world_is_broken(&self) -> bool {
        self.world_is_broken.load(Ordering::Relaxed)
    }

    /// Says in which stage a model failed.
    fn at(&self, stage: Stage) -> impl Fn(ModelError) -> EngineError {
        move |error| {
            if matches!(error, ModelError::World(_)) {
                tracing::error!(%stage, "{error}");
                self.world_is_broken.store(true, Ordering::Relaxed);
            }
            EngineError {
                stage,
                class: error.class(),
                message: error.to_string(),
            }
        }
    }
}

/// Kind and device that the config asks for. The ranks of a machine take its GPUs in turn.
///
/// # Errors
/// A GPU is asked for and there is none.
pub fn target(compute: Compute, slot: &RankSlot) -> Result<Target, Failure> {
    let turn = |gpus: usize| tch::Device::Cuda(slot.world.found().local_rank % gpus);
    let device = match compute.device {
        Device::Cpu => tch::Device::Cpu,
        Device::Cuda => turn(gpus("device = \"cuda\"", "set device = \"cpu\"")?),
        Device::Auto => match cuda::devices() {
            Ok(0) => tch::Device::Cpu,
            Ok(gpus) => turn(gpus),
            Err(error) => {
                tracing::warn!("there is a GPU, but the CPU does the work: {error}");
                tch::Device::Cpu
            }
        },
    };
    let kind = match compute.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    };
    Ok(Target { kind, device })
}

/// How many GPUs there are, at least one.
fn gpus(asked_for: &str, instead: &str) -> Result<usize, Failure> {
    let none = |reason: &dyn std::fmt::Display| {
        let message = format!("{asked_for}, but {reason}; see `storyloom doctor`, or {instead}");
        Failure::new(Exit::Config, message)
    };
    match cuda::devices() {
        Ok(0) => Err(none(&"libtorch finds no GPU here")),
        Ok(gpus) => Ok(gpus),
        Err(error) => Err(none(&error)),
    }
}

/// The first GPU.
///
/// # Errors
/// There is none that libtorch can use.
pub fn first_gpu() -> Result<tch::Device, Failure> {
    gpus(
        "this needs a GPU",
        "use --device cpu where there is such a choice",
    )?;
    Ok(tch::Device::Cuda(0))
}

fn settings(config: &EngineConfig, slot: &RankSlot) -> Result<StoryMemSettings, Failure> {
    let sampler = &config.storymem;
    let phase = |steps: u32, shift: f64, boundary: f64, guidance: PerExpert<f64>| DenoiseSettings {
        sampler: SamplerSettings {
            kind: sampler.solver,
            reference: sampler.reference,
            steps: steps as usize,
            shift,
        },
        boundary: Some(boundary),
        guidance_high: guidance.high,
        guidance_low: guidance.low,
    };
    let (steps, shift) = (sampler.steps, sampler.shift);
    let (boundary, guidance) = (sampler.boundary, sampler.guidance);
    let negative = &sampler.negative_prompt;
    Ok(StoryMemSettings {
        compute: compute(config, slot)?,
        text_to_video: phase(steps.t2v, shift.t2v, boundary.t2v, guidance.t2v),
        image_to_video: phase(steps.i2v, shift.i2v, boundary.i2v, guidance.i2v),
        lora: checkpoints::lora_settings(config),
        memory_stride: i64::from(config.storymem.rope_stride),
        selection_resize: config.storymem.resize(),
        negative_prompt: (!negative.is_empty()).then(|| negative.clone()),
    })
}

/// Where the networks run, and how ranks share what they do.
fn compute(config: &EngineConfig, slot: &RankSlot) -> Result<wan::Compute, Failure> {
    Ok(wan::Compute {
        target: target(config.compute, slot)?,
        threads: slot.threads(config.threads),
        share_decode: config.share_decode,
        widen: config.widen,
        collective_timeout: config.collective_timeout,
    })
}

impl ShotEngine for TorchEngine {
    fn describe(&self, method: Method) -> Option<EngineDescription> {
        (method == Method::StoryMem).then(|| self.description.clone())
    }

    fn capacities(&self) -> Capacities {
        self.models.capacities()
    }

    fn assist(&self) -> Result<bool, EngineError> {
        self.models.assist().map_err(self.at(Stage::Denoise))
    }

    fn encode(&self, inputs: &ShotInputs, _pass: Pass) -> Result<Encoded, EngineError> {
        let conditions = self.models.encode(inputs);
        conditions.map(Encoded::new).map_err(self.at(Stage::Encode))
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError> {
        let mut step = |progress: &LoopProgress| {
            let save = || progress.save().map_err(self.at(Stage::Denoise));
            observer.step_finished(progress.done(), progress.total(), &save)
        };
        self.models
            .denoise(
                inputs,
                encoded.conditions::<Conditions>()?,
                resume.as_ref(),
                &mut step,
            )
            .map_err(self.at(Stage::Denoise))
    }

    fn decode(
        &self,
        inputs: &ShotInputs,
        _pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError> {
        self.models
            .decode(inputs, latents)
            .map_err(self.at(Stage::Decode))
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError> {
        let (embeddings, quality) = self
            .models
            .score(pictures)
            .map_err(self.at(Stage::Select))?;
        Ok(Scores {
            embeddings,
            quality,
        })
    }

    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, EngineError> {
        let KeptContent::Picture(picture) = kept.what else {
            return Err(EngineError {
                stage: Stage::Select,
                class: ErrorClass::Run,
                message: "StoryMem keeps pictures of shots, no whole ones".to_owned(),
            });
        };
        let latents = self.models.remember(picture, kept.size);
        let latents = latents.map_err(self.at(Stage::Select))?;
        Ok(BTreeMap::from([(MemoryFrame::LATENTS.to_owned(), latents)]))
    }

    fn check_weights(&self) -> Result<(), EngineError> {
        self.models.check_weights().map_err(self.at(Stage::Commit))
    }
}
