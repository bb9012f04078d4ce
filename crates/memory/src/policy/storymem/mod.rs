//! The memory of StoryMem (specification, section 3): keyframes are chosen by likeness and quality, and a
//! shot sees the oldest and the newest of them.

pub mod select;
pub mod window;
