//! How consistent the stories of a run are, and how well they follow their prompts.
//!
//! Made for runs of stories of the [drawn world](storyloom_tinyworld): the id of a story says what its
//! pictures should show, and a [`Reader`](storyloom_training::reader::Reader) says what they do show.

mod compare;
mod folder;
mod interval;
mod metric;
mod score;
mod selection;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use storyloom_orchestrator::RunError;
use storyloom_tinyworld::Pattern;
use storyloom_training::error::TrainError;
use storyloom_training::reader::Reader;

pub use compare::{Comparison, compare};
pub use folder::{StoryReading, read_run, run_sheet};
pub use interval::Interval;
pub use metric::Metric;
pub use score::{RunScores, StoryScores, score_run, score_story};
pub use selection::Selection;
pub use tables::{markdown, selected_csv, shots_csv, stories_csv, text};

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
    /// The files of the run cannot be read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Reading pictures or files failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// The figures of one run or several.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// All stories.
    #[serde(flatten)]
    pub all: Figures,
    /// The stories of each pattern that all runs have, where there is more than one kind of stories.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub patterns: BTreeMap<Pattern, Figures>,
}

/// The figures of some stories of the runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Each run alone, in the order that they were given.
    pub runs: Vec<RunScores>,
    /// Each run but the first against the first, over the stories that both have.
    pub comparisons: Vec<Comparison>,
}

/// Reads and scores the run folders; the first is what the others are compared with.
///
/// Also returns what was read, for [`shots_csv`] and [`selected_csv`].
///
/// # Errors
/// A run has no stories of the drawn world, none of the first one's, or cannot be read.
pub fn evaluate(
    reader: &Reader,
    folders: &[PathBuf],
) -> Result<(Evaluation, Vec<Vec<StoryReading>>), EvalError> {
    let mut readings = Vec::with_capacity(folders.len());
    for folder in folders {
        readings.push(read_run(reader, folder)?);
    }
    Ok((score(folders, &readings)?, readings))
}

/// The figures of what was read of the runs, all together and by pattern.
fn score(folders: &[PathBuf], readings: &[Vec<StoryReading>]) -> Result<Evaluation, EvalError> {
    let all = readings.iter().flatten();
    let kinds: BTreeSet<Option<Pattern>> = all.map(|reading| reading.story.pattern).collect();
    let mut patterns = BTreeMap::new();
    if kinds.len() > 1 {
        for pattern in kinds.into_iter().flatten() {
            let of_pattern = |reading: &StoryReading| reading.story.pattern == Some(pattern);
            match figures(folders, readings, of_pattern) {
                Ok(figures) => patterns.insert(pattern, figures),
                // A run has no stories of it.
                Err(EvalError::NothingInCommon { .. }) => None,
                Err(error) => return Err(error),
            };
        }
    }
    Ok(Evaluation {
        all: figures(folders, readings, |_| true)?,
        patterns,
    })
}

/// The figures of the stories that `counts`.
fn figures(
    folders: &[PathBuf],
    readings: &[Vec<StoryReading>],
    counts: impl Fn(&StoryReading) -> bool,
) -> Result<Figures, EvalError> {
    let runs: Vec<RunScores> = folders
        .iter()
        .zip(readings)
        .map(|(folder, readings)| score_run(folder, readings.iter().filter(|it| counts(it))))
        .collect();
    let comparisons = match runs.split_first() {
        Some((baseline, others)) => others
            .iter()
            .map(|run| compare(run, baseline))
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(Figures { runs, comparisons })
}

#[cfg(test)]
mod tests {
    use storyloom_tinyworld::{Outline, Scene, Split, Story};
    use storyloom_training::reader::Reading;

    use super::*;

    /// Readings of drawn pictures, with `look` in place of the scene of each shot.
    fn readings(look: impl Fn(&Story, usize) -> Scene) -> Vec<StoryReading> {
        let outlines = Pattern::ALL.iter().map(|&pattern| Outline::of(pattern));
        let stories = outlines
            .flat_map(|outline| (0..12).map(move |seed| outline.draw(seed, Split::HeldOut)));
        let read = |story: Story| StoryReading {
            shots: (0..story.shots.len())
                .map(|shot| Some(Reading::certain(&look(&story, shot))))
                .collect(),
            selections: vec![None; story.shots.len()],
            story,
        };
        stories.map(read).collect()
    }

    /// What only the newest shots are remembered for: things that were seen long ago look otherwise.
    fn short_memory(story: &Story, shot: usize) -> Scene {
        let mut scene = story.shots[shot].scene;
        let mut owners: Vec<_> = story.recalls(shot).map(|(it, _)| it.owner()).collect();
        owners.dedup();
        for owner in owners {
            scene = scene.repainted(owner);
        }
        scene
    }

    #[test]
    fn patterns_are_told_apart_and_what_was_seen_long_ago_counts_as_recalled() {
        let runs = [
            readings(|story, shot| story.shots[shot].scene),
            readings(short_memory),
        ];
        let folders = ["perfect", "short"].map(PathBuf::from);
        let evaluation = score(&folders, &runs).unwrap();
        assert_eq!(evaluation.all.runs[1].stories, 36);
        assert_eq!(evaluation.patterns.len(), 3);
        for (pattern, figures) in &evaluation.patterns {
            assert_eq!(
                (figures.runs[0].stories, figures.comparisons[0].stories),
                (12, 12)
            );
            let value =
                |run: usize, metric| figures.runs[run].metrics.get(&metric).map(|it| it.value);
            // In six shots the main subject is never away.
            let has_far = *pattern != Pattern::MainSubject;
            assert_eq!(value(0, Metric::Recalled), has_far.then_some(1.0));
            assert_eq!(value(0, Metric::Remembered), Some(1.0));
            let (recalled, remembered) = (value(1, Metric::Recalled), value(1, Metric::Remembered));
            if has_far {
                // Markings stay as they are.
                assert!(recalled.is_some_and(|share| share < 0.3), "{recalled:?}");
                assert!(remembered > recalled && remembered < Some(1.0));
            } else {
                assert_eq!((recalled, remembered), (None, Some(1.0)));
            }
        }
        let text = text(&evaluation);
        assert!(
            text.contains("\ninsert_recall\nperfect: 12 stories"),
            "{text}"
        );
    }
}
