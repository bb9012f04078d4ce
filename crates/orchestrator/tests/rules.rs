//! What the sources of the orchestrator may not contain, and which words no source or document has.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::{BTreeMap, BTreeSet};
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

/// Files that do not go through `Storage`. Those of the first group open what is not in a run folder:
/// pictures of users, plans beside a manifest, and folders of measurements. Those of the second are the
/// storage of disks, the look at what a disk can do, and the index, which is a database on one.
const PAST_STORAGE: [&str; 7] = [
    "orchestrator/src/folder/input_file.rs",
    "orchestrator/src/run/planning/shelf.rs",
    "orchestrator/src/testing/bench.rs",
    "orchestrator/src/testing/pipeline.rs",
    //
    "memory/src/ledger/index.rs",
    "memory/src/ledger/probe.rs",
    "memory/src/ledger/storage.rs",
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
        "read_shifts(",
        "Follower::new",
        "image::open",
    ];
    let mut found = Vec::new();
    for place in ["orchestrator/src", "memory/src"] {
        for (name, text) in sources(&crates().join(place)) {
            let call = calls.into_iter().find(|call| text.contains(call));
            found.extend(call.map(|call| (format!("{place}/{name}"), call)));
        }
    }
    for (name, call) in &found {
        let excepted = PAST_STORAGE.contains(&name.as_str());
        assert!(excepted, "{name} has {call}: use Storage");
    }
    for exception in PAST_STORAGE {
        let needed = found.iter().any(|(name, _)| name == exception);
        assert!(needed, "{exception} needs no exception any more");
    }
}

