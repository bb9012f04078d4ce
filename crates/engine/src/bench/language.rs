//! `bench language`: prompts and tokens of a language model.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use storyloom_models::forward::cpu_target;
use storyloom_models::language::{
    Batch, Event, Finish, LanguageModel, LanguageSettings, Request, Sampling,
};
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::error::{ModelError, Result};
use tch::Device;

use super::{Timing, device_name, use_threads};

/// What `bench language` is told.
#[derive(Debug, Clone, Serialize)]
pub struct LanguageBench {
    /// `f32` or `bf16`.
    pub dtype: String,
    /// Threads of libtorch.
    pub threads: u32,
    /// Timed repeats.
    pub repeats: u32,
    /// Tokens of every prompt.
    pub prompt: u32,
    /// Tokens that every story gets, two or more.
    pub tokens: u32,
    /// Stories that are made together, beside one alone.
    pub stories: usize,
    /// Where it runs.
    #[serde(serialize_with = "device_name")]
    pub device: Device,
}

/// Figures of `bench language`.
#[derive(Debug, Clone, Serialize)]
pub struct LanguageFigures {
    /// What was asked for.
    pub settings: LanguageBench,
    /// Values in the files.
    pub parameters: u64,
    /// A prompt and its first token.
    pub prefill: Timing,
    /// All further tokens of one story.
    pub alone: Timing,
    /// All further tokens of the stories together.
    pub together: Timing,
    /// Of one story, after the first.
    pub tokens_per_second_alone: f64,
    /// Of all stories together.
    pub tokens_per_second_together: f64,
    /// The tokens of the story alone, to be compared.
    pub text: Vec<u32>,
}

/// Times greedy texts of the model in `folder`; its texts must not end by themselves.
///
/// # Errors
/// The folder is not that of a language model, or a text ends early.
pub fn language(folder: &Path, settings: &LanguageBench) -> Result<LanguageFigures> {
    use_threads(settings.threads);
    let model = LanguageModel::load(
        folder,
        &LanguageSettings {
            device: settings.device,
            kind: cpu_target(&settings.dtype)?.kind,
            ..LanguageSettings::default()
        },
    )?;
    // One more than is kept: the first repeat warms up.
    let mut rounds = Vec::new();
    for _ in 0..=settings.repeats.max(1) {
        rounds.push((
            run(&model, settings, 1)?,
            run(&model, settings, settings.stories)?,
        ));
    }
    let rounds = &rounds[1..];
    let of = |each: fn(&(Run, Run)) -> f64| Timing::of(rounds.iter().map(each).collect());
    let alone = of(|(alone, _)| alone.decode_seconds);
    let together = of(|(_, together)| together.decode_seconds);
    let further = f64::from(settings.tokens - 1);
    let entries = Checkpoint::open(folder)?;
    let entries = entries.entries().values();
    Ok(LanguageFigures {
        settings: settings.clone(),
        parameters: entries
            .map(|entry| entry.shape.iter().product::<i64>().unsigned_abs())
            .sum(),
        prefill: of(|(alone, _)| alone.prefill_seconds),
        tokens_per_second_alone: further / alone.median_seconds,
        tokens_per_second_together: further * settings.stories as f64 / together.median_seconds,
        alone,
        together,
        text: rounds
            .last()
            .map(|(alone, _)| alone.text.clone())
            .unwrap_or_default(),
    })
}

struct Run {
    prefill_seconds: f64,
    decode_seconds: f64,
    text: Vec<u32>,
}

/// Prompts and texts of several stories.
fn run(model: &LanguageModel, settings: &LanguageBench, stories: usize) -> Result<Run> {
    if settings.tokens < 2 {
        return Err(ModelError::input(
            "bench language",
            "a text must have two tokens or more",
        ));
    }
    let mut batch = Batch::new(model, stories)?;
    for story in 0..stories {
        batch.add(Request {
            tokens: prompt(model, settings.prompt, story),
            images: Vec::new(),
            sampling: Sampling::greedy(settings.tokens as usize),
            constraint: None,
        })?;
    }
    let start = Instant::now();
    let mut events = batch.step()?;
    let prefill_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    events.extend(batch.run()?);
    let decode_seconds = start.elapsed().as_secs_f64();
    let mut text = None;
    for event in events {
        match event {
            Event::Finished { output, .. } if output.finish == Finish::Length => {
                text.get_or_insert(output.tokens);
            }
            Event::Finished { .. } => {
                return Err(ModelError::input(
                    "bench language",
                    "a text ended by itself",
                ));
            }
            Event::Failed { error, .. } => return Err(error),
            Event::Token { .. } => {}
        }
    }
    Ok(Run {
        prefill_seconds,
        decode_seconds,
        text: text.unwrap_or_default(),
    })
}

/// Always the same tokens, other ones for every story; `scripts/bench/language.py` has the same.
fn prompt(model: &LanguageModel, length: u32, story: usize) -> Vec<u32> {
    let vocabulary = model.config().vocab_size.unsigned_abs();
    let token = |place: u64| (place * 7919 + story as u64 * 104_729) % vocabulary;
    (0..u64::from(length))
        .map(|place| token(place) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_nn::testing::golden;

    #[test]
    fn a_model_is_timed_alone_and_together() {
        let settings = LanguageBench {
            dtype: "f32".to_owned(),
            // The number of threads is one for the whole program, and other tests are running.
            threads: 0,
            repeats: 1,
            prompt: 5,
            tokens: 4,
            stories: 3,
            device: Device::Cpu,
        };
        let figures = language(&golden("language-qwen2"), &settings).unwrap();
        assert!(figures.parameters > 10_000 && figures.text.len() == 4);
        assert!(figures.tokens_per_second_together > 0.0 && figures.prefill.best_seconds > 0.0);
        let one = LanguageBench {
            tokens: 1,
            ..settings
        };
        assert!(language(&golden("language-qwen2"), &one).is_err());
    }
}
