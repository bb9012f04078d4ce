//! How like the frames of a history are to a caption and to the shots of its characters, without tensors.

use storyloom_story::HostTensor;

/// What is seen of the frames of a shot, vectors of length 1 in f32.
#[derive(Debug, Clone)]
pub(super) struct Features {
    /// By CLIP, `[T, projection]`.
    pub(super) clip: HostTensor,
    /// By DINOv2, `[T, width]`.
    pub(super) dino: HostTensor,
}

/// One score for each frame of `shots`, in the order of shots and then of time: half of its cosine to `caption` and half
/// of its cosine to the mean of all frames of the shots at the places `related`. Where these are none, or their mean
/// is zero, the second half is 0. Sums are f64.
pub(super) fn likeness(caption: &[f32], shots: &[Features], related: &[u32]) -> Vec<f32> {
    let related = related
        .iter()
        .filter_map(|&place| shots.get(place as usize));
    let mean = direction(related.map(|shot| &shot.dino));
    let frames = shots
        .iter()
        .flat_map(|shot| rows(&shot.clip).zip(rows(&shot.dino)));
    let score = |(clip, dino): (&[f32], &[f32])| {
        let character = mean.as_deref().map_or(0.0, |mean| {
            let products = dino.iter().zip(mean);
            products.map(|(&a, b)| f64::from(a) * b).sum()
        });
        let products = clip.iter().zip(caption);
        let text: f64 = products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        ((text + character) / 2.0).clamp(-1.0, 1.0) as f32
    };
    frames.map(score).collect()
}

/// The mean of all rows of the tables, of length 1; `None` where there is none or it is zero.
fn direction<'a>(tables: impl Iterator<Item = &'a HostTensor>) -> Option<Vec<f64>> {
    let mut sum: Vec<f64> = Vec::new();
    for row in tables.flat_map(rows) {
        sum.resize(row.len(), 0.0);
        for (sum, &value) in sum.iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    (length > 0.0).then(|| sum.iter().map(|value| value / length).collect())
}

/// The rows of a table `[rows, width]`.
fn rows(table: &HostTensor) -> impl Iterator<Item = &[f32]> {
    let width = table.shape().last().copied().unwrap_or(1).max(1);
    table.data().chunks_exact(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[f32; 2]]) -> HostTensor {
        HostTensor::new(vec![rows.len(), 2], rows.concat()).unwrap()
    }

    fn shot(clip: &[[f32; 2]], dino: &[[f32; 2]]) -> Features {
        Features {
            clip: table(clip),
            dino: table(dino),
        }
    }

    const CAPTION: [f32; 2] = [1.0, 0.0];
    const ALONG: [f32; 2] = [1.0, 0.0];
    const ACROSS: [f32; 2] = [0.0, 1.0];
    const BETWEEN: [f32; 2] = [0.6, 0.8];

    /// Worked out by hand: both frames of the related shot point along, so that its mean does.
    #[test]
    fn half_is_the_caption_and_half_the_shots_of_the_same_character() {
        let shots = [
            shot(&[ALONG, ACROSS], &[ALONG, ALONG]),
            shot(&[BETWEEN, ALONG], &[ACROSS, BETWEEN]),
        ];
        let scores = likeness(&CAPTION, &shots, &[0]);
        assert_eq!(scores, [1.0, 0.5, 0.3, 0.8]);
        // The mean of both shots is (2.6, 1.8) of length 3.162.
        let scores = likeness(&CAPTION, &shots, &[0, 1]);
        let along = 2.6 / (2.6_f32 * 2.6 + 1.8 * 1.8).sqrt();
        assert!((scores[0] - (1.0 + along) / 2.0).abs() < 1e-6, "{scores:?}");
        assert!(scores[2] > likeness(&CAPTION, &shots, &[0])[2]);
    }

    #[test]
    fn without_a_shot_of_the_same_character_the_caption_decides() {
        let shots = [shot(&[ALONG, ACROSS, [-1.0, 0.0]], &[ALONG; 3])];
        assert_eq!(likeness(&CAPTION, &shots, &[]), [0.5, 0.0, -0.5]);
        // Frames that look into opposite directions have no mean, and places that are not there say nothing.
        let opposite = [shot(&[ALONG, ACROSS], &[ALONG, [-1.0, 0.0]])];
        assert_eq!(likeness(&CAPTION, &opposite, &[0]), [0.5, 0.0]);
        assert_eq!(likeness(&CAPTION, &opposite, &[7]), [0.5, 0.0]);
        assert!(likeness(&CAPTION, &[], &[0]).is_empty());
    }

    /// Specification `onestory`, section 8, item 13: of flat colours A, B, A' the frames of A are chosen by a caption
    /// that is like A.
    #[test]
    fn what_is_inserted_scores_lower_than_what_is_recalled() {
        let a = shot(&[ALONG; 2], &[ALONG; 2]);
        let b = shot(&[ACROSS; 2], &[ACROSS; 2]);
        let scores = likeness(&CAPTION, &[a, b], &[0]);
        assert!(scores[..2].iter().all(|score| *score > scores[2]));
        assert_eq!(scores[2..], [0.0, 0.0]);
    }
}
