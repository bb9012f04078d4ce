//! Choices of single options that only the command line knows.

use super::value::Choice;

/// What says how good a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScorerKind {
    /// Sharpness and exposure, without a network.
    Rule,
    /// The LAION predictor.
    Aesthetic,
}

impl Choice for ScorerKind {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("rule", Self::Rule), ("aesthetic", Self::Aesthetic)];
}
