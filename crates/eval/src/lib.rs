//! How consistent the stories of a run are, and how well they follow their prompts.
//!
//! Made for runs of stories of the [drawn world](storyloom_tinyworld): the id of a story says what its
//! pictures should show, and a [`Reader`](storyloom_training::reader::Reader) says what they do show.

mod compare;
mod folder;
mod interval;
mod metric;
mod score;
mod tables;

use std::path::PathBuf;

use serde::Serialize;
use storyloom_training::error::TrainError;
use storyloom_training::reader::Reader;

pub use compare::{Comparison, compare};
pub use folder::{StoryReading, read_run, run_sheet};
pub use interval::Interval;
pub use metric::Metric;
pub use score::{RunScores, StoryScores, score_run, score_story};
pub use tables::{shots_csv, stories_csv, text};

/// Why a run cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// There is no story of the drawn world in it.
    #[error(
        "{}: no story of the drawn world in it; `storyloom eval` measures runs of manifests that \
         `storyloom train manifest` wrote, whose stories are called tiny-…: it knows what every shot \
         of these should show and reads that from the pictures. It has no CLIP, DINO or aesthetic \
         scores, so stories of other manifests, ST-Bench among them, are measured with other \
         programs, from the mp4 files of the run", folder.display()
    )]
    NoStories {
        /// The run folder.
        folder: PathBuf,
    },
    /// A story has the id of another one.
    #[error(
        "{}: {story} is not the story that this version draws for its id; make the manifest and \
         the run again", folder.display()
    )]
    OtherWorld {
        /// The run folder.
        folder: PathBuf,
        /// The story's id.
        story: String,
    },
    /// Runs without a common story.
    #[error("{} and {} have no story in common", run.display(), baseline.display())]
    NothingInCommon {
        /// The run.
        run: PathBuf,
        /// What it is compared with.
        baseline: PathBuf,
    },
    /// A video could not be decoded.
    #[error("ffmpeg cannot decode {}: {reason}", path.display())]
    Video {
        /// The video.
        path: PathBuf,
        /// What ffmpeg says.
        reason: String,
    },
    /// The program is not there.
    #[error("ffmpeg cannot be started ({reason}); install it")]
    NoFfmpeg {
        /// What the system says.
        reason: String,
    },
    /// Reading pictures or files failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// The figures of one run or several.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Each run alone, in the order that they were given.
    pub runs: Vec<RunScores>,
    /// Each run but the first against the first, over the stories that both have.
    pub comparisons: Vec<Comparison>,
}

/// Reads and scores the run folders; the first is what the others are compared with.
///
/// Also returns what was read, for [`shots_csv`].
pub fn evaluate(
    reader: &Reader,
    folders: &[PathBuf],
) -> Result<(Evaluation, Vec<Vec<StoryReading>>), EvalError> {
    let mut readings = Vec::with_capacity(folders.len());
    let mut runs = Vec::with_capacity(folders.len());
    for folder in folders {
        let stories = read_run(reader, folder)?;
        runs.push(score_run(folder, &stories));
        readings.push(stories);
    }
    let comparisons = match runs.split_first() {
        Some((baseline, others)) => others
            .iter()
            .map(|run| compare(run, baseline))
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok((Evaluation { runs, comparisons }, readings))
}
