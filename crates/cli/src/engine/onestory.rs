//! The networks of OneStory.

use std::collections::BTreeMap;

use storyloom_engine::method::onestory::{Conditions, OneStoryEngine, OneStorySettings};
use storyloom_engine::method::wan::{Compute, Identity};
use storyloom_models::sampler::SamplerSettings;
use storyloom_nn::ModelError;
use storyloom_orchestrator::{Encoded, Kept, KeptContent, Pass, PassOutput, Scores};
use storyloom_story::onestory::SELECT;
use storyloom_story::{
    Capacities, Clip, HostTensor, LoopState, MemoryFrame, Method, PassName, RgbImage, ShotInputs,
};

use super::networks::{EachStep, MethodNetworks, conditions};
use crate::checkpoints;
use crate::config::resolved::EngineConfig;

/// How shots are sampled, and what they see.
pub fn settings(config: &EngineConfig, compute: Compute) -> OneStorySettings {
    let own = &config.onestory;
    let negative = &own.negative_prompt;
    OneStorySettings {
        compute,
        sampler: SamplerSettings {
            kind: own.solver,
            reference: own.reference,
            steps: own.steps as usize,
            shift: own.shift,
        },
        guidance: own.guidance,
        negative_prompt: (!negative.is_empty()).then(|| negative.clone()),
        lora: checkpoints::lora_settings(config),
        budget: own.budget(),
        selector: own.selector,
        score_norm: own.score_norm.norm(),
        time: own.time(),
        context_is_clean: own.is_clean(),
        source: own.memory_source,
        backend: own.backend,
    }
}

impl MethodNetworks for OneStoryEngine {
    fn method(&self) -> Method {
        Method::OneStory
    }

    fn identity(&self) -> &Identity {
        self.identity()
    }

    fn capacities(&self) -> Capacities {
        self.capacities()
    }

    fn passes(&self) -> Vec<PassName> {
        Self::passes()
    }

    fn assist(&self) -> Result<bool, ModelError> {
        self.assist()
    }

    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, ModelError> {
        let select = || self.select(inputs);
        encode_pass(pass, select, |scores| self.encode(inputs, scores))
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
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, ModelError> {
        match *pass.name == SELECT {
            true => self.draw(inputs, latents),
            false => self.decode(inputs, latents),
        }
    }

    fn score(&self, _pictures: &[&RgbImage]) -> Result<Scores, ModelError> {
        no_scores()
    }

    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, ModelError> {
        let latents = match kept.what {
            KeptContent::Picture(picture) => self.remember_picture(picture, kept.size)?,
            KeptContent::Shot([.., PassOutput { latents, clip, .. }]) => {
                self.remember_shot(latents, clip, kept.size)?
            }
            KeptContent::Shot([]) => {
                return Err(ModelError::input("what is kept", "no pass has made it"));
            }
            KeptContent::Clip(clip) => self.remember_clip(clip, kept.size)?,
        };
        let mut arrays = match kept.what {
            KeptContent::Shot([.., PassOutput { clip, .. }]) => self.remember_features(clip)?,
            _ => BTreeMap::new(),
        };
        arrays.insert(array_of(kept).to_owned(), latents);
        Ok(arrays)
    }

    fn check_weights(&self) -> Result<(), ModelError> {
        self.check_weights()
    }
}

/// The name of the array of what is kept.
pub fn array_of(kept: &Kept) -> &'static str {
    match kept.what {
        KeptContent::Clip(_) => MemoryFrame::FIRST_SHOT,
        KeptContent::Picture(_) | KeptContent::Shot(_) => MemoryFrame::LATENTS,
    }
}

/// Stage `encode` of a pass: `select` scores the history, and `shot` makes the conditions, with the places that
/// are seen, of the scores that the pass before has made.
///
/// The pass that scores names nothing as seen: what is seen follows from the scores that are stored, and these
/// may have been computed by other ranks.
pub fn encode_pass<C: Send + 'static>(
    pass: Pass,
    select: impl FnOnce() -> Result<C, ModelError>,
    shot: impl FnOnce(&HostTensor) -> Result<(Vec<usize>, C), ModelError>,
) -> Result<Encoded, ModelError> {
    if *pass.name == SELECT {
        return Ok(Encoded::of_chosen(Vec::new(), select()?));
    }
    let scores = pass.before.iter().find(|made| made.name == SELECT);
    let missing = || ModelError::input("the pass before", "it has not scored the history");
    let (seen, conditions) = shot(&scores.ok_or_else(missing)?.latents)?;
    Ok(Encoded::of_chosen(seen, conditions))
}

/// The answer to all who ask for scores of pictures.
pub fn no_scores() -> Result<Scores, ModelError> {
    let reason = "OneStory keeps whole shots, and scores no pictures";
    Err(ModelError::input("pictures", reason))
}
