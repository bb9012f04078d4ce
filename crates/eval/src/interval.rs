//! Means with bootstrap intervals.

use serde::Serialize;
use storyloom_tinyworld::Draw;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// The stream of [`Draw`] that resampling uses; the seed is always 0.
const STREAM: u64 = 3;

/// A figure with its 95 % percentile bootstrap interval over stories.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The figure itself.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The mean of one value per story; `None` without a story.
    pub fn mean(values: &[f64]) -> Option<Self> {
        Self::of(values.len(), |stories| {
            stories.iter().map(|&story| values[story]).sum::<f64>() / stories.len() as f64
        })
    }

    /// `figure` of the stories `0..count`, and of resamples of them with repetition.
    pub fn of(count: usize, figure: impl Fn(&[usize]) -> f64) -> Option<Self> {
        if count == 0 {
            return None;
        }
        let mut stories: Vec<usize> = (0..count).collect();
        let value = figure(&stories);
        let mut draw = Draw::new(0, STREAM);
        let mut found: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                stories.fill_with(|| draw.below(count));
                figure(&stories)
            })
            .collect();
        found.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| found[(share * (RESAMPLES - 1) as f64).round() as usize];
        Some(Self {
            value,
            low: at(0.025),
            high: at(0.975),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let values: Vec<f64> = (0..200).map(|value| f64::from(value % 10)).collect();
        let interval = Interval::mean(&values).unwrap();
        assert!((interval.value - 4.5).abs() < 1e-12);
        // Deviation 2.872, standard error 0.203, times 1.96.
        assert!((interval.low - (4.5 - 0.398)).abs() < 0.05, "{interval:?}");
        assert!((interval.high - (4.5 + 0.398)).abs() < 0.05, "{interval:?}");
        assert_eq!(Interval::mean(&values), Some(interval));
    }

    #[test]
    fn one_story_has_no_spread_and_none_no_figure() {
        let interval = Interval::mean(&[0.25]).unwrap();
        assert_eq!([interval.low, interval.high], [0.25, 0.25]);
        assert_eq!(Interval::mean(&[]), None);
    }
}
