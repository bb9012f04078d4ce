//! StoryMem's networks with what OneStory chooses.

use std::collections::BTreeMap;

use storyloom_engine::method::onestory::{InjectConditions, InjectEngine, OneStoryEngine};
use storyloom_engine::method::wan::Identity;
use storyloom_nn::ModelError;
use storyloom_orchestrator::{Encoded, Kept, KeptContent, Pass, PassOutput, Scores};
use storyloom_story::onestory::SELECT;
use storyloom_story::{
    Capacities, Clip, HostTensor, LoopState, Method, PassName, RgbImage, ShotInputs,
};

use super::networks::{EachStep, MethodNetworks, conditions};
use super::onestory::{array_of, encode_pass, no_scores};

impl MethodNetworks for InjectEngine {
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
        OneStoryEngine::passes()
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
        _inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<&LoopState>,
        each_step: &mut EachStep,
    ) -> Result<HostTensor, ModelError> {
        let conditions: &InjectConditions = conditions(encoded)?;
        self.denoise(conditions, resume, each_step)
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
            KeptContent::Shot([.., PassOutput { latents, .. }]) => latents.clone(),
            KeptContent::Shot([]) => {
                return Err(ModelError::input("what is kept", "no pass has made it"));
            }
            KeptContent::Clip(clip) => self.remember_clip(clip, kept.size)?,
        };
        Ok(BTreeMap::from([(array_of(kept).to_owned(), latents)]))
    }

    fn check_weights(&self) -> Result<(), ModelError> {
        self.check_weights()
    }
}
