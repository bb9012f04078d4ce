//! Scores of stories and runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::folder::StoryReading;
use super::interval::Interval;
use super::metric::{Measured, Metric, Share, each_right};

/// The scores of one story; a metric is missing where the story has nothing to measure it on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoryScores {
    /// The story's id.
    pub story: String,
    /// Shots that were not made.
    pub shots_missing: usize,
    /// The scores.
    pub metrics: BTreeMap<Metric, f64>,
}

/// The scores of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunScores {
    /// The run folder.
    pub run: PathBuf,
    /// Stories that were measured.
    pub stories: usize,
    /// Shots that were measured.
    pub shots: usize,
    /// Shots that were not made.
    pub shots_missing: usize,
    /// Means over stories.
    pub metrics: BTreeMap<Metric, Interval>,
    /// Of each remembered attribute: the share of pairs of shots in which it looks alike.
    pub attribute_consistency: BTreeMap<&'static str, f64>,
    /// Of each attribute: the share of shots that show it as they should, told or not.
    pub attribute_right: BTreeMap<&'static str, f64>,
    /// Each story.
    #[serde(skip)]
    pub by_story: Vec<StoryScores>,
}

/// The scores of one story.
pub fn score_story(reading: &StoryReading) -> StoryScores {
    let measured = Measured::new(reading);
    let metrics = Metric::ALL.iter();
    StoryScores {
        story: reading.story.id.to_string(),
        shots_missing: reading.shots.iter().filter(|shot| shot.is_none()).count(),
        metrics: metrics
            .filter_map(|&metric| Some((metric, metric.of(&measured)?)))
            .collect(),
    }
}

/// The scores of a run.
pub fn score_run<'a>(
    run: &Path,
    readings: impl IntoIterator<Item = &'a StoryReading>,
) -> RunScores {
    let readings: Vec<&StoryReading> = readings.into_iter().collect();
    let by_story: Vec<StoryScores> = readings.iter().copied().map(score_story).collect();
    let mut alike: BTreeMap<&'static str, Share> = BTreeMap::new();
    let mut right: BTreeMap<&'static str, Share> = BTreeMap::new();
    for &reading in &readings {
        for (attribute, is_alike) in Measured::new(reading)
            .pairs
            .iter()
            .flat_map(|pair| &pair.alike)
        {
            alike.entry(attribute.name()).or_default().count(*is_alike);
        }
        each_right(reading, |_, attribute, is_right| {
            right.entry(attribute.name()).or_default().count(is_right);
        });
    }
    let values = |shares: BTreeMap<&'static str, Share>| {
        let known = shares.into_iter();
        known
            .filter_map(|(name, share)| Some((name, share.value()?)))
            .collect()
    };
    let metrics = Metric::ALL.iter().filter_map(|&metric| {
        let scores = by_story.iter();
        let scores: Vec<f64> = scores
            .filter_map(|story| story.metrics.get(&metric).copied())
            .collect();
        Some((metric, Interval::mean(&scores)?))
    });
    RunScores {
        run: run.to_owned(),
        stories: readings.len(),
        shots: readings
            .iter()
            .flat_map(|reading| reading.shots.iter().flatten())
            .count(),
        shots_missing: by_story.iter().map(|story| story.shots_missing).sum(),
        metrics: metrics.collect(),
        attribute_consistency: values(alike),
        attribute_right: values(right),
        by_story,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use storyloom_tinyworld::{Draw, Scene, Split, Story, Subject};
    use storyloom_training::reader::Reading;

    use super::*;

    /// The same shot with things of the same kinds that are random otherwise: what a model without
    /// memory makes of a caption that only names them.
    pub fn forgetful(scene: &Scene, draw: &mut Draw) -> Scene {
        let mut scene = *scene;
        let product = |kind, draw: &mut Draw| loop {
            let other = Split::HeldOut.product(draw);
            if other.kind == kind {
                return other;
            }
        };
        let character = |role, draw: &mut Draw| loop {
            let other = Split::HeldOut.character(draw);
            if other.role == role {
                return other;
            }
        };
        scene.subject = match scene.subject {
            Subject::Product(old) => Subject::Product(product(old.kind, draw)),
            Subject::Character(old) => Subject::Character(character(old.role, draw)),
            Subject::Both(who, what) => {
                Subject::Both(character(who.role, draw), product(what.kind, draw))
            }
        };
        scene
    }

    fn readings(look: impl Fn(&Scene, &mut Draw) -> Scene) -> Vec<StoryReading> {
        let mut draw = Draw::new(1, 1);
        let mut reading = |seed| {
            let story = Story::draw(seed, Split::HeldOut);
            let shots = story.shots.iter();
            let shots = shots.map(|shot| Some(Reading::certain(&look(&shot.scene, &mut draw))));
            StoryReading {
                shots: shots.collect(),
                selections: vec![None; story.shots.len()],
                story,
            }
        };
        (0..40).map(&mut reading).collect()
    }

    #[test]
    fn perfect_pictures_score_one_everywhere() {
        let run = score_run(Path::new("run"), &readings(|scene, _| *scene));
        assert_eq!((run.stories, run.shots, run.shots_missing), (40, 320, 0));
        let unread = Metric::ALL
            .iter()
            .filter(|metric| !run.metrics.contains_key(metric));
        assert!(
            unread
                .map(|metric| metric.name())
                .all(|name| name.ends_with("frames that hold it"))
        );
        for (metric, interval) in &run.metrics {
            assert_eq!([interval.value, interval.low], [1.0, 1.0], "{metric:?}");
        }
        assert!(run.attribute_right.values().all(|&share| share == 1.0));
    }

    #[test]
    fn without_memory_looks_are_alike_by_chance() {
        let run = score_run(Path::new("run"), &readings(forgetful));
        // Two of eight colours are alike once in eight times, of three skins once in three.
        let alike = |name: &str| run.attribute_consistency[name];
        assert!(
            (alike("product-body") - 0.125).abs() < 0.08,
            "{}",
            alike("product-body")
        );
        assert!(
            (alike("clothes") - 0.125).abs() < 0.08,
            "{}",
            alike("clothes")
        );
        assert!(
            (alike("skin") - 1.0 / 3.0).abs() < 0.12,
            "{}",
            alike("skin")
        );
        // Places are as they should be here; nothing of products and characters is whole.
        assert_eq!(alike("place-colour"), 1.0);
        let mean = |metric| run.metrics[&metric].value;
        assert!(mean(Metric::Consistency) < 0.75, "{:?}", run.metrics);
        assert!(mean(Metric::Identity) < mean(Metric::Consistency));
        // What captions tell at first is missed as well, but most of what they tell is there.
        assert!(
            (0.75..0.97).contains(&mean(Metric::PromptFollowing)),
            "{:?}",
            run.metrics
        );
        assert!(mean(Metric::Remembered) < 0.6, "{:?}", run.metrics);
    }

    #[test]
    fn shots_that_were_not_made_are_counted_and_left_out() {
        let mut readings = readings(|scene, _| *scene);
        for reading in &mut readings {
            reading.shots[3..].fill(None);
        }
        let run = score_run(Path::new("run"), &readings);
        assert_eq!((run.shots, run.shots_missing), (120, 200));
        assert_eq!(run.metrics[&Metric::Consistency].value, 1.0);
        readings[0].shots.fill(None);
        assert!(score_story(&readings[0]).metrics.is_empty());
    }
}
