//! Manifests of JSON lines, with the scripts that they name.

#![no_main]

#[path = "common/text.rs"]
mod text;

use libfuzzer_sys::fuzz_target;
use storyloom_story::Layout;

fuzz_target!(|bytes: &[u8]| text::lines(bytes, Layout::JsonLines));
