//! What the orchestrator needs of whatever makes the pictures.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use storyloom_story::{
    Capacities, Clip, ErrorClass, HostTensor, LoopState, Method, PassName, Resolution, RgbImage,
    ShotInputs, Stage, UnreadableArray,
};

/// The stages of one shot that need networks.
///
/// The orchestrator calls them in the order encode, denoise, decode for each of the [passes](Self::passes),
/// then score, remember. An engine
/// holds its models for its whole life; nothing is loaded per shot. Several threads call it, each
/// with its own shot; what it can do at once it says in [`capacities`](Self::capacities).
pub trait ShotEngine: Sync {
    /// What the engine is and what it would compute for shots of a method; part of every recipe. `None`
    /// where it has nothing loaded for that method.
    fn describe(&self, method: Method) -> Option<EngineDescription>;

    /// Shots that each stage can work on at the same time; further ones wait.
    fn capacities(&self) -> Capacities {
        Capacities::ONE
    }

    /// The sampling loops of a shot, in order, at least one. The shot is what the last one makes.
    fn passes(&self, _inputs: &ShotInputs) -> Vec<PassName> {
        vec![PassName::SHOT]
    }

    /// Called while there is no story to make but others of the run make some: helps them, if it
    /// can, and returns whether it did. Returns soon if nobody needs help.
    fn assist(&self) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Stage `encode`: prompt, pictures and what earlier passes have made become conditions of a pass.
    fn encode(&self, inputs: &ShotInputs, pass: Pass) -> Result<Encoded, EngineError>;

    /// Stage `denoise`: the whole sampling loop of a pass, as `encoded` says. Returns normalised latents of the shot
    /// `[channels, frames, height, width]`, memory slots removed.
    ///
    /// `observer` hears of every finished step, may save the loop and may stop it. `resume` is a
    /// loop that was saved with the same inputs; the result has the same bits as without it.
    fn denoise(
        &self,
        inputs: &ShotInputs,
        encoded: &Encoded,
        resume: Option<LoopState>,
        observer: &mut dyn StepObserver,
    ) -> Result<HostTensor, EngineError>;

    /// Stage `decode`: latents of a pass become frames, given frames already dropped. A picture is one
    /// frame.
    fn decode(
        &self,
        inputs: &ShotInputs,
        pass: Pass,
        latents: &HostTensor,
    ) -> Result<Clip, EngineError>;

    /// First half of stage `select`: an embedding and a quality score for each picture. Nobody calls it for
    /// methods whose policy wants no scores.
    fn score(&self, pictures: &[&RgbImage]) -> Result<Scores, EngineError>;

    /// Second half of stage `select`: what later shots see of something that is kept, as arrays with names
    /// that the method knows.
    fn remember(&self, kept: &Kept) -> Result<BTreeMap<String, HostTensor>, EngineError>;

    /// Fails if the weights are not any more what [`describe`](Self::describe) says. Called before
    /// every record that names them.
    fn check_weights(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// One sampling loop of a shot.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Which one.
    pub name: &'a PassName,
    /// What the loops before it have made.
    pub before: &'a [PassOutput],
}

/// Something that a story keeps.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The method that keeps it.
    pub method: Method,
    /// The size at which the story's shots are generated.
    pub size: Resolution,
    /// What it is.
    pub what: KeptContent<'a>,
}

/// What is kept: a picture, a whole shot, or one that was made elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum KeptContent<'a> {
    /// A frame of a shot, or a reference image at the story's size.
    Picture(&'a RgbImage),
    /// All that the sampling loops of a shot have made, in their order.
    Shot(&'a [PassOutput]),
    /// The frames of a ready-made first shot, at the story's size. What is kept of it is one array,
    /// [`FIRST_SHOT`](storyloom_story::MemoryFrame::FIRST_SHOT): the shot makes no other latents.
    Clip(&'a Clip),
}

impl<'a> KeptContent<'a> {
    /// What the sampling loops of a shot have made, if it is a shot.
    pub fn shot(self) -> Option<&'a [PassOutput]> {
        match self {
            Self::Picture(_) | Self::Clip(_) => None,
            Self::Shot(made) => Some(made),
        }
    }
}

/// What one sampling loop of a shot has made.
#[derive(Debug, Clone, PartialEq)]
pub struct PassOutput {
    /// Which one.
    pub name: PassName,
    /// The latents that stage `denoise` returned.
    pub latents: HostTensor,
    /// The frames that stage `decode` made of them.
    pub clip: Clip,
}

/// What stage `encode` makes of one pass.
pub struct Encoded {
    /// What the shot sees, as places in [`ShotInputs::memory`], where the networks choose among what is
    /// offered; `None` where they see all of it.
    pub seen: Option<Vec<usize>>,
    conditions: Box<dyn Any + Send>,
}

impl Encoded {
    /// Conditions in the engine's own form; all of the memory is seen.
    pub fn new(conditions: impl Any + Send) -> Self {
        Self {
            seen: None,
            conditions: Box::new(conditions),
        }
    }

    /// Conditions in the engine's own form, made of these places in [`ShotInputs::memory`] only.
    pub fn of_chosen(seen: Vec<usize>, conditions: impl Any + Send) -> Self {
        Self {
            seen: Some(seen),
            ..Self::new(conditions)
        }
    }

    /// The conditions, in the form in which the engine made them.
    ///
    /// # Errors
    /// They have another form, so another engine made them.
    pub fn conditions<C: Any>(&self) -> Result<&C, EngineError> {
        self.conditions.downcast_ref().ok_or_else(|| EngineError {
            stage: Stage::Denoise,
            class: ErrorClass::Run,
            message: "the conditions were made by another engine".to_owned(),
        })
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = &self.seen;
        f.debug_struct("Encoded")
            .field("seen", seen)
            .finish_non_exhaustive()
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

impl EngineDescription {
    /// What an engine without networks calls itself.
    pub const SIMULATED: &'static str = "simulated";

    /// Whether it only pretends networks.
    pub fn is_simulated(&self) -> bool {
        self.engine == Self::SIMULATED
    }
}

/// What selection needs to know of each picture, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Unit-length embeddings, one per picture, all of the same length.
    pub embeddings: Vec<Vec<f32>>,
    /// Quality scores, one per picture; larger is better.
    pub quality: Vec<f32>,
}

impl Scores {
    /// Of nothing.
    pub(crate) const NONE: Self = Self {
        embeddings: Vec::new(),
        quality: Vec::new(),
    };
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

/// What is remembered is read when a shot is conditioned on it.
impl From<UnreadableArray> for EngineError {
    fn from(error: UnreadableArray) -> Self {
        Self {
            stage: Stage::Encode,
            class: error.class,
            message: error.message,
        }
    }
}
