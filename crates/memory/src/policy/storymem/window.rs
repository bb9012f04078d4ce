//! What a shot sees of the bank (StoryMem specification, sections 3.4 and 3.5).

use serde::{Deserialize, Serialize};

/// Similarity above which a picture adds nothing to the bank.
pub const ADMISSION_SIMILARITY: f32 = 0.9;

/// How much of the bank a shot sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSettings {
    /// Most pictures a shot sees; 0 turns memory off.
    pub max_images: usize,
    /// Of these, how many are always the oldest of the bank.
    pub sink: usize,
}

/// Positions in a bank of `stored` pictures that a shot sees, oldest first: the sink and the
/// newest, or everything while it fits.
pub fn window(stored: usize, settings: WindowSettings) -> Vec<usize> {
    let WindowSettings { max_images, sink } = settings;
    if stored <= max_images {
        return (0..stored).collect();
    }
    let sink = sink.min(max_images);
    let newest = max_images - sink;
    (0..sink).chain(stored - newest..stored).collect()
}

/// Whether a picture is new to the bank: no stored embedding is more similar than
/// [`ADMISSION_SIMILARITY`]. Embeddings are of unit length.
pub fn is_admitted<'a>(embedding: &[f32], stored: impl IntoIterator<Item = &'a [f32]>) -> bool {
    stored
        .into_iter()
        .all(|other| similarity(embedding, other) <= ADMISSION_SIMILARITY)
}

/// Dot product of two embeddings.
pub fn similarity(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(stored: usize, max_images: usize, sink: usize) -> Vec<usize> {
        window(stored, WindowSettings { max_images, sink })
    }

    /// Specification, section 10 item 8 and the vectors `bank_window`.
    #[test]
    fn sink_and_newest() {
        assert_eq!(seen(14, 10, 3), [0, 1, 2, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(seen(14, 8, 3), [0, 1, 2, 9, 10, 11, 12, 13]);
        assert_eq!(seen(10, 10, 3), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    /// The reference shows the whole bank when the sink fills the window; a window never grows.
    #[test]
    fn odd_settings_are_sane() {
        assert_eq!(seen(9, 3, 3), [0, 1, 2]);
        assert_eq!(seen(9, 3, 7), [0, 1, 2]);
        assert_eq!(seen(9, 0, 3), [] as [usize; 0]);
        assert_eq!(seen(9, 2, 0), [7, 8]);
    }

    /// Specification, section 10 items 13 and 14.
    #[test]
    fn admission_is_strict() {
        let bank: [&[f32]; 1] = [&[1.0, 0.0]];
        assert!(is_admitted(&[0.9, 0.435_889_9], bank));
        assert!(!is_admitted(&[0.900_001, 0.435_887_8], bank));
        assert!(is_admitted(&[0.0, 1.0], bank));
        assert!(is_admitted(&[1.0, 0.0], [] as [&[f32]; 0]));
    }

    proptest! {
        #[test]
        fn windows_are_ordered_and_bounded(stored in 0_usize..60, max in 0_usize..20, sink in 0_usize..20) {
            let seen = seen(stored, max, sink);
            prop_assert_eq!(seen.len(), stored.min(max));
            prop_assert!(seen.is_sorted_by(|a, b| a < b));
            prop_assert!(seen.iter().all(|&position| position < stored));
        }
    }
}
