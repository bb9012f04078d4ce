//! Networks that a sampling loop asks for predictions, and what they are asked with.
//!
//! A loop, and the ranks that share it, know networks by [`NetworkId`] and by the trait
//! [`Backbone`]. Which networks there are and what they see is known by the method.

mod wan;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::layers::Adaptable;
use tch::Tensor;

pub use self::wan::{
    CHANNELS, CONTEXT, CONTEXT_IS_CLEAN, CONTEXT_POSITIONS, IMAGE, POSITIONS, TEXT,
};
use crate::replica::wire::Tensors;

/// A network of a method, by the number that the method gives it. All ranks of a replica use the same
/// numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(pub u8);

/// What a leader may ask of any shared network: whole, or this rank's part of it.
pub trait Backbone: Adaptable + Debug + Send {
    /// Computes what stays the same in all steps of a loop. All ranks that share the network call it.
    ///
    /// # Errors
    /// A tensor is missing or does not fit the network.
    fn prepare(&self, conditioning: &Conditioning) -> Result<Prepared>;

    /// The prediction for a sample, f32 in the shape of the sample. All ranks that share the network
    /// call it, and each gets the whole prediction.
    ///
    /// # Errors
    /// The sample does not fit, or `prepared` is of another kind of network.
    fn predict(&self, input: &StepInput, prepared: &Prepared) -> Result<Tensor>;
}

/// What a network sees besides the sample, in all steps of a loop: tensors by names that the network
/// knows.
#[derive(Debug, Default)]
pub struct Conditioning(Tensors);

impl Conditioning {
    /// Adds a tensor.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: Tensor) -> Self {
        self.0.insert(name.to_owned(), tensor);
        self
    }

    /// The tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        let missing = || ModelError::input("conditioning", format!("there is no {name}"));
        self.get(name).ok_or_else(missing)
    }

    /// Tensors with the same values, not copied.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, Tensor)> {
        let tensors = self.0.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor.shallow_clone()))
    }
}

/// What a network has computed of a [`Conditioning`], for all steps of a loop.
pub struct Prepared(Box<dyn Any>);

impl Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared")
    }
}

impl Prepared {
    /// Keeps what a network of some kind has computed.
    pub fn new(of_network: impl Any) -> Self {
        Self(Box::new(of_network))
    }

    /// What was kept.
    ///
    /// # Errors
    /// A network of another kind has computed it.
    pub fn get<T: Any>(&self) -> Result<&T> {
        let other = || ModelError::input("prepared conditions", "they are of another network");
        self.0.downcast_ref().ok_or_else(other)
    }
}

/// What a network sees in one step.
#[derive(Debug)]
pub struct StepInput<'a> {
    /// The noisy sample, f32, in the shape that the network's latents have.
    pub sample: &'a Tensor,
    /// What else it is told.
    pub step: Step,
}

/// What a network is told of a step, besides the sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The timestep.
    pub timestep: f64,
    /// The scale of embedded guidance, for networks that are told it.
    pub guidance: Option<f64>,
}

/// The networks of a method that this rank holds, whole or its part of them.
#[derive(Debug, Default)]
pub struct Networks(BTreeMap<NetworkId, Box<dyn Backbone>>);

impl Networks {
    /// Adds a network; one of the same number goes.
    pub fn insert(&mut self, id: NetworkId, network: Box<dyn Backbone>) {
        self.0.insert(id, network);
    }

    /// The network of this number.
    ///
    /// # Errors
    /// This rank has none.
    pub fn get(&self, id: NetworkId) -> Result<&dyn Backbone> {
        let missing = || ModelError::input("network", format!("number {} is not loaded", id.0));
        Ok(self.0.get(&id).ok_or_else(missing)?.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_of_another_network_is_said() {
        let conditioning = Conditioning::default().with("text", Tensor::from(1.0));
        assert!(conditioning.require("text").is_ok() && conditioning.get("mask").is_none());
        let error = conditioning.require("mask").unwrap_err().to_string();
        assert!(error.contains("no mask"), "{error}");
        let prepared = Prepared::new(7_u8);
        assert_eq!(*prepared.get::<u8>().unwrap(), 7);
        assert!(prepared.get::<u16>().is_err());
        let error = Networks::default().get(NetworkId(3)).unwrap_err();
        assert!(error.to_string().contains("number 3"), "{error}");
    }
}
