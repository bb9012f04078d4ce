//! The stages of a shot and the classes of what can go wrong in them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage on the way of a shot, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Deciding what the shot is asked for and what it sees.
    Plan,
    /// Prompt and memory keyframes become conditions.
    Encode,
    /// The sampling loop of the diffusion transformer.
    Denoise,
    /// Latents become frames.
    Decode,
    /// Keyframes are chosen from the frames.
    Select,
    /// Outputs and the commit record are written.
    Commit,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 6] = [
        Self::Plan,
        Self::Encode,
        Self::Denoise,
        Self::Decode,
        Self::Select,
        Self::Commit,
    ];

    /// The name used in logs, metrics, records and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
            Self::Select => "select",
            Self::Commit => "commit",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an error means for the work that hit it. Retry looks at this and never at a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The same attempt may succeed later: a storage hiccup, a lost device.
    Transient,
    /// This shot cannot be made from what it was given; others can.
    Shot,
    /// Nothing more can be made by this process: disk full, wrong checkpoint, bad config.
    Run,
    /// A program or service outside of storyloom is missing.
    ServiceAway,
    /// The work was asked to stop; what is saved can be continued.
    Interrupted,
}

/// Whether it helps to try the same thing again with another seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outlook {
    /// It may.
    Open,
    /// It would end the same.
    Hopeless,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_serialised_form() {
        for stage in Stage::ALL {
            let json = serde_json::to_string(&stage).unwrap();
            assert_eq!(json, format!("\"{stage}\""));
        }
    }
}
