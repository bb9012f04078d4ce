//! Remembered: of what a shot shows but its caption does not tell, the share that is as it was introduced.

use super::Measured;
use super::right::share_right;

pub(super) fn of(story: &Measured) -> Option<f64> {
    let shots = &story.reading.story.shots;
    share_right(story.reading, |shot, attribute| {
        !shots[shot].tells(attribute)
    })
}
