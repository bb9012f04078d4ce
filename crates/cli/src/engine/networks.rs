//! What the networks of a method can do, each method in its own words.

use std::collections::BTreeMap;
use std::fmt::Debug;

use storyloom_engine::method::wan::Identity;
use storyloom_engine::sampling::LoopProgress;
use storyloom_nn::ModelError;
use storyloom_orchestrator::{Encoded, Kept, Pass, Scores};
use storyloom_story::{
    Capacities, Clip, HostTensor, LoopState, Method, PassName, RgbImage, ShotInputs,
};

/// Hears of every finished step; `false` stops the loop.
pub type EachStep<'a> = dyn FnMut(&LoopProgress) -> bool + 'a;

/// The networks of one method, with the duties of
/// [`ShotEngine`](storyloom_orchestrator::ShotEngine).
pub trait MethodNetworks: Debug + Sync {
    /// Whose they are.
    fn method(&self) -> Method;

    /// What they are, for recipes.
    fn identity(&self) -> &Identity;

    /// Shots that each stage can work on at once.
    fn capacities(&self) -> Capacities;

    /// The sampling loops of a shot.
    fn passes(&self) -> Vec<PassName> {
        vec![PassName::SHOT]
    }

    /// Helps other replicas.
    fn assist(&self) -> Result<bool, ModelError>;

    /// Stage `encode` of a pass.
    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, ModelError>;

    /// Stage `denoise` of a pass.
    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<&LoopState>,
        each_step: &mut EachStep,
    ) -> Result<HostTensor, ModelError>;

    /// Stage `decode` of a pass.
    fn decode(
        &self,
        inputs: &ShotInputs,
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, ModelError>;

    /// First half of stage `select`.
    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, ModelError>;

    /// Second half of stage `select`.
    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, ModelError>;

    /// Fails if the weights have changed since they were loaded.
    fn check_weights(&self) -> Result<(), ModelError>;
}

/// Conditions in the form of a method.
pub fn conditions<C: 'static>(encoded: &Encoded) -> Result<&C, ModelError> {
    let conditions = encoded.conditions();
    conditions.map_err(|error| ModelError::input("conditions", error.message))
}
