//! Samples of Narrative Weaver, there and back.

#![no_main]

#[path = "common/text.rs"]
#[expect(dead_code, reason = "the reader of lines belongs to other targets")]
mod text;

use libfuzzer_sys::fuzz_target;
use storyloom_story::narrative_weaver::read_samples;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (samples, findings) = read_samples("s", text, &());
    text::check("s", text, &findings.problems);
    for sample in &samples {
        let written = sample.line().expect("what is read can be written");
        let (again, findings) = read_samples("s", &written, &());
        assert!(findings.problems.is_empty(), "{written}: {findings:?}");
        assert_eq!(again.as_slice(), std::slice::from_ref(sample));
    }
});
