//! How each method turns a memory window into conditions of a backbone.

pub mod storymem;