/// What is true of a run stands in records, which are found by their names. Where a folder is listed, a
/// comment of that place says why nothing false can be learned from it.
#[test]
fn every_listing_says_why_it_is_sound() {
    for (name, text) in sources(&crates().join("orchestrator/src")) {
        let lines: Vec<&str> = text.lines().collect();
        for (place, line) in lines.iter().enumerate() {
            if !line.contains("storage().list(") && !line.contains("storage.list(") {
                continue;
            }
            let before = &lines[place.saturating_sub(20)..place];
            let is_why =
                |line: &&str| line.trim_start().starts_with("//") && line.contains("listing");
            let place = place + 1;
            assert!(
                before.iter().any(is_why),
                "{name}:{place}: why is this listing sound?"
            );
        }
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
    let words = [
        "wan2",
        "wan ",
        "wan's",
        "t2v",
        "i2v",
        "storymem",
        "onestory",
        "narrative",
        "moviedreamer",
    ];
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

/// The parts of the crate. Each may use those before it.
const PARTS: [&str; 9] = [
    "engine", "error", "config", "folder", "run", "view", "forecast", "repair", "testing",
];

/// A circle of parts could only be understood, tested and changed as a whole.
#[test]
fn parts_use_each_other_in_one_direction() {
    let place = |part: &str| PARTS.iter().position(|known| *known == part);
    for (name, text) in sources(&crates().join("orchestrator/src")) {
        let part = name.split(['/', '.']).next().unwrap();
        if part == "lib" {
            continue;
        }
        let own = place(part).unwrap_or_else(|| panic!("{name}: say where this part stands"));
        for path in paths(&text) {
            let ["crate", used, ..] = path.as_slice() else {
                continue;
            };
            let used = place(used).unwrap_or_else(|| panic!("{name}: {path:?} is of no part"));
            assert!(used <= own, "{name} uses {path:?}");
        }
    }
}

/// No file needs one that needs it, but for those of a folder and its `mod.rs`, which are one thing.
#[test]
fn files_use_each_other_in_one_direction() {
    let sources = sources(&crates().join("orchestrator/src"));
    let circles = Files::of(&sources).circles();
    assert!(circles.is_empty(), "{circles:?}");
}

#[test]
fn circles_are_found() {
    let source = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let sources = [
        source(
            "a/mod.rs",
            "mod one;\npub use one::{One, Other};\nuse crate::b::B;",
        ),
        source(
            "a/one.rs",
            "use super::two::{Two, three::Three};\nuse super::A;",
        ),
        source(
            "a/two/mod.rs",
            "mod three;\n// crate::a::one::One\nfn f() {}",
        ),
        source("a/two/three.rs", "fn f() { crate::a::One::new() }"),
        source("b.rs", "use std::fmt;"),
    ];
    assert_eq!(
        paths("use crate::a::{b, c::{d, e}}; super::super::f();"),
        [
            vec!["crate", "a", "b"],
            vec!["crate", "a", "c", "d"],
            vec!["crate", "a", "c", "e"],
            vec!["super", "super", "f"],
        ]
    );
    let found = Files::of(&sources).circles();
    assert_eq!(found, [["a/one", "a/two/three"]]);
}

/// The paths in a source that begin with `crate` or `super`, with groups in braces taken apart.
fn paths(text: &str) -> Vec<Vec<&str>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text
        .match_indices("crate::")
        .chain(text.match_indices("super::"))
    {
        let before = &text[..at];
        let line = before.rfind('\n').map_or(before, |end| &before[end..]);
        let is_within = before.ends_with(|c: char| is_name(c) || c == ':');
        if !is_within && !line.trim_start().starts_with("//") {
            take_path(&text[at..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path, whose first parts are `head`, from the beginning of `text`; says what is left.
fn take_path<'a>(
    mut text: &'a str,
    head: &mut Vec<&'a str>,
    found: &mut Vec<Vec<&'a str>>,
) -> &'a str {
    let length = head.len();
    loop {
        text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        if let Some(mut group) = rest.strip_prefix('{').filter(|_| name.is_empty()) {
            while !group.trim_start().starts_with('}') && !group.is_empty() {
                group = take_path(group, head, found).trim_start();
                group = group.strip_prefix(',').unwrap_or(group);
            }
            head.truncate(length);
            return group.trim_start().strip_prefix('}').unwrap_or_default();
        }
        head.push(name);
        match rest.strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                found.push(head.clone());
                head.truncate(length);
                // What is renamed is not of the path.
                return rest.trim_start_matches(|c| c != ',' && c != '}');
            }
        }
    }
}

/// What each file uses, by their names without `.rs` and `/mod.rs`.
struct Files<'a> {
    uses: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Files<'a> {
    fn of(sources: &'a [(String, String)]) -> Self {
        let files = sources.iter().map(|(name, text)| {
            let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
            (name, text.as_str())
        });
        let files: BTreeMap<&str, &str> = files.filter(|(name, _)| *name != "lib").collect();
        let handed_on = files.iter().flat_map(|(file, text)| handed_on(file, text));
        let handed_on = handed_on.collect();
        let uses = files.iter().map(|(&file, text)| {
            let paths = paths(text).into_iter().map(|path| absolute(file, &path));
            let used = paths.filter_map(|path| file_of(&files, &handed_on, path));
            let is_apart = |used: &&str| !is_in(used, file) && !is_in(file, used);
            (file, used.filter(is_apart).collect())
        });
        Self {
            uses: uses.collect(),
        }
    }

    /// Each circle by its files, in order.
    fn circles(&self) -> Vec<Vec<&'a str>> {
        let reached: BTreeMap<&str, BTreeSet<&'a str>> = self
            .uses
            .keys()
            .map(|file| (*file, self.reached(file)))
            .collect();
        let circle = |file: &&'a str| -> Vec<&'a str> {
            let mutual = |other: &&&'a str| reached[**other].contains(file);
            reached[*file].iter().filter(mutual).copied().collect()
        };
        let circles: BTreeSet<Vec<&str>> = self.uses.keys().map(circle).collect();
        circles
            .into_iter()
            .filter(|circle| !circle.is_empty())
            .collect()
    }

    fn reached(&self, from: &str) -> BTreeSet<&'a str> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for used in self.uses.get(file).into_iter().flatten() {
                if reached.insert(*used) {
                    open.push(used);
                }
            }
        }
        reached
    }
}

