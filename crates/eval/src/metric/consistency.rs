//! Consistency: the mean over pairs of the share of remembered attributes that look alike.

use super::pairs::Pair;

pub(super) fn of<'a>(pairs: impl Iterator<Item = &'a Pair>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for pair in pairs {
        let alike = pair.alike.iter().filter(|(_, alike)| *alike).count();
        sum += alike as f64 / pair.alike.len() as f64;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}
