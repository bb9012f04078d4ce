//! What the sources of the orchestrator may not contain.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::path::{Path, PathBuf};

/// The sources below `folder` that are no tests, up to their test modules, by their paths below it.
fn sources(folder: &Path) -> Vec<(String, String)> {
    fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    collect(folder, &mut paths);
    paths.sort();
    let is_source = |path: &PathBuf| !path.ends_with("tests.rs");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        (name, text[..end].to_owned())
    };
    paths.into_iter().filter(is_source).map(read).collect()
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files that do not go through `Storage`, since what they open is not in a run folder: pictures of users,
/// plans beside a manifest, and folders of measurements.
const PAST_STORAGE: [&str; 5] = [
    "folder/input_file.rs",
    "run/inputs.rs",
    "run/planning/shelf.rs",
    "testing/bench.rs",
    "testing/pipeline.rs",
];

/// Object stores must need no change here. An exception that is not needed any more has to go.
#[test]
fn a_run_folder_is_read_and_written_through_storage() {
    let calls = [
        "std::fs",
        "symlink_metadata()",
        ".metadata()",
        ".is_file()",
        ".is_dir()",
        ".exists()",
        "ImageReader::open",
        "image_dimensions",
        "image::open",
    ];
    let found: Vec<(String, &str)> = sources(&crates().join("orchestrator/src"))
        .into_iter()
        .filter_map(|(name, text)| {
            let call = calls.into_iter().find(|call| text.contains(call))?;
            Some((name, call))
        })
        .collect();
    let is_in = |name: &str, exception: &str| name.starts_with(exception);
    for (name, call) in &found {
        let excepted = PAST_STORAGE.iter().any(|exception| is_in(name, exception));
        assert!(excepted, "{name} has {call}: use Storage");
    }
    for exception in PAST_STORAGE {
        let needed = found.iter().any(|(name, _)| is_in(name, exception));
        assert!(needed, "{exception} needs no exception any more");
    }
}

/// What runs stories knows no method and no network. The names of the options that a user may have
/// changed are the one exception.
#[test]
fn what_runs_stories_knows_no_method() {
    let places = [
        ("orchestrator/src", &["run/", "engine.rs"][..]),
        ("telemetry/src", &[""]),
        ("parallel/src", &[""]),
    ];
    let words = ["wan2", "wan ", "wan's", "t2v", "i2v", "storymem"];
    for (place, parts) in places {
        for (name, text) in sources(&crates().join(place)) {
            let is_part = parts.iter().any(|part| name.starts_with(part));
            if !is_part || name == "run/differences.rs" {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let line = line.to_lowercase();
                let word = words.iter().find(|word| line.contains(*word));
                assert_eq!(word, None, "{place}/{name}:{}", number + 1);
            }
        }
    }
}
