//! What is kept of a shot, and what a later shot sees of it: pure functions of each method.

pub mod storymem;
