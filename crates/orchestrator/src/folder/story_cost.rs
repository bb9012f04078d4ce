//! What a story cost.

use serde::{Deserialize, Serialize};
use storyloom_memory::ShotRecord;

/// Working time of a story, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StoryCost {
    /// What made its shots.
    pub useful: f64,
    /// An estimate of what failed attempts took.
    pub lost: f64,
    /// What came after the last shot: joining the videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
}

impl StoryCost {
    /// Adds what a shot took.
    pub(crate) fn add(&mut self, record: &ShotRecord) {
        let seconds: f64 = record.seconds().values().sum();
        self.useful += seconds;
        self.lost += seconds * f64::from(record.request().attempt);
    }
}
