//! How well a reader reads.

use std::collections::BTreeMap;

use serde::Serialize;
use storyloom_tinyworld::{Attribute, Scene, Split, Story};

use super::{Reader, Reading, network};
use crate::clips::picture;
use crate::error::Result;

/// The share of right readings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// Stories that were drawn.
    pub stories: u64,
    /// Pictures that were read.
    pub pictures: usize,
    /// By attribute, over the pictures that show it.
    pub attributes: BTreeMap<&'static str, f64>,
}

impl Accuracy {
    /// That of the attribute that is read worst.
    pub fn least(&self) -> f64 {
        self.attributes.values().copied().fold(1.0, f64::min)
    }

    /// The mean over attributes.
    pub fn mean(&self) -> f64 {
        self.attributes.values().sum::<f64>() / self.attributes.len().max(1) as f64
    }
}

/// Reads the first, the middle and the last picture of every shot of `stories` stories, drawn
/// perfectly, each picture alone.
pub fn measure(reader: &Reader, split: Split, stories: u64) -> Result<Accuracy> {
    let mut tally = Tally::default();
    for seed in 0..stories {
        for shot in Story::draw(seed, split).shots {
            let drawn = [0.0, 0.5, 1.0].map(|moment| picture(&shot.scene, moment, network::SIZE));
            let drawn = drawn.into_iter().collect::<Result<Vec<_>>>()?;
            for reading in reader.read(&drawn)? {
                tally.note(&shot.scene, &reading);
            }
        }
    }
    Ok(tally.accuracy(stories))
}

/// Readings beside what there was to read.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    readings: usize,
    /// Right ones and all, by attribute.
    counts: BTreeMap<&'static str, (usize, usize)>,
}

impl Tally {
    /// One more reading, of `scene`.
    pub(crate) fn note(&mut self, scene: &Scene, reading: &Reading) {
        self.readings += 1;
        for attribute in Attribute::ALL {
            let Some(class) = attribute.of(scene) else {
                continue;
            };
            let (right, all) = self.counts.entry(attribute.name()).or_default();
            *right += usize::from(reading.best(*attribute) == class);
            *all += 1;
        }
    }

    /// What came out, over `stories` stories.
    pub(crate) fn accuracy(self, stories: u64) -> Accuracy {
        let share = |(name, (right, all))| (name, right as f64 / all as f64);
        Accuracy {
            stories,
            pictures: self.readings,
            attributes: self.counts.into_iter().map(share).collect(),
        }
    }
}
