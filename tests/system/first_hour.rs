//! The first hour of three users, as `docs/first-hour` tells it: every command of these pages is run
//! in their order, and says what the page says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::storyloom;

/// One command of a page and what the page says of it.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    code: i32,
    /// Lines of the output, in their order; `…` stands for anything.
    says: Vec<String>,
}

/// How a page marks a command that does not end with 0.
const ENDS: &str = " # ends with ";

/// The commands of a page: lines of its `sh` blocks. A `text` block tells lines that the command
/// before it writes.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block = None;
    let mut pending = String::new();
    for line in page.lines() {
        match (block, line) {
            (None, "```sh" | "```text") => block = line.strip_prefix("```"),
            (Some(_), "```") => block = None,
            (Some("sh"), line) if line.trim_start().starts_with('#') || line.is_empty() => {}
            (Some("sh"), line) => {
                pending.push_str(line);
                if let Some(open) = pending.strip_suffix('\\') {
                    pending = open.to_owned();
                    continue;
                }
                steps.push(step(&std::mem::take(&mut pending)));
            }
            (Some("text"), line) => {
                let last = steps.last_mut();
                last.expect("a command stands before what it says")
                    .says
                    .push(line.to_owned());
            }
            _ => {}
        }
    }
    steps
}

fn step(line: &str) -> Step {
    let (command, code) = match line.rsplit_once(ENDS) {
        Some((command, code)) => (command, code.trim().parse().unwrap()),
        None => (line, 0),
    };
    Step {
        command: command.trim().to_owned(),
        code,
        says: Vec::new(),
    }
}

/// Whether `line` is `pattern`, in which `…` stands for anything.
fn fits(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || line.ends_with(part),
    }
}

/// The first line of a page that the output does not have, after those before it.
fn missing<'s>(output: &str, says: &'s [String]) -> Option<&'s str> {
    let mut lines = output.lines();
    says.iter()
        .map(String::as_str)
        .find(|wanted| !lines.any(|line| fits(line.trim_end(), wanted)))
}

/// A folder that looks like a checkout to those who only read it.
fn checkout() -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir().unwrap();
    for name in ["configs", "manifests", "models", "launch"] {
        let there = root.join(name).canonicalize().unwrap();
        symlink(there, folder.path().join(name)).unwrap();
    }
    folder
}

/// The variable `PATH` with the binary first.
fn path() -> String {
    let binary = PathBuf::from(storyloom([""; 0]).get_program());
    let folder = binary.parent().unwrap().display().to_string();
    format!("{folder}:{}", std::env::var("PATH").unwrap_or_default())
}

/// Runs a page from its first command to its last.
#[track_caller]
fn live_through(page: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/first-hour");
    let text = fs::read_to_string(root.join(page)).unwrap();
    let steps = steps(&text);
    assert!(steps.len() >= 8, "{page} has {} commands", steps.len());
    let folder = checkout();
    for Step {
        command,
        code,
        says,
    } in &steps
    {
        let mut shell = Command::new("bash");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STORYLOOM_")) {
            shell.env_remove(name);
        }
        let output = shell
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(folder.path())
            .env("PATH", path())
            .env("OMP_NUM_THREADS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(*code),
            "{page}: {command}\n{said}"
        );
        if let Some(line) = missing(&said, says) {
            panic!("{page}: {command}\ndoes not say {line:?}:\n{said}");
        }
    }
}

#[test]
fn a_page_is_read_as_its_readers_do() {
    let page = "Try:\n```sh\n# a word\nfirst \\\n  --more\nsecond # ends with 65\n```\n\n```text\nno … here\n```\n";
    let expected = [
        ("first   --more", 0, vec![]),
        ("second", 65, vec!["no … here"]),
    ];
    let found = steps(page);
    for (step, (command, code, says)) in found.iter().zip(expected) {
        assert_eq!((step.command.as_str(), step.code), (command, code));
        assert_eq!(step.says, says);
    }
    assert_eq!(found.len(), 2);
    assert!(fits("no dragon here", "no … here") && fits("here", "…"));
    assert!(!fits("no dragon here!", "no … here") && !fits("oh no dragon", "no …"));
    let says = ["b".to_owned(), "a".to_owned()];
    assert_eq!(missing("a\nb\n", &says), Some("a"));
    assert_eq!(missing("b\na\n", &says), None);
}

#[test]
fn an_ad_studio() {
    live_through("studio.md");
}

#[test]
fn a_researcher() {
    live_through("researcher.md");
}

#[test]
fn an_operator() {
    live_through("operator.md");
}
