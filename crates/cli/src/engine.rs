//! The one file that plugs the networks of `models` into the trait of the orchestrator.

use std::path::{Path, PathBuf};

use storyloom_models::ModelError;
use storyloom_models::checkpoint::Target;
use storyloom_models::engine::{StoryMemEngine, StoryMemSettings, storymem_paths};
use storyloom_models::lora::LoraSettings;
use storyloom_models::sampler::SamplerSettings;
use storyloom_models::scorer::SharpnessExposure;
use storyloom_models::stage::denoise::{DenoiseSettings, Standing};
use storyloom_models::stage::encode::Conditions;
use storyloom_models::tch::{self, Kind};
use storyloom_models::tiny::folders;
use storyloom_orchestrator::{EngineDescription, EngineError, Scores, ShotEngine, StepObserver};
use storyloom_story::{Clip, HostTensor, LoopState, Resolution, RgbImage, ShotInputs, Stage};

use crate::config::Config;
use crate::config::options::{Device, Dtype};
use crate::config::value::PerExpert;
use crate::exit::{Exit, Failure};

/// The networks of a run behind the orchestrator's trait.
#[derive(Debug)]
pub struct TorchEngine {
    models: StoryMemEngine,
    description: EngineDescription,
}

/// Loads the models that the config names.
///
/// # Errors
/// There is no checkpoint, or it is not what the config asks for.
pub fn build_engine(config: &Config) -> Result<TorchEngine, Failure> {
    let dir = &config.models.dir;
    if dir.is_empty() {
        let message = "models.dir is empty; set it to a folder of checkpoints, \
                       or write a tiny one with: storyloom model init-tiny DIR";
        return Err(Failure::new(Exit::Config, message));
    }
    if let Ok(threads) = i32::try_from(config.run.threads)
        && threads > 0
    {
        tch::set_num_threads(threads);
    }
    let paths = storymem_paths(Path::new(dir), lora_folder(config));
    let scorer = Box::new(SharpnessExposure);
    let models = StoryMemEngine::open(&paths, settings(config)?, scorer)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let description = EngineDescription {
        engine: "torch".to_owned(),
        fingerprint: models.fingerprint(),
        models: models.digests().to_vec(),
        quality_score: models.quality_score().to_owned(),
    };
    Ok(TorchEngine {
        models,
        description,
    })
}

/// The folder that the config names, or else the one beside the checkpoints, if there is one.
fn lora_folder(config: &Config) -> Option<PathBuf> {
    if !config.lora.dir.is_empty() {
        return Some(PathBuf::from(&config.lora.dir));
    }
    let beside = Path::new(&config.models.dir).join(folders::LORA);
    beside.is_dir().then_some(beside)
}

/// Kind and device that the config asks for.
///
/// # Errors
/// A GPU is asked for and there is none.
pub fn target(config: &Config) -> Result<Target, Failure> {
    let cuda = tch::Cuda::is_available();
    let device = match config.top.device {
        Device::Cuda if !cuda => {
            let message = "device = \"cuda\", but libtorch finds no GPU here; \
                           see `storyloom doctor`, or set device = \"cpu\"";
            return Err(Failure::new(Exit::Config, message));
        }
        Device::Auto | Device::Cuda if cuda => tch::Device::Cuda(0),
        _ => tch::Device::Cpu,
    };
    let kind = match config.models.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    };
    Ok(Target { kind, device })
}

fn settings(config: &Config) -> Result<StoryMemSettings, Failure> {
    let sampler = &config.sampler;
    let phase = |steps: u32, shift: f64, boundary: f64, guidance: PerExpert<f64>| DenoiseSettings {
        sampler: SamplerSettings {
            kind: sampler.name,
            reference: sampler.reference,
            steps: steps as usize,
            shift,
            boundary: Some(boundary),
        },
        guidance_high: guidance.high,
        guidance_low: guidance.low,
    };
    let (steps, shift) = (sampler.steps, sampler.shift);
    let (boundary, guidance) = (sampler.boundary, sampler.guidance);
    let negative = &sampler.negative_prompt;
    Ok(StoryMemSettings {
        target: target(config)?,
        text_to_video: phase(steps.t2v, shift.t2v, boundary.t2v, guidance.t2v),
        image_to_video: phase(steps.i2v, shift.i2v, boundary.i2v, guidance.i2v),
        lora: LoraSettings {
            alpha: (config.lora.alpha > 0.0).then_some(config.lora.alpha),
            merge: config.lora.merge,
        },
        memory_stride: i64::from(config.memory.rope_stride),
        negative_prompt: (!negative.is_empty()).then(|| negative.clone()),
    })
}

/// Says in which stage a model failed.
fn at(stage: Stage) -> impl Fn(ModelError) -> EngineError {
    move |error| EngineError {
        stage,
        class: error.class(),
        message: error.to_string(),
    }
}

impl ShotEngine for TorchEngine {
    type Conditions = Conditions;

    fn describe(&self) -> EngineDescription {
        self.description.clone()
    }

    fn encode(&self, inputs: &ShotInputs) -> Result<Conditions, EngineError> {
        self.models.encode(inputs).map_err(at(Stage::Encode))
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Conditions,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError> {
        let mut step = |standing: &Standing| {
            let save = || standing.save().map_err(at(Stage::Denoise));
            observer.step_finished(standing.done(), standing.total(), &save)
        };
        self.models
            .denoise(inputs, conditions, resume.as_ref(), &mut step)
            .map_err(at(Stage::Denoise))
    }

    fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip, EngineError> {
        self.models
            .decode(inputs, latents)
            .map_err(at(Stage::Decode))
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError> {
        let (embeddings, quality) = self.models.score(pictures).map_err(at(Stage::Select))?;
        Ok(Scores {
            embeddings,
            quality,
        })
    }

    fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor, EngineError> {
        self.models
            .remember(picture, size)
            .map_err(at(Stage::Select))
    }
}
