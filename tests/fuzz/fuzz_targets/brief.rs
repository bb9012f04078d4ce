//! Briefs, and their words without what is no word.

#![no_main]

#[path = "common/text.rs"]
#[expect(dead_code, reason = "the reader of lines belongs to other targets")]
mod text;

use libfuzzer_sys::fuzz_target;
use storyloom_story::read_briefs;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (briefs, problems) = read_briefs(text, "b");
    text::check("b", text, &problems);
    for brief in &briefs {
        let plain = brief.in_plain_words();
        assert_eq!(plain.in_plain_words(), plain, "words are cleaned once");
        assert_eq!(plain.kind(), brief.kind());
        let written = serde_json::to_string(brief).expect("briefs can be written");
        let (again, problems) = read_briefs(&written, "b");
        assert_eq!(
            (again.len(), problems.len()),
            (1, 0),
            "{written}: {problems:?}"
        );
        assert_eq!(&again[0], brief);
    }
});
