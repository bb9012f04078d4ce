//! Scores of stories and runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use storyloom_tinyworld::{Attribute, Owner, Shot};

use super::folder::StoryReading;
use super::interval::Interval;

/// Pairs of shots that count as the most related ones of a story.
const RELATED: usize = 10;

/// What is measured of a story; every figure is a share from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Over pairs of shots that show the same thing: the share of its remembered attributes that
    /// look alike in both.
    Consistency,
    /// The same over the ten pairs whose captions are most alike.
    ConsistencyRelated,
    /// Over pairs of shots that show the same thing: whether all remembered attributes of all such
    /// things look alike.
    Identity,
    /// The same over the ten pairs whose captions are most alike.
    IdentityRelated,
    /// Over what a shot shows but its caption does not tell: the share that is as it was introduced.
    Remembered,
    /// Over what captions tell: the share that is to be seen.
    PromptFollowing,
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: &'static [Self] = &[
        Self::Consistency,
        Self::ConsistencyRelated,
        Self::Identity,
        Self::IdentityRelated,
        Self::Remembered,
        Self::PromptFollowing,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consistency => "consistency, all pairs",
            Self::ConsistencyRelated => "consistency, ten most related pairs",
            Self::Identity => "identity, all pairs",
            Self::IdentityRelated => "identity, ten most related pairs",
            Self::Remembered => "remembered",
            Self::PromptFollowing => "prompt following",
        }
    }
}

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

/// Counts of what is and what could be.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    is: usize,
    of: usize,
}

impl Share {
    fn count(&mut self, is: bool) {
        self.is += usize::from(is);
        self.of += 1;
    }

    fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.is as f64 / self.of as f64)
    }
}

/// Whether `shot`'s caption tells `attribute`.
pub(super) fn is_told(shot: &Shot, attribute: Attribute) -> bool {
    !attribute.is_remembered()
        || match attribute.owner() {
            Owner::Product => shot.news.product,
            Owner::Character => shot.news.character,
            Owner::Place => shot.news.place,
            Owner::Shot => true,
        }
}

/// Two shots that show the same thing.
struct Pair {
    /// How much their captions have in common.
    relation: f64,
    /// Each remembered attribute of what both show, and whether it looks alike.
    alike: Vec<(Attribute, bool)>,
}

fn pairs(reading: &StoryReading) -> Vec<Pair> {
    let shots: Vec<_> = reading.story.shots.iter().zip(&reading.shots).collect();
    let mut pairs = Vec::new();
    for (position, (first, first_read)) in shots.iter().enumerate() {
        for (second, second_read) in &shots[position + 1..] {
            let (Some(first_read), Some(second_read)) = (first_read, second_read) else {
                continue;
            };
            let shared = Attribute::ALL.iter().filter(|attribute| {
                attribute.is_remembered() && shows_the_same(first, second, **attribute)
            });
            let alike: Vec<(Attribute, bool)> = shared
                .map(|&attribute| {
                    let alike = first_read.best(attribute) == second_read.best(attribute);
                    (attribute, alike)
                })
                .collect();
            if !alike.is_empty() {
                let relation = relation(&first.caption, &second.caption);
                pairs.push(Pair { relation, alike });
            }
        }
    }
    pairs
}

/// Whether both shots show the thing that `attribute` belongs to.
fn shows_the_same(first: &Shot, second: &Shot, attribute: Attribute) -> bool {
    let both = attribute.of(&first.scene).zip(attribute.of(&second.scene));
    match attribute.owner() {
        Owner::Place => first.scene.place == second.scene.place,
        _ => both.is_some(),
    }
}

/// Words that two captions share, of all their words.
fn relation(first: &str, second: &str) -> f64 {
    let set = |caption: &str| -> BTreeSet<String> {
        let words = caption.split(|letter: char| !letter.is_alphabetic());
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (first, second) = (set(first), set(second));
    let all = first.union(&second).count().max(1);
    first.intersection(&second).count() as f64 / all as f64
}

/// Mean share of alike attributes of `pairs`, and share of pairs in which all are alike.
fn agreement(pairs: &[&Pair]) -> Option<(f64, f64)> {
    if pairs.is_empty() {
        return None;
    }
    let (mut share, mut whole) = (0.0, 0.0);
    for pair in pairs {
        let alike = pair.alike.iter().filter(|(_, alike)| *alike).count();
        share += alike as f64 / pair.alike.len() as f64;
        whole += f64::from(u8::from(alike == pair.alike.len()));
    }
    let count = pairs.len() as f64;
    Some((share / count, whole / count))
}

/// The scores of one story.
pub fn score_story(reading: &StoryReading) -> StoryScores {
    let mut metrics = BTreeMap::new();
    let pairs = pairs(reading);
    let mut sorted: Vec<&Pair> = pairs.iter().collect();
    if let Some((share, whole)) = agreement(&sorted) {
        metrics.insert(Metric::Consistency, share);
        metrics.insert(Metric::Identity, whole);
    }
    // A stable sort: of equals the earlier pair.
    sorted.sort_by(|a, b| b.relation.total_cmp(&a.relation));
    sorted.truncate(RELATED);
    if let Some((share, whole)) = agreement(&sorted) {
        metrics.insert(Metric::ConsistencyRelated, share);
        metrics.insert(Metric::IdentityRelated, whole);
    }
    let (mut told, mut remembered) = (Share::default(), Share::default());
    each_right(reading, |shot, attribute, right| {
        match is_told(shot, attribute) {
            true => told.count(right),
            false => remembered.count(right),
        }
    });
    let shares = [
        (Metric::PromptFollowing, told),
        (Metric::Remembered, remembered),
    ];
    for (metric, share) in shares {
        metrics.extend(share.value().map(|value| (metric, value)));
    }
    StoryScores {
        story: reading.story.id.to_string(),
        shots_missing: reading.shots.iter().filter(|shot| shot.is_none()).count(),
        metrics,
    }
}

/// Calls `visit` with every attribute that a made shot should show, and whether it does.
fn each_right(reading: &StoryReading, mut visit: impl FnMut(&Shot, Attribute, bool)) {
    for (shot, read) in reading.story.shots.iter().zip(&reading.shots) {
        let Some(read) = read else { continue };
        for &attribute in Attribute::ALL {
            if let Some(class) = attribute.of(&shot.scene) {
                visit(shot, attribute, read.best(attribute) == class);
            }
        }
    }
}

/// The scores of a run.
pub fn score_run(run: &Path, readings: &[StoryReading]) -> RunScores {
    let by_story: Vec<StoryScores> = readings.iter().map(score_story).collect();
    let mut alike: BTreeMap<&'static str, Share> = BTreeMap::new();
    let mut right: BTreeMap<&'static str, Share> = BTreeMap::new();
    for reading in readings {
        for (attribute, is_alike) in pairs(reading).iter().flat_map(|pair| &pair.alike) {
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
            let shots = shots.collect();
            StoryReading { story, shots }
        };
        (0..40).map(&mut reading).collect()
    }

    #[test]
    fn perfect_pictures_score_one_everywhere() {
        let run = score_run(Path::new("run"), &readings(|scene, _| *scene));
        assert_eq!((run.stories, run.shots, run.shots_missing), (40, 320, 0));
        assert_eq!(run.metrics.len(), Metric::ALL.len());
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

    #[test]
    fn the_most_related_pairs_share_most_words() {
        assert_eq!(relation("the mug stands.", "the mug stands."), 1.0);
        assert_eq!(relation("the red mug", "a lamp"), 0.0);
        assert!((relation("the mug stands", "the mug rocks") - 0.5).abs() < 1e-12);
    }
}
