//! How well a reader reads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Reader, network};
use crate::clips::picture;
use crate::error::Result;
use crate::world::{Attribute, Split, Story};

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
    let (mut pictures, mut right, mut seen) = (0, BTreeMap::new(), BTreeMap::new());
    for seed in 0..stories {
        for shot in Story::draw(seed, split).shots {
            let drawn = [0.0, 0.5, 1.0].map(|moment| picture(&shot.scene, moment, network::SIZE));
            let drawn = drawn.into_iter().collect::<Result<Vec<_>>>()?;
            for reading in reader.read(&drawn)? {
                pictures += 1;
                for attribute in Attribute::ALL {
                    let Some(class) = attribute.of(&shot.scene) else {
                        continue;
                    };
                    *seen.entry(attribute.name()).or_insert(0_usize) += 1;
                    let is_right = reading.best(*attribute) == class;
                    *right.entry(attribute.name()).or_insert(0_usize) += usize::from(is_right);
                }
            }
        }
    }
    let share = |(name, seen): (&'static str, usize)| {
        (
            name,
            right.get(name).copied().unwrap_or(0) as f64 / seen as f64,
        )
    };
    Ok(Accuracy {
        stories,
        pictures,
        attributes: seen.into_iter().map(share).collect(),
    })
}
