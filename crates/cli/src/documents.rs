//! What the documents of the project claim, compared with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::command::Cli;
use storyloom_story::Method;

use crate::config::options::Inputs;
use crate::input;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The places of the links of a Markdown page, without anchors.
fn links(page: &str) -> BTreeSet<String> {
    let targets = page.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split([')', '#']).next());
    targets.map(str::to_owned).collect()
}

/// Names of the files of `folder` that end with `.md`.
fn pages(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    pages.sort();
    pages
}

#[test]
fn the_readme_links_to_every_page() {
    let links = links(&read("README.md"));
    let all = ["docs", "docs/first-hour"].into_iter().flat_map(|folder| {
        let pages = pages(folder).into_iter();
        pages.map(move |page| format!("{folder}/{page}"))
    });
    let missing: Vec<String> = all.filter(|page| !links.contains(page)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn no_page_links_to_what_is_not_there() {
    let mut wrong = Vec::new();
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(PathBuf::from);
    let folders = ["docs", "docs/first-hour", "docs/decisions", "launch"];
    let others = folders.iter().flat_map(|folder| {
        let pages = pages(folder).into_iter();
        pages.map(|page| Path::new(folder).join(page))
    });
    for page in top.into_iter().chain(others) {
        for link in links(&read(page.to_str().unwrap())) {
            let is_elsewhere = link.contains("://") || link.is_empty();
            let path = Path::new(ROOT).join(page.parent().unwrap()).join(&link);
            if !is_elsewhere && !path.exists() {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The sample can be copied as it is, and is the file that the commands below it name.
#[test]
fn the_script_in_the_readme_is_the_one_that_is_run() {
    let readme = read("README.md");
    let blocks = readme.split("```json\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    let script = blocks
        .iter()
        .find(|block| block.contains("story_name"))
        .unwrap();
    assert_eq!(script.trim(), read("manifests/yellow-shoe.json").trim());
    let path = Path::new(ROOT).join("manifests/yellow-shoe.json");
    let found = input::read(&path, &Inputs::default(), &Method::WITH_NETWORKS).unwrap();
    let found = found.map_err(|report| report.problems).unwrap();
    assert!(found.warnings.is_empty());
    assert_eq!(found.stories().count(), 1);
    for block in blocks {
        assert!(!block.contains('…'), "{block}");
    }
}

/// The lines of a manifest in the README are understood, and name files that are there.
#[test]
fn the_manifest_lines_in_the_readme_are_right() {
    let readme = read("README.md");
    let lines: String = readme
        .lines()
        .filter(|line| line.starts_with("{\"id\""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(lines.lines().count() >= 2);
    let folder = tempfile::tempdir().unwrap();
    for part in ["scripts", "images"] {
        let source = Path::new(ROOT).join("manifests").join(part);
        let target = folder.path().join(part);
        fs::create_dir(&target).unwrap();
        for entry in fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
        }
    }
    let manifest = folder.path().join("manifest.jsonl");
    fs::write(&manifest, lines).unwrap();
    let found = input::read(&manifest, &Inputs::default(), &Method::WITH_NETWORKS).unwrap();
    let found = found.map_err(|report| report.problems).unwrap();
    assert!(found.has_briefs() && found.stories().count() == 1);
}

#[test]
fn the_page_of_commands_has_every_command() {
    let page = read("docs/commands.md");
    let command = Cli::command();
    for name in command.get_subcommands().map(clap::Command::get_name) {
        assert!(page.contains(&format!("`storyloom {name}")), "{name}");
    }
    let known: BTreeSet<&str> = command
        .get_subcommands()
        .map(clap::Command::get_name)
        .collect();
    for row in page.lines().filter(|line| line.starts_with("| `storyloom")) {
        let name = row.split([' ', '`']).nth(3).unwrap_or_default();
        assert!(known.contains(name), "{row}");
    }
}

/// The crates that `crate_` uses, as its `Cargo.toml` says; not those of its tests.
fn uses(crate_: &str) -> BTreeSet<String> {
    let text = read(&format!("crates/{crate_}/Cargo.toml"));
    let table: toml::Table = text.parse().unwrap();
    let names = table.get("dependencies").and_then(toml::Value::as_table);
    let names = names.into_iter().flat_map(toml::Table::keys);
    let ours = names.filter_map(|name| name.strip_prefix("storyloom-"));
    ours.map(str::to_owned).collect()
}

#[test]
fn the_crates_use_each_other_as_the_architecture_says() {
    let page = read("ARCHITECTURE.md");
    let rows = page.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let used = rest.split(" | ").next()?.trim();
        let used = used.split(", ").filter(|name| *name != "–");
        Some((name.to_owned(), used.map(str::to_owned).collect()))
    });
    let said: BTreeMap<String, BTreeSet<String>> = rows.collect();
    let entries = fs::read_dir(Path::new(ROOT).join("crates")).unwrap();
    let crates = entries.map(|entry| entry.unwrap().path());
    let crates = crates.filter(|path| path.join("Cargo.toml").is_file());
    let found: BTreeMap<String, BTreeSet<String>> = crates
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let used = uses(&name);
            (name, used)
        })
        .collect();
    assert_eq!(said, found);
}

/// A folder of modules has a `mod.rs`, never a file of its name beside it.
#[test]
fn every_folder_of_modules_has_a_mod_rs() {
    let mut folders = vec![Path::new(ROOT).join("crates")];
    let mut beside = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            if path.with_extension("").is_dir() && path.extension().is_some_and(|it| it == "rs") {
                beside.push(path);
            }
        }
    }
    assert!(beside.is_empty(), "{beside:?}");
}
