//! Scripts of stories.

#![no_main]

#[path = "common/text.rs"]
#[expect(dead_code, reason = "the reader of lines belongs to other targets")]
mod text;

use libfuzzer_sys::fuzz_target;
use storyloom_story::parse_script;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match parse_script("s", text) {
        Ok(script) => {
            assert_eq!(script.shots().count(), script.shot_count());
            let written = serde_json::to_string(&script).expect("scripts can be written");
            let again = parse_script("s", &written).expect("what was read can be read again");
            assert_eq!(again, script);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            text::check("s", text, &problems);
        }
    }
});
