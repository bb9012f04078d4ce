//! Who may know whom: the sampling loop and the ranks that share it know no method and no network by
//! name, so that another method needs no line there; and crates depend in one direction.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(path: PathBuf, found: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        return found.push(path);
    }
    for entry in fs::read_dir(path).expect("the folder is there") {
        sources(entry.expect("the folder can be read").path(), found);
    }
}

/// Words of a text, lower case; those inside of `CamelCase` count as words.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in text.chars() {
        if !letter.is_alphanumeric() || (was_lower && letter.is_uppercase()) {
            words.push(String::new());
        }
        was_lower = letter.is_lowercase();
        if let (true, Some(last)) = (letter.is_alphanumeric(), words.last_mut()) {
            last.extend(letter.to_lowercase());
        }
    }
    words
}

#[test]
fn loop_and_ranks_name_no_method() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for place in ["sampling.rs", "guidance.rs", "replica"] {
        sources(root.join(place), &mut files);
    }
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let words = words(&fs::read_to_string(&file).unwrap());
        for forbidden in ["wan", "t2v", "i2v", "storymem", "expert", "experts"] {
            let is_there = words.iter().any(|word| word == forbidden);
            assert!(!is_there, "{}: {forbidden}", file.display());
        }
        let mem = words
            .windows(2)
            .any(|pair| pair[0] == "story" && pair[1] == "mem");
        assert!(!mem, "{}: StoryMem", file.display());
    }
}

#[test]
fn words_are_found_inside_of_names() {
    let found = words("WanTransformer, text_to_video; wanted");
    assert_eq!(
        found
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>(),
        ["wan", "transformer", "text", "to", "video", "wanted"]
    );
}

/// What the manifest of a crate names below `[dependencies]`.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../{name}/Cargo.toml"));
    let text = fs::read_to_string(manifest).expect("the crate is there");
    let lines = text
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1);
    let named = lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| {
            let end = line.find(['.', ' ', '='])?;
            Some(line[..end].to_owned())
        });
    named.collect()
}

/// A change of a method compiles its crate and the program: nothing else depends on it.
#[test]
fn crates_depend_in_one_direction() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut on_tch, mut on_engine) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(crates).expect("the folder is there") {
        let name = entry.expect("the folder can be read").file_name();
        let name = name.into_string().expect("names are plain");
        let dependencies = dependencies(&name);
        let has = |wanted: &str| dependencies.iter().any(|found| found == wanted);
        if has("tch") {
            on_tch.push(name.clone());
        }
        if has("storyloom-engine") {
            on_engine.push(name);
        }
    }
    on_tch.sort();
    assert_eq!(on_tch, ["engine", "models", "nn"]);
    assert_eq!(on_engine, ["cli"]);
    assert!(dependencies("models").contains(&"storyloom-nn".to_owned()));
    assert!(!dependencies("nn").contains(&"storyloom-models".to_owned()));
}
