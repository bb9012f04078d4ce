//! What the orchestrator needs of whatever makes the pictures.

use serde::{Deserialize, Serialize};
use storyloom_story::{
    Clip, ErrorClass, HostTensor, LoopState, Resolution, RgbImage, ShotInputs, Stage,
};

/// The stages of one shot that need networks.
///
/// The orchestrator calls them in the order encode, denoise, decode, score, remember. An engine
/// holds its models for its whole life; nothing is loaded per shot. Several threads call it, each
/// with its own shot; what it can do at once it says in [`capacities`](Self::capacities).
pub trait ShotEngine: Sync {
    /// Prompt embeddings and picture conditions in the engine's own form.
    type Conditions;

    /// What the engine is and what it would compute; part of every recipe.
    fn describe(&self) -> EngineDescription;

    /// Shots that each of the stages encode, denoise and decode can work on at the same time;
    /// further ones wait.
    fn capacities(&self) -> [usize; 3] {
        [1; 3]
    }

    /// Called while there is no story to make but others of the run make some: helps them, if it
    /// can, and returns whether it did. Returns soon if nobody needs help.
    fn assist(&self) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Stage `encode`: prompt and pictures become conditions.
    fn encode(&self, inputs: &ShotInputs) -> Result<Self::Conditions, EngineError>;

    /// Stage `denoise`: the whole sampling loop. Returns normalised latents of the shot
    /// `[channels, frames, height, width]`, memory slots removed.
    ///
    /// `observer` hears of every finished step, may save the loop and may stop it. `resume` is a
    /// loop that was saved with the same inputs; the result has the same bits as without it.
    fn denoise(
        &self,
        inputs: &ShotInputs,
        conditions: &Self::Conditions,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError>;

    /// Stage `decode`: latents become the saved frames, given frames already dropped.
    fn decode(&self, inputs: &ShotInputs, latents: &HostTensor) -> Result<Clip, EngineError>;

    /// First half of stage `select`: an embedding and a quality score for each picture.
    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError>;

    /// A picture as one normalised latent frame at the story's size, for later shots to see.
    fn remember(&self, picture: &RgbImage, size: Resolution) -> Result<HostTensor, EngineError>;

    /// Fails if the weights are not any more what [`describe`](Self::describe) says. Called before
    /// every record that names them.
    fn check_weights(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Identity of an engine and of the weights it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineDescription {
    /// `torch` or `simulated`.
    pub engine: String,
    /// Digest of everything that decides the numbers: weights, sampler, precision.
    pub fingerprint: String,
    /// What may change from start to start of a run and moves the last bits only: device, threads,
    /// ranks that share sums. Empty where nothing does.
    #[serde(default)]
    pub arithmetic: String,
    /// Name and blake3 digest of each model component.
    pub models: Vec<(String, String)>,
    /// The name of the quality score, as shown to users.
    pub quality_score: String,
}

/// What selection needs to know of each picture, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Unit-length embeddings, one per picture, all of the same length.
    pub embeddings: Vec<Vec<f32>>,
    /// Quality scores, one per picture; larger is better.
    pub quality: Vec<f32>,
}

/// Makes a copy of a sampling loop.
pub type SaveLoop<'a> = dyn Fn() -> Result<LoopState, EngineError> + 'a;

/// Hears of the progress of a sampling loop.
pub trait StepObserver {
    /// Called after `done` of `total` steps. `state` makes a copy of the loop on the host, which
    /// costs time and memory. Return `false` to stop here.
    fn step_finished(&mut self, done: usize, total: usize, state: &SaveLoop) -> bool;
}

/// A stage that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {message}")]
pub struct EngineError {
    /// The stage it happened in.
    pub stage: Stage,
    /// What it means for the work.
    pub class: ErrorClass,
    /// What happened, in words a user can act on.
    pub message: String,
}
