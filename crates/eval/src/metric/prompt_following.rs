//! Prompt following: of what captions tell, the share that is to be seen.

use super::Measured;
use super::right::share_right;

pub(super) fn of(story: &Measured) -> Option<f64> {
    share_right(story.reading, true)
}
