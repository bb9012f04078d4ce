//! Manifests that are tables, with a separator that is guessed and one that is not.

#![no_main]

#[path = "common/text.rs"]
mod text;

use libfuzzer_sys::fuzz_target;
use storyloom_story::{Layout, Separator};

fuzz_target!(|bytes: &[u8]| {
    text::lines(bytes, Layout::Table(Separator::Guessed));
    text::lines(bytes, Layout::Table(Separator::Tab));
});
