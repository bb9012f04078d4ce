//! What can go wrong between ranks.

/// A collective or message that did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommError {
    /// Some ranks did not take part in time. They hang, or are at something else.
    #[error(
        "{operation} in group {group}: no sign of rank{} {} for {seconds} s",
        plural(ranks),
        list(ranks)
    )]
    Late {
        /// The group.
        group: String,
        /// What was called.
        operation: String,
        /// The ranks of the world that are missing.
        ranks: Vec<usize>,
        /// How long they were waited for.
        seconds: u64,
    },
    /// Some ranks have ended.
    #[error(
        "{operation} in group {group}: rank{} {} ended",
        plural(ranks),
        list(ranks)
    )]
    Lost {
        /// The group.
        group: String,
        /// What was called.
        operation: String,
        /// The ranks of the world that have ended.
        ranks: Vec<usize>,
    },
    /// A rank called something else.
    #[error("{operation} in group {group}: rank {rank} is at {theirs}")]
    Disagree {
        /// The group.
        group: String,
        /// What was called here.
        operation: String,
        /// The other rank, of the world.
        rank: usize,
        /// What was called there.
        theirs: String,
    },
    /// Buffers whose lengths do not fit the call.
    #[error("{operation} in group {group}: {reason}")]
    Buffer {
        /// The group.
        group: String,
        /// What was called.
        operation: String,
        /// Why not.
        reason: String,
    },
    /// The library underneath refused.
    #[error("{operation}: {reason}")]
    Backend {
        /// What was called.
        operation: String,
        /// What it said.
        reason: String,
    },
    /// Some ranks did not come to where all meet, or one ended before all were there.
    #[error("{0}")]
    Absent(String),
    /// Nobody told the ranks where the others are. All find the same, and one may say it for all.
    #[error("{reason}")]
    Apart {
        /// This rank.
        rank: usize,
        /// What to do.
        reason: String,
    },
    /// The world cannot come together as it is set up.
    #[error("{0}")]
    Setup(String),
}

impl CommError {
    /// These ranks of `size` did not come to `place`.
    pub(crate) fn missing(ranks: &[usize], size: usize, seconds: u64, place: &str) -> Self {
        Self::Absent(format!(
            "rank{} {} of {size} did not come to {place} within {seconds} s; see what {} said, \
             then start the run again",
            plural(ranks),
            list(ranks),
            match ranks.len() {
                1 => "it",
                _ => "they",
            }
        ))
    }

    /// Whether starting the run again may help: a rank is gone or late, and nothing is wrong with
    /// the input.
    pub fn is_resumable(&self) -> bool {
        matches!(
            self,
            Self::Late { .. } | Self::Lost { .. } | Self::Backend { .. } | Self::Absent(_)
        )
    }
}

/// A topology that does not fit the world or the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(pub String);

fn plural(ranks: &[usize]) -> &'static str {
    if ranks.len() == 1 { "" } else { "s" }
}

fn list(ranks: &[usize]) -> String {
    let names: Vec<String> = ranks.iter().map(usize::to_string).collect();
    names.join(", ")
}
