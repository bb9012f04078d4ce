//! The sampling loops of one shot, and how many shots an engine works on at once.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of one sampling loop of a shot. A method with several runs them in order, each conditioned on
/// what the ones before have made: a keyframe, then the clip that begins with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PassName(Cow<'static, str>);

impl PassName {
    /// The only loop of a method with one. Saved steps that name no pass belong to it.
    pub const SHOT: Self = Self::new("shot");

    /// A name, which is part of saved steps and of records.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Whether it is [`SHOT`](Self::SHOT), which saved steps do not write.
    pub fn is_shot(&self) -> bool {
        *self == Self::SHOT
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for PassName {
    fn default() -> Self {
        Self::SHOT
    }
}

impl fmt::Display for PassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many shots each stage that needs networks can work on at the same time; further ones wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacities {
    /// Shots in stage `encode`.
    pub encode: usize,
    /// Shots in stage `denoise`.
    pub denoise: usize,
    /// Shots in stages `decode` and `select`.
    pub decode: usize,
}

impl Capacities {
    /// One shot in each stage.
    pub const ONE: Self = Self {
        encode: 1,
        denoise: 1,
        decode: 1,
    };
}
