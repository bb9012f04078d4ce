//! Identity: the share of pairs in which all remembered attributes look alike.

use super::Share;
use super::pairs::Pair;

pub(super) fn of<'a>(pairs: impl Iterator<Item = &'a Pair>) -> Option<f64> {
    let mut share = Share::default();
    for pair in pairs {
        share.count(pair.alike.iter().all(|(_, alike)| *alike));
    }
    share.value()
}
