//! What shots should show, and whether they do.

use storyloom_tinyworld::Attribute;

use super::Share;
use crate::folder::StoryReading;

/// Calls `visit` with every attribute that a made shot should show, by the number of the shot from 0, and
/// whether it does.
pub(crate) fn each_right(reading: &StoryReading, mut visit: impl FnMut(usize, Attribute, bool)) {
    for (number, (shot, read)) in reading.story.shots.iter().zip(&reading.shots).enumerate() {
        let Some(read) = read else { continue };
        for &attribute in Attribute::ALL {
            if let Some(class) = attribute.of(&shot.scene) {
                visit(number, attribute, read.best(attribute) == class);
            }
        }
    }
}

/// The share of attributes that are shown as they should be, of those that `counts`.
pub(super) fn share_right(
    reading: &StoryReading,
    counts: impl Fn(usize, Attribute) -> bool,
) -> Option<f64> {
    let mut share = Share::default();
    each_right(reading, |shot, attribute, right| {
        if counts(shot, attribute) {
            share.count(right);
        }
    });
    share.value()
}
