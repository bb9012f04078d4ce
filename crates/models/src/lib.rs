//! Networks and samplers of storyloom, each as its reference computes it.
//!
//! What they are made of is in `storyloom-nn`, and how a method makes shots with them in
//! `storyloom-engine`.

pub mod autoencoder;
mod config_check;
pub mod flux;
pub mod forward;
pub mod inspect;
pub mod language;
pub mod narrative_weaver;
pub mod onestory;
pub mod sampler;
pub mod scorer;
pub mod text;
pub mod tiny;
pub mod vision;
pub mod wan;

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod lora_test;
#[cfg(test)]
mod single_file_test;
