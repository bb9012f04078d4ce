//! A planner as the config wants it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storyloom_models::language::{LanguageModel, LanguageSettings};
use storyloom_models::tch;
use storyloom_orchestrator::StopFlag;
use storyloom_planner::{
    BackendKind, Chat, Native, NativeSettings, Planner, PlannerSettings, Sampling, Secret, Served,
    ServedSettings, Stop,
};

use crate::config::options::{Device, Dtype, Planner as Options, PlannerKind};
use crate::config::value::name_of;
use crate::config::{Config, PLANNER_KEY};
use crate::exit::{Exit, Failure};
use crate::{engine, planner::pictures::images};

/// Longest pause between two attempts to ask a served model.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Makes the planner of a config; `folder` is that of the briefs.
///
/// # Errors
/// A model or an endpoint is not given or cannot be used, a template is wrong, or the key cannot
/// be read.
pub fn build(config: &Config, folder: &Path, stop: &StopFlag) -> Result<Planner, Failure> {
    let options = &config.planner;
    let settings = PlannerSettings {
        prompts: (!options.prompts.is_empty()).then(|| PathBuf::from(&options.prompts)),
        steps: options.steps,
        repairs: options.repairs,
        prompt_chars: options.prompt_chars,
        images: images(folder),
    };
    let stop = stop.clone();
    let stop: Stop = Arc::new(move || stop.asked().is_some());
    let (kind, chat): (_, Box<dyn Chat>) = match options.backend {
        PlannerKind::Rules => return Ok(Planner::of_rules(settings)),
        PlannerKind::Simulated => {
            let message = "planner.backend = \"simulated\" is for trying runs; its scripts are no \
                           stories, choose \"rules\", \"served\" or \"native\"";
            return Err(Failure::new(Exit::Config, message));
        }
        PlannerKind::Served => (BackendKind::Served, Box::new(served(options, stop)?)),
        PlannerKind::Native => (BackendKind::Native, Box::new(native(config, stop)?)),
    };
    Planner::of_model(kind, chat, sampling(options), settings)
        .map_err(|error| Failure::new(Exit::Config, error))
}

fn sampling(options: &Options) -> Sampling {
    Sampling {
        temperature: options.temperature,
        top_p: options.top_p,
        top_k: options.top_k,
        max_tokens: options.max_tokens,
    }
}

fn served(options: &Options, stop: Stop) -> Result<Served, Failure> {
    required(
        &options.endpoint,
        "planner.endpoint",
        "the address of the API, as in http://127.0.0.1:8000/v1",
    )?;
    required(
        &options.model,
        "planner.model",
        "the name of the model, as the server calls it",
    )?;
    let settings = ServedSettings {
        endpoint: options.endpoint.clone(),
        model: options.model.clone(),
        key: key(options)?,
        concurrency: options.concurrency as usize,
        per_minute: options.per_minute,
        timeout: Duration::from_secs(u64::from(options.timeout_s)),
        retries: options.retries,
        backoff: Duration::from_millis(500),
        longest_pause: LONGEST_PAUSE,
        format: options.format,
        sampling: sampling(options),
        picture_side: options.picture_side,
        stop,
    };
    Served::new(settings).map_err(|error| Failure::new(error.class.into(), error))
}

fn native(config: &Config, stop: Stop) -> Result<Native, Failure> {
    let options = &config.planner;
    required(
        &options.model,
        "planner.model",
        "the folder of a language model",
    )?;
    let folder = PathBuf::from(&options.model);
    // Wherever it lies: the digest says which one it is.
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    let settings = NativeSettings {
        name: name.to_string_lossy().into_owned(),
        dtype: name_of(config.models.dtype).to_owned(),
        capacity: options.concurrency as usize,
        sampling: sampling(options),
        picture_side: options.picture_side,
        stop,
    };
    let kind = match config.models.dtype {
        Dtype::F32 => tch::Kind::Float,
        Dtype::Bf16 => tch::Kind::BFloat16,
    };
    let device = match config.top.device {
        Device::Cpu => tch::Device::Cpu,
        Device::Cuda => engine::first_gpu()?,
        Device::Auto => engine::first_gpu().unwrap_or(tch::Device::Cpu),
    };
    let load = move || {
        let settings = LanguageSettings {
            device,
            kind,
            ..LanguageSettings::default()
        };
        LanguageModel::load(&folder, &settings)
    };
    Native::start(settings, load).map_err(|error| Failure::new(error.class.into(), error))
}

fn required(value: &str, key: &str, what: &str) -> Result<(), Failure> {
    if value.is_empty() {
        let message = format!("{key} is not set: give {what}");
        return Err(Failure::new(Exit::Config, message));
    }
    Ok(())
}

/// The key of the API, from the environment or from a file.
fn key(options: &Options) -> Result<Option<Secret>, Failure> {
    if let Ok(key) = env::var(PLANNER_KEY) {
        return Ok(Secret::new(&key));
    }
    if options.key_file.is_empty() {
        return Ok(None);
    }
    let wrong = |reason: String| {
        let file = &options.key_file;
        Failure::new(
            Exit::Config,
            format!("planner.key_file = {file:?}: {reason}"),
        )
    };
    let text = fs::read_to_string(&options.key_file).map_err(|error| wrong(error.to_string()))?;
    let key = Secret::new(&text).ok_or_else(|| wrong("the file is empty".to_owned()))?;
    Ok(Some(key))
}
