//! `generation_config.json`: how its makers want a model to be sampled.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use storyloom_story::Seed;

use super::config::token_list;
use super::sampling::Sampling;
use crate::checkpoint::read_json;
use crate::error::{ModelError, Result};

/// The makers' defaults.
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
            top_k: raw.top_k.unwrap_or(0),
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
            repetition_penalty: self.repetition_penalty,
            seed,
            ..greedy
        }
    }
}
