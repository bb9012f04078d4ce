//! Decoder-only language models: Qwen2.5, Qwen3, Qwen3 with experts, LLaMA-2, and Qwen2.5-VL with
//! its vision tower.
//!
//! [`LanguageModel`] is a folder of the hub, ready to use; [`Batch`] makes texts of several prompts
//! at once; [`Decoder`] is the network, for those who need hidden states, masks or embeddings of
//! their own.

mod attention;
mod batch;
mod cache;
mod chat;
mod config;
mod connector;
mod constraint;
mod decoder;
mod feed_forward;
mod generation;
mod heads;
mod model;
mod passes;
pub mod queries;
mod rotary;
mod sampling;
mod tokenizer;
mod vision;

#[cfg(test)]
mod goldens;

pub use batch::{Batch, Event, Finish, Generated, Request, RequestId};
pub use cache::{CacheSlots, KvCache};
pub use chat::{ChatOptions, ChatTemplate, Content, Contents, Manner, Message, Role, SystemPlace};
pub use config::{ExpertConfig, Family, LanguageConfig};
pub use constraint::{Constraint, TokenMask};
pub use decoder::{Decoder, ForwardArgs, Input};
pub use generation::GenerationConfig;
pub use model::{LanguageModel, LanguageSettings, Prompt};
pub(crate) use model::{embed_with_pictures, open_networks};
pub use rotary::{HalfRotary, Rotary, RotaryConfig, Stretch, Yarn};
pub use sampling::Sampling;
pub use tokenizer::{LanguageTokenizer, letter_of};
pub use vision::{
    ImagePatches, PixelLimits, PromptPositions, VisionConfig, VisionTower, prompt_positions,
};
