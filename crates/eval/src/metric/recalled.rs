//! Recalled: the same as remembered, of things that neither of the two shots before shows.

use super::Measured;
use super::right::share_right;

pub(super) fn of(story: &Measured) -> Option<f64> {
    let told = &story.reading.story;
    share_right(story.reading, |shot, attribute| {
        told.recalls(shot).any(|(far, _)| far == attribute)
    })
}