/// Whether a file is the `mod.rs` above `file`, or that file itself.
fn is_in(above: &str, file: &str) -> bool {
    let rest = file.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path as it is from the root of the crate.
fn absolute(file: &str, path: &[&str]) -> Vec<String> {
    let mut here: Vec<&str> = file.split('/').collect();
    let ups = path.iter().take_while(|part| **part == "super").count();
    match path.first() {
        Some(&"crate") => here.clear(),
        _ => here.truncate(here.len().saturating_sub(ups)),
    }
    let rest = path.iter().skip(ups.max(1));
    here.into_iter()
        .chain(rest.copied())
        .map(str::to_owned)
        .collect()
}

/// Names that a file hands on as its own, with what they are.
fn handed_on(file: &str, text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.split(';').map(str::trim_start);
    let uses = lines.filter_map(|line| {
        let line = line
            .rfind("pub use ")
            .or_else(|| line.rfind("pub(crate) use "))
            .map(|at| &line[at..])?;
        line.split_once(" use ").map(|(_, path)| path)
    });
    let mut found = Vec::new();
    for path in uses {
        // What is no path of the crate is one of a file below.
        let whole = match path.starts_with("crate::") || path.starts_with("super::") {
            true => path.to_owned(),
            false => format!("crate::{}::{path}", file.replace('/', "::")),
        };
        for path in paths(&whole) {
            let name = format!("{file}/{}", path.last().unwrap());
            found.push((name, absolute(file, &path)));
        }
    }
    found
}

/// The file in which something is, behind all that hand it on.
fn file_of<'a>(
    files: &BTreeMap<&'a str, &'a str>,
    handed_on: &BTreeMap<String, Vec<String>>,
    path: Vec<String>,
) -> Option<&'a str> {
    let is_file = |length: &usize| files.contains_key(path[..*length].join("/").as_str());
    let length = (1..=path.len()).rev().find(is_file)?;
    let beyond = path.get(..=length).map(|path| path.join("/"));
    if let Some(real) = beyond.and_then(|name| handed_on.get(&name)) {
        return file_of(files, handed_on, real.clone());
    }
    files
        .get_key_value(path[..length].join("/").as_str())
        .map(|(file, _)| *file)
}

/// The lines between the fences of the patch in docs/methods.md.
fn fifth_method() -> Vec<String> {
    let page = std::fs::read_to_string(crates().join("../docs/methods.md")).unwrap();
    let patch = page.split_once("```diff\n").unwrap().1;
    let patch = patch.split_once("\n```").unwrap().0;
    patch.lines().map(str::to_owned).collect()
}

/// Whether `old` stands in `text` line by line.
fn stands_in(old: &[&str], text: &[&str]) -> bool {
    text.windows(old.len().max(1)).any(|window| window == old)
}

/// The method that docs/methods.md adds as an example still fits the sources, and takes at most six files.
#[test]
fn a_fifth_method_takes_six_files_and_its_patch_applies() {
    let patch = fifth_method();
    let mut files = Vec::new();
    let mut hunks = 0;
    for part in patch.split(|line| line.starts_with("diff --git ")) {
        let Some(new) = part.iter().find_map(|line| line.strip_prefix("+++ b/")) else {
            continue;
        };
        files.push(new.to_owned());
        let path = crates().join("..").join(new);
        if part.iter().any(|line| line == "--- /dev/null") {
            assert!(!path.exists(), "{new} is there already");
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text: Vec<&str> = text.lines().collect();
        for hunk in part.split(|line| line.starts_with("@@ ")).skip(1) {
            let old = hunk.iter().filter(|line| !line.starts_with('+'));
            let old: Vec<&str> = old.map(|line| line.get(1..).unwrap_or("")).collect();
            assert!(stands_in(&old, &text), "{new} has no place for {hunk:#?}");
            hunks += 1;
        }
    }
    assert!((1..=6).contains(&files.len()), "{files:?}");
    assert!(hunks >= 8, "{hunks} changes of what is there");
}
