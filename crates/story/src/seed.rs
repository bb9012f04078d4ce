//! Where the randomness of a shot comes from.

use serde::{Deserialize, Serialize};

use crate::ids::{ShotId, StoryId};

/// The seed of one attempt at one shot, or at the plan of a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// Derives the seed of an attempt as the first eight bytes (little endian) of
    /// `blake3(run seed, story id, scene, shot, attempt)`.
    ///
    /// The same shot has the same seed wherever and whenever it is made.
    pub fn derive(run_seed: u64, story: &StoryId, shot: ShotId, attempt: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"storyloom shot seed 1\0");
        hasher.update(&run_seed.to_le_bytes());
        hasher.update(&(story.as_str().len() as u64).to_le_bytes());
        hasher.update(story.as_str().as_bytes());
        hasher.update(&shot.scene.to_le_bytes());
        hasher.update(&shot.shot.to_le_bytes());
        hasher.update(&attempt.to_le_bytes());
        Self::first_bytes(&hasher)
    }

    /// Derives the seed of an attempt at planning a story, as [`Seed::derive`] does for a shot:
    /// the first eight bytes (little endian) of `blake3(run seed, story id, attempt)` under a name
    /// of its own, so that no plan shares a seed with a shot.
    pub fn derive_plan(run_seed: u64, story: &StoryId, attempt: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"storyloom plan seed 1\0");
        hasher.update(&run_seed.to_le_bytes());
        hasher.update(&(story.as_str().len() as u64).to_le_bytes());
        hasher.update(story.as_str().as_bytes());
        hasher.update(&attempt.to_le_bytes());
        Self::first_bytes(&hasher)
    }

    fn first_bytes(hasher: &blake3::Hasher) -> Self {
        let mut first = [0_u8; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_name_changes_the_seed() {
        let story = |id: &str| StoryId::new(id).unwrap();
        let shot = |scene, shot| ShotId { scene, shot };
        let seeds = [
            Seed::derive(0, &story("a"), shot(1, 1), 0),
            Seed::derive(1, &story("a"), shot(1, 1), 0),
            Seed::derive(0, &story("b"), shot(1, 1), 0),
            Seed::derive(0, &story("a"), shot(2, 1), 0),
            Seed::derive(0, &story("a"), shot(1, 2), 0),
            Seed::derive(0, &story("a"), shot(1, 1), 1),
            Seed::derive_plan(0, &story("a"), 0),
            Seed::derive_plan(1, &story("a"), 0),
            Seed::derive_plan(0, &story("b"), 0),
            Seed::derive_plan(0, &story("a"), 1),
        ];
        let distinct: std::collections::HashSet<_> = seeds.iter().collect();
        assert_eq!(distinct.len(), seeds.len());
        assert_eq!(seeds[0], Seed::derive(0, &story("a"), shot(1, 1), 0));
    }

    /// Records name their seeds: those of earlier builds are made again with the same ones.
    #[test]
    fn seeds_of_earlier_builds_stay() {
        let story = StoryId::new("ad-heart-mug").unwrap();
        let shot = ShotId { scene: 2, shot: 3 };
        let seeds = [
            Seed::derive(7, &story, shot, 0),
            Seed::derive(u64::MAX, &story, shot, 2),
            Seed::derive_plan(7, &story, 1),
        ];
        assert_eq!(
            seeds.map(|seed| seed.0),
            [
                9_494_730_332_813_193_148,
                17_096_242_253_161_581_486,
                15_628_084_123_353_475_289
            ]
        );
    }
}
