//! What holds for everything that is read of people's text.

use storyloom_story::{Layout, Line, Problem, parse_script, read_lines};

/// A script for every line that names one.
const SCRIPT: &str = include_str!("../../../../manifests/scripts/paper-fox.json");

/// Reads lines of a manifest.
pub fn lines(bytes: &[u8], layout: Layout) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let script = |path: &str| match path.ends_with(".json") {
        true => Ok(SCRIPT.to_owned()),
        false => Err("there is none".to_owned()),
    };
    let (lines, findings) = read_lines("m", text, layout, &script);
    check("m", text, &findings.problems);
    check("m", text, &findings.warnings);
    for location in findings.locations.values() {
        assert!(location.line >= 1 && location.span.0 <= text.len());
    }
    // Something was read, or somebody is told why not.
    assert!(!lines.is_empty() || !findings.problems.is_empty() || !findings.left_out.is_empty());
    for line in &lines {
        if let Line::Story(story) = line {
            let script = serde_json::to_string(&story.script).expect("scripts can be written");
            let again = parse_script("s", &script).expect("what was read can be read again");
            assert_eq!(again, story.script);
        }
    }
}

/// Problems lie inside of their text, in order, and can be told.
pub fn check(file: &str, text: &str, problems: &[Problem]) {
    for problem in problems.iter().filter(|problem| problem.file == file) {
        let (start, _) = problem.span;
        assert!(text.is_char_boundary(start), "{problem}");
        assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
        assert!(problem.line <= text.split('\n').count(), "{problem}");
        assert!(!problem.to_string().is_empty());
    }
}
