//! Which frames of a shot become keyframes (StoryMem specification, section 3.2).

use serde::{Deserialize, Serialize};

use crate::policy::storymem::window::similarity;

/// The rule by which keyframes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SelectionRule {
    /// Frames unlike the keyframe before them, with a falling threshold.
    #[default]
    Semantic,
    /// The first good frame only; the paper's ablation "without semantic selection".
    FirstFrame,
}

/// What decides the choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SelectionSettings {
    /// The rule.
    pub rule: SelectionRule,
    /// Most keyframes of a shot.
    pub max_keyframes: usize,
    /// Similarity below which a frame is new, at first.
    pub similarity_start: f32,
    /// Frames of lower quality are never chosen.
    pub quality_threshold: f32,
}

/// The chosen frames and how they were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Indices of frames, in time order.
    pub frames: Vec<usize>,
    /// Passes over the shot.
    pub passes: usize,
    /// The threshold of the last pass.
    pub threshold: f32,
    /// The best quality of a frame, where none was good enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_quality: Option<f32>,
}

/// Chooses keyframes from unit-length embeddings and quality scores of all frames of a shot.
///
/// One pass keeps the first good frame, then every good frame whose similarity to the keyframe
/// before it is below the threshold. While more are kept than allowed, the threshold falls by a
/// hundredth. Index 1 is looked at only as a first frame, as in the reference.
pub fn select(embeddings: &[Vec<f32>], quality: &[f32], settings: &SelectionSettings) -> Selection {
    let good: Vec<bool> = quality
        .iter()
        .map(|&q| q >= settings.quality_threshold)
        .collect();
    let best_quality = match good.contains(&true) {
        true => None,
        false => quality.iter().copied().reduce(f32::max),
    };
    if settings.rule == SelectionRule::FirstFrame {
        let first = good.iter().position(|&good| good);
        let frames = first.into_iter().take(settings.max_keyframes).collect();
        return Selection {
            frames,
            passes: 1,
            threshold: settings.similarity_start,
            best_quality,
        };
    }
    // Steps are counted, not subtracted, so that the threshold is exact after many of them.
    for step in 0_u16.. {
        let threshold = lowered(settings.similarity_start, step);
        let frames = one_pass(embeddings, &good, threshold);
        // Below -1 nothing is ever dissimilar enough; one keyframe remains.
        if frames.len() <= settings.max_keyframes.max(1) {
            let frames = frames.into_iter().take(settings.max_keyframes).collect();
            return Selection {
                frames,
                passes: usize::from(step) + 1,
                threshold,
                best_quality,
            };
        }
    }
    Selection {
        frames: Vec::new(),
        passes: usize::from(u16::MAX),
        threshold: f32::NEG_INFINITY,
        best_quality,
    }
}

/// `start` less `steps` hundredths, as the nearest f32 of the decimal number.
fn lowered(start: f32, steps: u16) -> f32 {
    let hundredths = (f64::from(start) * 100.0).round();
    let is_decimal = (hundredths / 100.0) as f32 == start;
    let from = if is_decimal {
        hundredths
    } else {
        f64::from(start) * 100.0
    };
    ((from - f64::from(steps)) / 100.0) as f32
}

