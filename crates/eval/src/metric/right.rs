//! What shots should show, and whether they do.

use storyloom_tinyworld::{Attribute, Owner, Shot};

use super::Share;
use crate::folder::StoryReading;

/// Whether `shot`'s caption tells `attribute`.
pub(crate) fn is_told(shot: &Shot, attribute: Attribute) -> bool {
    !attribute.is_remembered()
        || match attribute.owner() {
            Owner::Product => shot.news.product,
            Owner::Character => shot.news.character,
            Owner::Place => shot.news.place,
            Owner::Shot => true,
        }
}

/// Calls `visit` with every attribute that a made shot should show, and whether it does.
pub(crate) fn each_right(reading: &StoryReading, mut visit: impl FnMut(&Shot, Attribute, bool)) {
    for (shot, read) in reading.story.shots.iter().zip(&reading.shots) {
        let Some(read) = read else { continue };
        for &attribute in Attribute::ALL {
            if let Some(class) = attribute.of(&shot.scene) {
                visit(shot, attribute, read.best(attribute) == class);
            }
        }
    }
}

/// The share of attributes that are shown as they should be, of those that captions tell, or of the
/// others.
pub(super) fn share_right(reading: &StoryReading, told: bool) -> Option<f64> {
    let mut share = Share::default();
    each_right(reading, |shot, attribute, right| {
        if is_told(shot, attribute) == told {
            share.count(right);
        }
    });
    share.value()
}
