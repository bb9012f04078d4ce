//! A planner as the config wants it.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storyloom_models::language::{LanguageModel, LanguageSettings};
use storyloom_nn::shard::Peers;
use storyloom_nn::tch;
use storyloom_orchestrator::StopFlag;
use storyloom_pictures::{InputFolder, Limits, PictureFolder, text_at_most};
use storyloom_planner::{
    BackendKind, Chat, Native, NativeSettings, Planner, PlannerSettings, Sampling, Secret, Served,
    ServedSettings, Stop,
};

use crate::config::options::{Device, Dtype, Planner as Options, PlannerKind};
use crate::config::resolved::PlannerConfig;
use crate::config::value::name_of;
use crate::config::{PLANNER_KEY, paths};
use crate::engine;
use crate::exit::{Exit, Failure};
use crate::world::RankSlot;

/// Longest pause between two attempts to ask a served model.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Where a native model is computed, and with whom.
#[derive(Debug, Clone)]
pub struct Home {
    device: tch::Device,
    peers: Peers,
}

impl Home {
    /// For a program that is no rank: the first GPU, if there is one and the config wants it.
    ///
    /// # Errors
    /// A GPU is asked for and there is none.
    pub fn alone(config: &PlannerConfig) -> Result<Self, Failure> {
        let device = match config.compute.device {
            Device::Cpu => tch::Device::Cpu,
            Device::Cuda => engine::first_gpu()?,
            Device::Auto => engine::first_gpu().unwrap_or(tch::Device::Cpu),
        };
        Ok(Self {
            device,
            peers: Peers::default(),
        })
    }

    /// For a rank: the GPU that is its own, and the ranks that plan with it. All of these call it.
    ///
    /// # Errors
    /// A GPU is asked for and there is none, or a rank is missing.
    pub fn of_rank(config: &PlannerConfig, slot: &RankSlot) -> Result<Self, Failure> {
        let device = engine::target(config.compute, slot)?.device;
        let peers = slot.planning_peers()?;
        let peers = peers.on_device(device, config.collective_timeout);
        Ok(Self { device, peers })
    }
}

/// Makes the planner of a config; `folder` is that of the briefs. `home` is asked only for a native
/// model.
///
/// # Errors
/// A model or an endpoint is not given or cannot be used, a template is wrong, or the key cannot
/// be read.
pub fn build(
    config: &PlannerConfig,
    folder: &InputFolder,
    stop: &StopFlag,
    home: impl FnOnce() -> Result<Home, Failure>,
) -> Result<Planner, Failure> {
    let options = &config.options;
    if !options.prompts.is_empty() && !Path::new(&options.prompts).exists() {
        let message = paths::missing("planner.prompts", &options.prompts);
        return Err(Failure::new(Exit::Config, message));
    }
    let settings = PlannerSettings {
        prompts: (!options.prompts.is_empty()).then(|| PathBuf::from(&options.prompts)),
        steps: options.steps,
        repairs: options.repairs,
        prompt_chars: options.prompt_chars,
        images: PictureFolder::new(folder.clone(), Limits::default()),
        ground: config.ground,
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
        PlannerKind::Native => (BackendKind::Native, Box::new(native(config, stop, home)?)),
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

fn native(
    config: &PlannerConfig,
    stop: Stop,
    home: impl FnOnce() -> Result<Home, Failure>,
) -> Result<Native, Failure> {
    let options = &config.options;
    let (folder, at) = model_of(config, home)?;
    // Wherever it lies: the digest says which one it is.
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    let settings = NativeSettings {
        name: name.to_string_lossy().into_owned(),
        dtype: name_of(config.compute.dtype).to_owned(),
        capacity: options.concurrency as usize,
        sampling: sampling(options),
        picture_side: options.picture_side,
        stop,
    };
    let load = move || LanguageModel::load(&folder, &at);
    Native::start(settings, load).map_err(|error| Failure::new(error.class.into(), error))
}

/// The folder of the native model of a config, and how it is loaded.
fn model_of(
    config: &PlannerConfig,
    home: impl FnOnce() -> Result<Home, Failure>,
) -> Result<(PathBuf, LanguageSettings), Failure> {
    let model = &config.options.model;
    required(model, "planner.model", "the folder of a language model")?;
    if !Path::new(model).exists() {
        let message = paths::missing("planner.model", model);
        return Err(Failure::new(Exit::Config, message));
    }
    let Home { device, peers } = home()?;
    let kind = match config.compute.dtype {
        Dtype::F32 => tch::Kind::Float,
        Dtype::Bf16 => tch::Kind::BFloat16,
    };
    let settings = LanguageSettings {
        device,
        kind,
        peers,
    };
    Ok((PathBuf::from(model), settings))
}

/// Has a part of the native model of another rank that plans, until that is done.
///
/// # Errors
/// The model cannot be loaded, or the other rank is gone.
pub fn follow(config: &PlannerConfig, slot: &RankSlot) -> Result<(), Failure> {
    let (folder, settings) = model_of(config, || Home::of_rank(config, slot))?;
    let model = LanguageModel::load(&folder, &settings)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    Ok(model.follow()?)
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
    if !Path::new(&options.key_file).exists() {
        let message = paths::missing("planner.key_file", &options.key_file);
        return Err(Failure::new(Exit::Config, message));
    }
    let text = text_at_most(Path::new(&options.key_file), paths::LARGEST);
    let text = text.map_err(|problem| wrong(problem.to_string()))?;
    let key = Secret::new(&text).ok_or_else(|| wrong("the file is empty".to_owned()))?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::config::resolved::Resolved;

    fn refusal(sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let config = Resolved::new(load(None, [], &sets).unwrap());
        let no_device = || panic!("no device is looked for before the settings are right");
        let folder = Path::new("").into();
        let built = build(&config.planner, &folder, &StopFlag::default(), no_device);
        let failure = built.err().unwrap();
        assert_eq!(failure.exit, Exit::Config, "{sets:?}");
        failure.message
    }

    /// What a planner lacks is told by the option that gives it, before anything is loaded or asked.
    #[test]
    fn what_a_planner_lacks_is_told_by_its_option() {
        let endpoint = "planner.endpoint=http://127.0.0.1:9/v1";
        for (sets, wanted) in [
            (&["planner.backend=served"][..], "planner.endpoint"),
            (&["planner.backend=served", endpoint], "planner.model"),
            (&["planner.backend=native"], "planner.model"),
            (
                &["planner.backend=native", "planner.model=no/such/model"],
                "planner.model = \"no/such/model\"",
            ),
            (
                &["planner.prompts=no/such/prompts"],
                "planner.prompts = \"no/such/prompts\"",
            ),
            (
                &["planner.backend=simulated"],
                "choose \"rules\", \"served\" or \"native\"",
            ),
        ] {
            let said = refusal(sets);
            assert!(said.contains(wanted), "{sets:?}: {said}");
        }
    }
}