fn one_pass(embeddings: &[Vec<f32>], good: &[bool], threshold: f32) -> Vec<usize> {
    let Some(first) = good.iter().position(|&good| good) else {
        return Vec::new();
    };
    let mut kept = vec![first];
    let mut last = first;
    for index in 2.max(first + 1)..embeddings.len() {
        if good[index] && similarity(&embeddings[last], &embeddings[index]) < threshold {
            kept.push(index);
            last = index;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: SelectionSettings = SelectionSettings {
        rule: SelectionRule::Semantic,
        max_keyframes: 3,
        similarity_start: 0.9,
        quality_threshold: 3.0,
    };

    /// Frame i at `i * degrees` on a circle; `bad` frames score below the threshold.
    fn clip(degrees: f32, frames: usize, bad: &[usize]) -> (Vec<Vec<f32>>, Vec<f32>) {
        let embedding = |i: usize| {
            let angle = f64::from(degrees).to_radians() * i as f64;
            vec![angle.cos() as f32, angle.sin() as f32]
        };
        let quality = |i: usize| if bad.contains(&i) { 2.9 } else { 3.0 };
        (
            (0..frames).map(embedding).collect(),
            (0..frames).map(quality).collect(),
        )
    }

    fn selected(degrees: f32, frames: usize, bad: &[usize]) -> (Vec<usize>, usize) {
        let (embeddings, quality) = clip(degrees, frames, bad);
        let selection = select(&embeddings, &quality, &SETTINGS);
        (selection.frames, selection.passes)
    }

    /// Specification, section 10 items 9 to 12 and the vectors `keyframe_toy`.
    #[test]
    fn toy_clips() {
        assert_eq!(selected(12.0, 10, &[]), (vec![0, 4, 8], 11));
        assert_eq!(selected(12.0, 10, &[0, 1, 2]), (vec![3, 6, 9], 1));
        assert_eq!(selected(1.0, 81, &[]), (vec![0, 28, 56], 2));
        assert_eq!(selected(0.0, 20, &[]), (vec![0], 1));
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(selected(12.0, 10, &all), (vec![], 1));
    }

    #[test]
    fn the_best_quality_is_told_where_no_frame_is_good() {
        let (embeddings, quality) = clip(12.0, 10, &[0, 1]);
        for rule in [SelectionRule::Semantic, SelectionRule::FirstFrame] {
            let best = |quality: &[f32]| {
                select(
                    &embeddings,
                    quality,
                    &SelectionSettings { rule, ..SETTINGS },
                )
                .best_quality
            };
            assert_eq!(best(&quality), None);
            let bad: Vec<f32> = (0..10).map(|i| 1.0 + 0.25 * (i % 5) as f32).collect();
            assert_eq!(best(&bad), Some(2.0));
            assert_eq!(best(&[]), None);
        }
        // Records of earlier builds.
        let stored = r#"{"frames":[],"passes":1,"threshold":0.9}"#;
        let selection: Selection = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&selection).unwrap(), stored);
    }

    #[test]
    fn index_one_counts_only_as_the_first() {
        let (embeddings, quality) = clip(90.0, 2, &[]);
        assert_eq!(select(&embeddings, &quality, &SETTINGS).frames, [0]);
        let (embeddings, quality) = clip(90.0, 2, &[0]);
        assert_eq!(select(&embeddings, &quality, &SETTINGS).frames, [1]);
    }

    #[test]
    fn thresholds_are_exact_decimals() {
        let expected = [0.9_f32, 0.89, 0.88, 0.8, 0.5, 0.0, -0.1];
        let found = [0, 1, 2, 10, 40, 90, 100].map(|steps| lowered(0.9, steps));
        assert_eq!(found, expected);
    }

    #[test]
    fn first_frame_rule() {
        let (embeddings, quality) = clip(40.0, 9, &[0]);
        let settings = SelectionSettings {
            rule: SelectionRule::FirstFrame,
            ..SETTINGS
        };
        assert_eq!(select(&embeddings, &quality, &settings).frames, [1]);
    }

    proptest! {
        #[test]
        fn always_ends_within_the_limit(
            angles in prop::collection::vec(0.0_f64..360.0, 0..30),
            quality in prop::collection::vec(0.0_f32..6.0, 30),
            max_keyframes in 0_usize..5,
        ) {
            let embeddings: Vec<Vec<f32>> = angles
                .iter()
                .map(|a| vec![a.to_radians().cos() as f32, a.to_radians().sin() as f32])
                .collect();
            let settings = SelectionSettings { max_keyframes, ..SETTINGS };
            let quality = &quality[..embeddings.len()];
            let frames = select(&embeddings, quality, &settings).frames;
            prop_assert!(frames.len() <= max_keyframes);
            prop_assert!(frames.is_sorted_by(|a, b| a < b));
            prop_assert!(frames.iter().all(|&frame| quality[frame] >= 3.0));
        }
    }
}
