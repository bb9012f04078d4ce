//! How a run ended.

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOutcome {
    /// Stories asked for.
    pub stories: usize,
    /// Stories that are done.
    pub done: usize,
    /// Stories that were given up for now.
    pub failed: usize,
    /// Stories that nobody tries again before they are released.
    pub quarantined: usize,
    /// Stories that are not what was made under their names, or whose scripts or pictures cannot be read:
    /// nothing of them was touched.
    pub set_aside: usize,
    /// Of those that are done, stories that were to remember and kept no keyframe.
    pub without_keyframes: usize,
    /// Of those that are done, stories that earlier starts have finished: of their files nothing but the
    /// sizes was looked at.
    pub finished_before: usize,
    /// Whether the run was asked to stop.
    pub stopped: bool,
}
