//! The networks of StoryMem.

use std::collections::BTreeMap;

use storyloom_engine::method::storymem::encode::Conditions;
use storyloom_engine::method::storymem::{DenoiseSettings, StoryMemEngine, StoryMemSettings};
use storyloom_engine::method::wan::{Compute, Identity};
use storyloom_models::sampler::SamplerSettings;
use storyloom_nn::ModelError;
use storyloom_orchestrator::{Encoded, Kept, KeptContent, Pass, Scores};
use storyloom_story::{
    Capacities, Clip, HostTensor, LoopState, MemoryFrame, Method, RgbImage, ShotInputs,
};

use super::networks::{EachStep, MethodNetworks, conditions};
use crate::checkpoints;
use crate::config::resolved::EngineConfig;
use crate::config::value::PerExpert;

/// How shots are sampled.
pub fn settings(config: &EngineConfig, compute: Compute) -> StoryMemSettings {
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
    StoryMemSettings {
        compute,
        text_to_video: phase(steps.t2v, shift.t2v, boundary.t2v, guidance.t2v),
        image_to_video: phase(steps.i2v, shift.i2v, boundary.i2v, guidance.i2v),
        lora: checkpoints::lora_settings(config),
        memory_stride: i64::from(sampler.rope_stride),
        selection_resize: sampler.resize(),
        negative_prompt: (!negative.is_empty()).then(|| negative.clone()),
    }
}

impl MethodNetworks for StoryMemEngine {
    fn method(&self) -> Method {
        Method::StoryMem
    }

    fn identity(&self) -> &Identity {
        self.identity()
    }

    fn capacities(&self) -> Capacities {
        self.capacities()
    }

    fn assist(&self) -> Result<bool, ModelError> {
        self.assist()
    }

    fn encode(&self, inputs: &ShotInputs, _pass: Pass) -> Result<Encoded, ModelError> {
        self.encode(inputs).map(Encoded::new)
    }

    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<&LoopState>,
        each_step: &mut EachStep,
    ) -> Result<HostTensor, ModelError> {
        let conditions: &Conditions = conditions(encoded)?;
        self.denoise(inputs, conditions, resume, each_step)
    }

    fn decode(
        &self,
        inputs: &ShotInputs,
        _pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, ModelError> {
        self.decode(inputs, latents)
    }

    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, ModelError> {
        let (embeddings, quality) = self.score(pictures)?;
        Ok(Scores {
            embeddings,
            quality,
        })
    }

    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, ModelError> {
        let KeptContent::Picture(picture) = kept.what else {
            let reason = "StoryMem keeps pictures of shots, no whole ones";
            return Err(ModelError::input("what is kept", reason));
        };
        let latents = self.remember(picture, kept.size)?;
        Ok(BTreeMap::from([(MemoryFrame::LATENTS.to_owned(), latents)]))
    }

    fn check_weights(&self) -> Result<(), ModelError> {
        self.check_weights()
    }
}
