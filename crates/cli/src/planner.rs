//! A planner as the config wants it, and the checks of the pictures that briefs name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storyloom_models::language::{LanguageModel, LanguageSettings};
use storyloom_models::tch;
use storyloom_orchestrator::StopFlag;
use storyloom_planner::{
    BackendKind, ImageFolder, ImageLimits, Native, NativeSettings, Planner, PlannerSettings,
    PromptError, Sampling, Secret, Served, ServedSettings, Stop,
};

use crate::config::options::{Dtype, Planner as Options};
use crate::config::{Config, PLANNER_KEY};
use crate::exit::{Exit, Failure};

/// Longest pause between two attempts to ask a served model.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Pictures of products, in the folder of the briefs and below it.
pub fn images(folder: &Path) -> ImageFolder {
    ImageFolder::new(folder, ImageLimits::default())
}

/// Makes the planner of a config. `folder` is that of the briefs; a native model is loaded on
/// `device`.
///
/// # Errors
/// A model or an endpoint is not given or cannot be used, a template is wrong, or the key cannot
/// be read.
pub fn build(
    config: &Config,
    folder: &Path,
    device: tch::Device,
    stop: &StopFlag,
) -> Result<Planner, Failure> {
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
    let planner = match options.backend {
        BackendKind::Rules => Ok(Planner::of_rules(settings)),
        BackendKind::Served => {
            let chat = served(options, stop)?;
            Planner::of_model(
                BackendKind::Served,
                Box::new(chat),
                sampling(options),
                settings,
            )
        }
        BackendKind::Native => {
            let chat = native(config, device, stop)?;
            Planner::of_model(
                BackendKind::Native,
                Box::new(chat),
                sampling(options),
                settings,
            )
        }
    };
    planner.map_err(|error: PromptError| Failure::new(Exit::Config, error))
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

fn native(config: &Config, device: tch::Device, stop: Stop) -> Result<Native, Failure> {
    let options = &config.planner;
    required(
        &options.model,
        "planner.model",
        "the folder of a language model",
    )?;
    let settings = NativeSettings {
        name: options.model.clone(),
        capacity: options.concurrency as usize,
        sampling: sampling(options),
        picture_side: options.picture_side,
        stop,
    };
    let folder = PathBuf::from(&options.model);
    let kind = match config.models.dtype {
        Dtype::F32 => tch::Kind::Float,
        Dtype::Bf16 => tch::Kind::BFloat16,
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

/// Looks at every picture once, however many briefs name it.
pub struct PictureChecks {
    images: ImageFolder,
    seen: RefCell<BTreeMap<String, Result<String, String>>>,
}

impl PictureChecks {
    /// Checks pictures in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            images: images(folder),
            seen: RefCell::default(),
        }
    }

    /// Whether a picture can be used, and has the digest that is given.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, path: &str, sha256: Option<&str>) -> Result<(), String> {
        let mut seen = self.seen.borrow_mut();
        let found = seen.entry(path.to_owned()).or_insert_with(|| {
            let loaded = self.images.load(path, None);
            loaded
                .map(|picture| picture.sha256)
                .map_err(|error| error.to_string())
        });
        match (found, sha256) {
            (Ok(found), Some(wanted)) if found != wanted => Err(format!(
                "its SHA-256 is {found}, but the brief says {wanted}"
            )),
            (Ok(_), _) => Ok(()),
            (Err(reason), _) => Err(reason.clone()),
        }
    }

    /// The digests of the pictures that can be used, by their paths.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let seen = self.seen.borrow();
        let good = seen.iter().filter_map(|(path, found)| {
            let digest = found.as_ref().ok()?;
            Some((path.clone(), digest.clone()))
        });
        good.collect()
    }
}
