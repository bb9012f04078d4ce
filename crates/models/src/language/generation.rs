//! `generation_config.json`: how its makers want a model to be sampled.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use storyloom_nn::checkpoint::read_json;
use storyloom_nn::error::{ModelError, Result};
use storyloom_story::Seed;

use super::config::token_list;
use super::sampling::Sampling;

/// What transformers takes where the makers say nothing of `top_k`.
const SILENT_TOP_K: usize = 50;

/// The makers' defaults; where they say nothing, those of transformers 5.17.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub end_tokens: Vec<u32>,
    /// Whether to draw tokens at all; else the likeliest is taken.
    pub draws: bool,
    /// Divides the scores before drawing.
    pub temperature: f64,
    /// Share of the probability that is drawn from.
    pub top_p: f64,
    /// Number of likeliest tokens that are drawn from; 0: all.
    pub top_k: usize,
    /// Least share of the likeliest token's probability that is drawn from; 0: all.
    pub min_p: f64,
    /// Divides positive scores of tokens that were there already, multiplies negative ones.
    pub repetition_penalty: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Raw {
    eos_token_id: Option<Value>,
    do_sample: Option<bool>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<usize>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
}

impl GenerationConfig {
    /// Reads the file of a model's folder, if there is one; `end_tokens` are those of its config.
    pub fn open(folder: &Path, end_tokens: &[u32]) -> Result<Self> {
        let path = folder.join("generation_config.json");
        let raw: Raw = match path.exists() {
            false => Raw::default(),
            true => serde_json::from_value(read_json(&path)?)
                .map_err(|error| ModelError::bad_file(&path, error.to_string()))?,
        };
        let own = raw
            .eos_token_id
            .as_ref()
            .map(token_list)
            .unwrap_or_default();
        Ok(Self {
            end_tokens: match own.is_empty() {
                true => end_tokens.to_vec(),
                false => own,
            },
            draws: raw.do_sample.unwrap_or(false),
            temperature: raw.temperature.unwrap_or(1.0),
            top_p: raw.top_p.unwrap_or(1.0),
            top_k: raw.top_k.unwrap_or(SILENT_TOP_K),
            min_p: raw.min_p.unwrap_or(0.0),
            repetition_penalty: raw.repetition_penalty.unwrap_or(1.0),
        })
    }

    /// The makers' sampling with a seed, of at most `max_tokens` tokens.
    pub fn sampling(&self, seed: Seed, max_tokens: usize) -> Sampling {
        let greedy = Sampling::greedy(max_tokens);
        if !self.draws {
            return Sampling {
                seed,
                repetition_penalty: self.repetition_penalty,
                ..greedy
            };
        }
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed,
            ..greedy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(file: Option<&str>) -> Sampling {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = file {
            std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        }
        let config = GenerationConfig::open(folder.path(), &[1]).unwrap();
        config.sampling(Seed(3), 10)
    }

    #[test]
    fn what_the_makers_do_not_say_is_as_in_transformers() {
        let silent = sampling(Some(r#"{"do_sample": true}"#));
        assert_eq!((silent.top_k, silent.top_p), (50, 1.0));
        assert_eq!((silent.temperature, silent.min_p), (1.0, 0.0));
        let said = sampling(Some(
            r#"{"do_sample": true, "top_k": 0, "min_p": 0.05, "top_p": 0.8, "temperature": 0.6}"#,
        ));
        assert_eq!((said.top_k, said.top_p), (0, 0.8));
        assert_eq!((said.temperature, said.min_p), (0.6, 0.05));
        let null = sampling(Some(r#"{"do_sample": true, "top_k": null, "min_p": null}"#));
        assert_eq!((null.top_k, null.min_p), (50, 0.0));
    }

    #[test]
    fn without_do_sample_the_likeliest_token_is_taken() {
        let files = [
            None,
            Some(r#"{"temperature": 0.6, "top_k": 5, "repetition_penalty": 1.2}"#),
            Some(r#"{"do_sample": false, "temperature": 0.6, "repetition_penalty": 1.2}"#),
        ];
        for file in files {
            let sampling = sampling(file);
            assert_eq!(sampling.temperature, 0.0, "{file:?}");
            let penalty = if file.is_some() { 1.2 } else { 1.0 };
            assert_eq!(sampling.repetition_penalty, penalty, "{file:?}");
        }
    }
}
