//! Which words sources and documents do not have.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::path::{Path, PathBuf};

/// Words of this project's earlier days, beside those of the field that took their places. A name that Rust
/// or the field has taken keeps its meaning.
const WORDS: [(&str, &str); 20] = [
    ("night", "run"),
    ("nights", "runs"),
    ("tonight", "a name"),
    ("dawn", "end of the run"),
    ("trouble", "error"),
    ("troubles", "errors"),
    ("grave", "severe"),
    ("graver", "worse"),
    ("gravest", "most severe"),
    ("patience", "lease_timeout, collective_timeout or delays"),
    ("desk", "queue"),
    ("ballot", "attribute head"),
    ("recital", "stub models"),
    ("unsaid", "recovered"),
    ("whoever", "a reader, an operator, or any program that"),
    ("daring", "temperature"),
    ("so many", "n, or at most n"),
    ("as many as", "n, or at most n"),
    ("came and went", "disappeared"),
    ("nobody thought of", "unexpected"),
];

/// Names that types had, several of them each.
const TYPES: [&str; 13] = [
    "Crew", "Desk", "Guest", "Help", "Letter", "Makers", "Night", "Place", "Sealed", "Standing",
    "Studio", "Turn", "Work",
];

/// Names that functions had.
const FUNCTIONS: [&str; 2] = ["obey", "tell"];

/// Where a word of these may stand: below this path, and why.
const WORDS_THAT_STAY: [(&str, &str, &str); 20] = [
    (
        "crates/tinyworld/src/",
        "night",
        "a light of the drawn world",
    ),
    (
        "crates/tinyworld/src/",
        "Place",
        "a place of the drawn world",
    ),
    ("docs/tiny.md", "night", "a caption of the drawn world"),
    ("crates/models/src/tiny/", "night", "a word of a vocabulary"),
    ("crates/models/src/tiny/", "dawn", "a word of a vocabulary"),
    ("crates/models/src/tiny/", "desk", "a word of a vocabulary"),
    ("crates/planner/src/", "night", "a word of films"),
    ("crates/planner/src/", "dawn", "a word of films"),
    ("crates/planner/src/", "desk", "a word of films"),
    (
        "crates/parallel/src/element.rs",
        "Sealed",
        "nobody else may implement it",
    ),
    (
        "crates/parallel/src/frame.rs",
        "patience",
        "a name on the wire",
    ),
    (
        "crates/telemetry/src/shift/mod.rs",
        "patience",
        "a key of journals",
    ),
    (
        "crates/cli/src/config/",
        "patience",
        "a former key of an option",
    ),
    (
        "crates/orchestrator/src/folder/recorded.rs",
        "patience",
        "a former key of an option",
    ),
    (
        "crates/training/src/stages/flow/mod.rs",
        "ballot",
        "a name in checkpoints",
    ),
    ("docs/config.md", "patience", "a former key of an option"),
    (
        "docs/decisions/0007-nccl.md",
        "patience",
        "a record as it was made",
    ),
    (
        "docs/decisions/0024-a-table-of-options-per-method.md",
        "patience",
        "a former key of an option",
    ),
    ("CHANGELOG.md", "patience", "a former key of an option"),
    ("crates/orchestrator/tests/words.rs", "", "the list itself"),
];

/// Every text of the project that people read: sources with their tests, and documents.
fn texts() -> Vec<(String, String)> {
    fn collect(path: &Path, into: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                collect(&entry.unwrap().path(), into);
            }
        } else if path.extension().is_some_and(|ending| {
            ["rs", "md", "toml", "yml", "html", "css", "js", "sh"]
                .iter()
                .any(|known| ending == *known)
        }) {
            into.push(path.to_owned());
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let mut paths = Vec::new();
    for part in [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "README.md",
        "configs",
        "crates",
        "docs",
        "launch",
        "monitoring",
        "tests/system",
        "tests/fuzz/fuzz_targets",
    ] {
        collect(&root.join(part), &mut paths);
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        // Some test data is text in another encoding.
        Some((name, std::fs::read_to_string(path).ok()?))
    };
    paths.iter().filter_map(read).collect()
}

/// The words of the lists in a line: by letters alone, so that parts of names count.
fn words_in(line: &str) -> Vec<&'static str> {
    let is_letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let lower = line.to_ascii_lowercase();
    let stands_alone = |word: &str| {
        lower.match_indices(word).any(|(at, _)| {
            let bytes = lower.as_bytes();
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            !is_letter(before) && !is_letter(bytes.get(at + word.len()))
        })
    };
    let words = WORDS.iter().map(|(word, _)| *word);
    let mut found: Vec<&str> = words.filter(|word| stands_alone(word)).collect();
    let mut parts = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    while let Some(kind) = parts.next() {
        let names: &[&'static str] = match kind {
            "struct" | "enum" | "trait" | "type" => &TYPES,
            "fn" => &FUNCTIONS,
            _ => continue,
        };
        let declared = parts.next().unwrap_or_default();
        found.extend(names.iter().filter(|name| **name == declared));
    }
    found
}

/// A stranger searches for the words of the field. An exception that is not needed any more has to go.
#[test]
fn words_are_those_of_the_field() {
    let mut used = [false; WORDS_THAT_STAY.len()];
    let mut wrong = Vec::new();
    for (name, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            for word in words_in(line) {
                let stays = |(path, stay, _): &(&str, &str, &str)| {
                    name.starts_with(path) && (stay.is_empty() || *stay == word)
                };
                match WORDS_THAT_STAY.iter().position(stays) {
                    Some(place) => used[place] = true,
                    None => {
                        let instead = WORDS.iter().find(|(known, _)| *known == word);
                        let instead = instead.map_or("another name", |(_, instead)| instead);
                        wrong.push(format!("{name}:{}: {word}: write {instead}", number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let idle = WORDS_THAT_STAY.iter().zip(used).filter(|(_, used)| !used);
    let idle: Vec<_> = idle.map(|(stay, _)| stay).collect();
    assert!(idle.is_empty(), "needed no more: {idle:?}");
}

#[test]
fn words_are_found_in_names_and_not_in_other_words() {
    assert_eq!(words_in("let last_night = 1;"), ["night"]);
    assert_eq!(
        words_in("/// Whoever gets so many."),
        ["whoever", "so many"]
    );
    assert_eq!(words_in("pub(crate) struct Work<'a> {"), ["Work"]);
    assert_eq!(
        words_in("fn tell(&self) { nightly(); Workshop::new() }"),
        ["tell"]
    );
    assert!(words_in("struct Workshop; fn tells() {} // a gravel road").is_empty());
}
