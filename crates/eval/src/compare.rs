//! One run against another, story by story.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::EvalError;
use super::interval::Interval;
use super::metric::Metric;
use super::score::RunScores;

/// How a run differs from another in one metric, with paired bootstrap intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Mean of the run less mean of the baseline.
    pub difference: Interval,
    /// That as a share of the baseline's mean: 0.287 is a gain of 28.7 %. `None` where the baseline's mean is 0,
    /// or may well be.
    pub relative: Option<Interval>,
}

/// A run against a baseline, over the stories that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The run folder.
    pub run: PathBuf,
    /// What it is compared with.
    pub baseline: PathBuf,
    /// Stories that both have.
    pub stories: usize,
    /// The change of each metric.
    pub metrics: BTreeMap<Metric, Change>,
}

/// Compares `run` with `baseline`.
pub fn compare(run: &RunScores, baseline: &RunScores) -> Result<Comparison, EvalError> {
    let before: BTreeMap<&str, &BTreeMap<Metric, f64>> = baseline
        .by_story
        .iter()
        .map(|story| (story.story.as_str(), &story.metrics))
        .collect();
    let common: Vec<_> = run
        .by_story
        .iter()
        .filter_map(|story| Some((&story.metrics, *before.get(story.story.as_str())?)))
        .collect();
    if common.is_empty() {
        return Err(EvalError::NothingInCommon {
            run: run.run.clone(),
            baseline: baseline.run.clone(),
        });
    }
    let metrics = Metric::ALL.iter().filter_map(|&metric| {
        let pairs: Vec<(f64, f64)> = common
            .iter()
            .filter_map(|(now, before)| Some((*now.get(&metric)?, *before.get(&metric)?)))
            .collect();
        Some((metric, change(&pairs)?))
    });
    Ok(Comparison {
        run: run.run.clone(),
        baseline: baseline.run.clone(),
        stories: common.len(),
        metrics: metrics.collect(),
    })
}

/// Of pairs of scores of a story, now and before.
fn change(pairs: &[(f64, f64)]) -> Option<Change> {
    let means = |stories: &[usize]| {
        let (now, before) = stories.iter().fold((0.0, 0.0), |(now, before), &story| {
            (now + pairs[story].0, before + pairs[story].1)
        });
        let count = stories.len() as f64;
        (now / count, before / count)
    };
    Some(Change {
        difference: Interval::of(pairs.len(), |stories| {
            let (now, before) = means(stories);
            now - before
        })?,
        relative: Interval::of(pairs.len(), |stories| {
            let (now, before) = means(stories);
            (now - before) / before
        })
        .filter(|share| {
            let ends = [share.value, share.low, share.high];
            ends.into_iter().all(f64::is_finite)
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoryScores;

    fn run(name: &str, scores: &[(u32, f64)]) -> RunScores {
        let by_story = scores.iter().map(|(story, score)| StoryScores {
            story: format!("s{story}"),
            shots_missing: 0,
            metrics: BTreeMap::from([(Metric::Consistency, *score)]),
        });
        RunScores {
            run: name.into(),
            stories: scores.len(),
            shots: 8 * scores.len(),
            shots_missing: 0,
            metrics: BTreeMap::new(),
            attribute_consistency: BTreeMap::new(),
            attribute_right: BTreeMap::new(),
            by_story: by_story.collect(),
        }
    }

    #[test]
    fn stories_are_paired_by_their_ids() {
        let baseline = run("a", &[(1, 0.2), (2, 0.4), (3, 0.6)]);
        let better = run("b", &[(3, 0.9), (2, 0.6), (1, 0.3), (9, 0.0)]);
        let comparison = compare(&better, &baseline).unwrap();
        assert_eq!(comparison.stories, 3);
        let change = comparison.metrics[&Metric::Consistency];
        assert!((change.difference.value - 0.2).abs() < 1e-12);
        // Every story gains half: no resample differs, however far stories are apart.
        let relative = change.relative.unwrap();
        for share in [relative.value, relative.low, relative.high] {
            assert!((share - 0.5).abs() < 1e-9, "{change:?}");
        }
    }

    #[test]
    fn nothing_is_a_share_of_nothing() {
        let nothing = run("a", &[(1, 0.0), (2, 0.0)]);
        for other in [&nothing, &run("b", &[(1, 0.5), (2, 0.0)])] {
            let comparison = compare(other, &nothing).unwrap();
            let change = comparison.metrics[&Metric::Consistency];
            assert_eq!(change.relative, None, "{change:?}");
            assert!(change.difference.value.is_finite());
        }
        // A baseline that every fourth resample finds empty.
        let rare = run("c", &[(1, 0.0), (2, 0.1)]);
        let comparison = compare(&run("b", &[(1, 0.5), (2, 0.5)]), &rare).unwrap();
        assert_eq!(comparison.metrics[&Metric::Consistency].relative, None);
    }

    #[test]
    fn runs_of_other_stories_are_refused() {
        let error = compare(&run("a", &[(1, 0.2)]), &run("b", &[(2, 0.2)]));
        assert!(matches!(error, Err(EvalError::NothingInCommon { .. })));
    }
}
