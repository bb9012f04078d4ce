//! The one file that plugs the networks of `models` into the trait of the orchestrator.

mod inject;
mod networks;
mod onestory;
mod storymem;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use storyloom_engine::method::onestory::{
    self as one_story, Backend, InjectEngine, OneStoryEngine, OneStorySettings,
};
use storyloom_engine::method::storymem::{self as story_mem, StoryMemEngine};
use storyloom_engine::method::wan;
use storyloom_engine::replica::Replica;
use storyloom_engine::sampling::LoopProgress;
use storyloom_nn::ModelError;
use storyloom_nn::checkpoint::Target;
use storyloom_nn::cuda;
use storyloom_nn::tch::{self, Kind};
use storyloom_orchestrator::{
    Encoded, EngineDescription, EngineError, Kept, Pass, Scores, ShotEngine, StepObserver,
};
use storyloom_story::onestory::Selector;
use storyloom_story::{
    Capacities, Clip, ErrorClass, HostTensor, LoopState, Method, PassName, RgbImage, ShotInputs,
    Stage,
};

use self::networks::MethodNetworks;
use crate::checkpoints::{self, MethodPaths};
use crate::config::options::{Device, Dtype};
use crate::config::resolved::{Compute, EngineConfig};
use crate::exit::{Exit, Failure};
use crate::world::RankSlot;

/// The networks of a run behind the orchestrator's trait: those of one method.
#[derive(Debug)]
pub struct TorchEngine {
    models: Box<dyn MethodNetworks>,
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
    let models = open(config, replica, slot)?;
    let identity = models.identity();
    let description = EngineDescription {
        engine: name(config),
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

/// What is added to the name of what makes pictures where its scores are likenesses.
pub const LABEL_ORACLE: &str = ", label-oracle, not OneStory";

/// What makes the pictures; weights and scores that stand for others are named.
fn name(config: &EngineConfig) -> String {
    let of_onestory = match (config.method, config.onestory.backend) {
        (Method::OneStory, Backend::OneStory) => String::new(),
        (Method::OneStory, backend) => format!(", {}", backend.name()),
        _ => return "torch".to_owned(),
    };
    let scores = match config.onestory.selector {
        Selector::Clip => LABEL_ORACLE,
        _ => "",
    };
    format!("torch{of_onestory}{scores}")
}

/// The networks of the method of the run.
fn open(
    config: &EngineConfig,
    replica: Replica,
    slot: &RankSlot,
) -> Result<Box<dyn MethodNetworks>, Failure> {
    let compute = compute(config, slot)?;
    Ok(match paths(config)? {
        MethodPaths::StoryMem(paths) => {
            let settings = storymem::settings(config, compute);
            Box::new(StoryMemEngine::open(&paths, &settings, replica).map_err(at_loading)?)
        }
        MethodPaths::OneStory(paths) => {
            let settings = onestory::settings(config, compute);
            Box::new(OneStoryEngine::open(&paths, &settings, replica).map_err(at_loading)?)
        }
        MethodPaths::Inject(paths) => {
            let settings = storymem::settings(config, compute);
            let how = (config.onestory.budget(), config.onestory.selector);
            let engine = InjectEngine::open(&paths, &settings, how, replica);
            Box::new(engine.map_err(at_loading)?)
        }
    })
}

/// Does what the leader of `replica` asks, on any other rank of it.
///
/// # Errors
/// As [`build_engine`], or the world fell apart.
pub fn follow(config: &EngineConfig, replica: Replica, slot: &RankSlot) -> Result<(), Failure> {
    let compute = compute(config, slot)?;
    let served = match paths(config)? {
        MethodPaths::StoryMem(paths) | MethodPaths::Inject(paths) => {
            story_mem::serve(&paths, &storymem::settings(config, compute), replica)
        }
        MethodPaths::OneStory(paths) => {
            one_story::serve(&paths, &onestory::settings(config, compute), replica)
        }
    };
    served.map_err(at_loading)
}

/// Whatever keeps networks from loading is the config's fault, but for ranks that are gone.
fn at_loading(error: ModelError) -> Failure {
    match error.class() {
        ErrorClass::Interrupted => error.into(),
        _ => Failure::new(Exit::Config, error),
    }
}

/// Where the checkpoints lie, all of which are there.
fn paths(config: &EngineConfig) -> Result<MethodPaths, Failure> {
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

/// How OneStory chooses what shots see, on this machine alone.
///
/// # Errors
/// A GPU is asked for and there is none.
pub fn onestory_alone(config: &EngineConfig) -> Result<OneStorySettings, Failure> {
    let device = match config.compute.device {
        Device::Cpu => tch::Device::Cpu,
        Device::Cuda => first_gpu()?,
        Device::Auto => first_gpu().unwrap_or(tch::Device::Cpu),
    };
    let compute = wan::Compute {
        target: Target {
            kind: kind(config.compute.dtype),
            device,
        },
        threads: i32::try_from(config.threads)
            .ok()
            .filter(|&threads| threads > 0),
        share_decode: false,
        widen: false,
        collective_timeout: config.collective_timeout,
    };
    Ok(onestory::settings(config, compute))
}

fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
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
    Ok(Target {
        kind: kind(compute.dtype),
        device,
    })
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
        (method == self.models.method()).then(|| self.description.clone())
    }

    fn capacities(&self) -> Capacities {
        self.models.capacities()
    }

    fn passes(&self, _inputs: &ShotInputs) -> Vec<PassName> {
        self.models.passes()
    }

    fn assist(&self) -> Result<bool, EngineError> {
        self.models.assist().map_err(self.at(Stage::Denoise))
    }

    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, EngineError> {
        let encoded = self.models.encode(inputs, pass);
        encoded.map_err(self.at(Stage::Encode))
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
        let latents = self
            .models
            .denoise(inputs, encoded, resume.as_ref(), &mut step);
        latents.map_err(self.at(Stage::Denoise))
    }

    fn decode(
        &self,
        inputs: &ShotInputs,
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError> {
        let clip = self.models.decode(inputs, pass, latents);
        clip.map_err(self.at(Stage::Decode))
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError> {
        self.models.score(pictures).map_err(self.at(Stage::Select))
    }

    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, EngineError> {
        self.models.remember(kept).map_err(self.at(Stage::Select))
    }

    fn check_weights(&self) -> Result<(), EngineError> {
        self.models.check_weights().map_err(self.at(Stage::Commit))
    }
}
