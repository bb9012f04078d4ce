//! Every kind of file of a run folder with every kind of damage: the next start heals it, or says what it
//! has only measured and `repair` heals it, or one story fails alone. Nothing stops the run, hangs, or
//! passes for proven.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::durable::{BLUE, MORE};
use crate::harness::{Finished, Signal, Workshop, line, signal_when, storyloom};

/// A run that was interrupted, copied for each damage.
struct Interrupted {
    shop: Workshop,
    manifest: String,
    sets: Vec<&'static str>,
    /// How the run ends undisturbed, and what `verify` says then.
    calm: (Option<i32>, Value),
}

/// What became of a damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The next start ends as an undisturbed one.
    Healed,
    /// The next start says that it has only measured, and `repair` heals it.
    Repaired,
    /// One story fails, with the reason; all others are made.
    Alone,
    /// Anything else.
    Fault,
}

type Harm = fn(&Path) -> Option<()>;

const HARMS: [(&str, Harm); 7] = [
    ("one bit", |path| {
        let mut bytes = fs::read(path).ok()?;
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle)? ^= 1;
        fs::write(path, bytes).ok()
    }),
    ("cut", |path| {
        let bytes = fs::read(path).ok()?;
        fs::write(path, &bytes[..bytes.len() / 2]).ok()
    }),
    ("empty", |path| fs::write(path, b"").ok()),
    ("gone", |path| fs::remove_file(path).ok()),
    ("a folder", |path| {
        fs::remove_file(path).ok()?;
        fs::create_dir(path).ok()
    }),
    ("another's", |path| {
        let others = fs::read_dir(path.parent()?).ok()?.flatten();
        let mut others: Vec<PathBuf> = others.map(|other| other.path()).collect();
        others.sort();
        let is_other = |other: &&PathBuf| other.as_path() != path && other.is_file();
        fs::copy(others.iter().find(is_other)?, path).ok().map(drop)
    }),
    ("a link to itself", |path| {
        fs::remove_file(path).ok()?;
        symlink(path, path).ok()
    }),
];

/// Runs a program to its end, which must come.
fn ended(command: &mut Command) -> Finished {
    const TIMEOUT: Duration = Duration::from_secs(90);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What it says fits into the pipes.
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > TIMEOUT {
            child.kill().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, other) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &other),
            false => drop(fs::copy(&path, &other).unwrap()),
        }
    }
}

/// All files below `folder` whose names begin and end like this.
fn files(folder: &Path, begin: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            found.extend(files(&path, begin, end));
        } else if name.starts_with(begin) && name.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a `story.json` says that its story is finished.
fn is_done(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.contains("\"state\": \"done\""))
}

impl Interrupted {
    /// A run of stories, briefs and a reference image, killed in the middle.
    fn in_the_middle() -> Self {
        let shop = Workshop::new();
        let hero = MORE[0].0;
        let mut lines = vec![
            line(hero, MORE[0].1).replacen('{', "{\"reference_images\": [\"hero.png\"], ", 1),
            line(MORE[1].0, MORE[1].1),
            line("short", &[true, false]).replacen('{', "{\"priority\": 9, ", 1),
        ];
        lines.push(r#"{"id": "mug", "title": "Mug", "shots": 2, "priority": 8}"#.to_owned());
        lines.push(r#"{"id": "cup", "title": "Cup", "shots": 3}"#.to_owned());
        let manifest = shop.write("manifest.jsonl", lines.join("\n"));
        shop.write("hero.png", BLUE);
        let sets = vec![
            "simulated.videos=false",
            "run.lease_timeout=2",
            "topology.interleave=2",
        ];
        let slow = ["simulated.step_ms=80", "checkpoint.every_steps=1"];
        let slow = [&sets[..], &slow].concat();
        let stories = shop.out().join("stories");
        signal_when(&mut shop.run(&manifest, &slow), Signal::KILL, || {
            let finished = files(&stories, "story", ".json");
            let finished = finished.iter().filter(|file| is_done(file)).count();
            let is_in_flight = |story: &str| {
                let folder = stories.join(story);
                folder.join("commits/01_02.json").is_file()
                    && !folder.join("story.mp4").exists()
                    && !files(&folder.join("checkpoints"), "0", ".json").is_empty()
            };
            finished >= 2 && is_in_flight(hero)
        });
        Self::new(shop, manifest, sets)
    }

    /// A run on the other index, with a story in quarantine and one that is set aside.
    fn with_failed_stories() -> Self {
        let shop = Workshop::new();
        let lines = |word: &str| {
            let changed = line("changed", &[true]).replace("Shot 1", word);
            let eyes = r#"{"id": "eyes", "product_image": "hero.png", "shots": 1}"#;
            [changed, line("tale", &[true, false]), eyes.to_owned()].join("\n")
        };
        shop.write("hero.png", BLUE);
        let sets = vec![
            "simulated.videos=false",
            "memory.backend=redb",
            "run.lease_timeout=2",
        ];
        let manifest = shop.write("manifest.jsonl", lines("Shot 1"));
        ended(&mut shop.run(&manifest, &sets)).ended_with(1);
        shop.write("manifest.jsonl", lines("Another shot"));
        ended(&mut shop.run(&manifest, &sets)).ended_with(65);
        Self::new(shop, manifest, sets)
    }

    fn new(shop: Workshop, manifest: String, sets: Vec<&'static str>) -> Self {
        fs::rename(shop.out(), shop.path("before")).unwrap();
        let mut interrupted = Self {
            shop,
            manifest,
            sets,
            calm: (None, Value::Null),
        };
        interrupted.begin();
        let calm = interrupted.start();
        assert!(!calm.stderr.contains("panicked"), "{}", calm.stderr);
        interrupted.calm = (calm.code, interrupted.verdict());
        interrupted
    }

    /// The run as it was interrupted.
    fn begin(&self) {
        let _ = fs::remove_dir_all(self.shop.out());
        copy(&self.shop.path("before"), &self.shop.out());
    }

    fn start(&self) -> Finished {
        ended(&mut self.shop.run(&self.manifest, &self.sets))
    }

    fn ask(&self, name: &str, rest: &[&str]) -> Finished {
        ended(storyloom([name]).arg(self.shop.out()).args(rest))
    }

    fn verdict(&self) -> Value {
        let said = self.ask("verify", &["--json"]);
        serde_json::from_str(&said.stdout).unwrap_or_else(|_| Value::String(said.stderr))
    }

    /// The files of the folder by kind, one of each.
    fn kinds(&self) -> BTreeMap<String, PathBuf> {
        let before = self.shop.path("before");
        let mut kinds = BTreeMap::new();
        let mut add = |kind: &str, files: Vec<PathBuf>| {
            if let Some(path) = files.first() {
                kinds.insert(
                    kind.to_owned(),
                    path.strip_prefix(&before).unwrap().to_owned(),
                );
            }
        };
        for name in ["run.json", "planner.json"] {
            add(name, files(&before, name, name));
        }
        for (kind, folder) in [
            ("list of stories", "lists"),
            ("journal, live note", "logs/shifts"),
            ("lease of a story", "leases/stories"),
            ("file of a program", "leases/workers"),
            ("mark of a story set aside", "changed"),
            ("addresses of the programs", "metrics"),
        ] {
            add(kind, files(&before.join(folder), "", ""));
        }
        add("journal", files(&before.join("logs/shifts"), "", ".jsonl"));
        add("log", files(&before.join("logs"), "log", ".jsonl"));
        add(
            "lock of the index",
            files(&before.join("bank"), "0", ".lock"),
        );
        add("index: sled's data", files(&before.join("bank"), "db", ""));
        add(
            "index: sled's settings",
            files(&before.join("bank"), "conf", ""),
        );
        add(
            "index: redb's file",
            files(&before.join("bank"), "", "redb"),
        );
        for name in ["manifest.jsonl", "config.toml", "text.txt", ".png"] {
            add(
                &format!("quarantine: {name}"),
                files(&before.join("quarantine"), "", name),
            );
        }
        let stories = before.join("stories");
        for story in fs::read_dir(&stories).unwrap().flatten() {
            let folder = story.path();
            let state = match is_done(&folder.join("story.json")) {
                true => "finished",
                false if folder.join("commits/01_01.json").is_file() => "in flight",
                false => "not begun",
            };
            let mut of = |what: &str, files: Vec<PathBuf>| add(&format!("{what}, {state}"), files);
            of("story.json", files(&folder, "story", ".json"));
            of("plan.json", files(&folder, "plan", ".json"));
            of("story.mp4", files(&folder, "story", ".mp4"));
            of(
                "references.json",
                files(&folder.join("commits"), "ref", ".json"),
            );
            of(
                "first record",
                files(&folder.join("commits"), "01_01", ".json"),
            );
            let mut records = files(&folder.join("commits"), "01_", ".json");
            records.reverse();
            of("last record", records.clone());
            of(
                "reference image",
                files(&folder.join("keyframes"), "00", ".png"),
            );
            of("keyframe", files(&folder.join("keyframes"), "01", ".png"));
            of("video of a shot", files(&folder, "01", ".mp4"));
            of(
                "saved step",
                files(&folder.join("checkpoints"), "0", ".json"),
            );
            let named = |path: &PathBuf, pointer: &str| {
                let record: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
                let name = record.pointer(pointer)?["blake3"].as_str()?.to_owned();
                files(&before.join("blobs"), &name, ".safetensors").pop()
            };
            for (what, pointer) in [
                ("blob: latents", "/latents"),
                ("blob: last frames", "/tail"),
                ("blob: latents of a keyframe", "/keyframes/0/latents"),
                ("blob: embedding", "/keyframes/0/embedding"),
            ] {
                let found = records.last().and_then(|record| named(record, pointer));
                of(what, found.into_iter().collect());
            }
            let steps = files(&folder.join("checkpoints"), "0", ".json");
            let found = steps.first().and_then(|step| named(step, "/arrays"));
            of("blob: saved step", found.into_iter().collect());
        }
        kinds
    }

    /// Damages a file and looks what becomes of it; with what was seen, if that is a fault.
    fn fate(&self, path: &Path, harm: Harm) -> Option<(Fate, String)> {
        self.begin();
        harm(&self.shop.out().join(path))?;
        let looks = [
            self.ask("status", &["--json"]),
            self.ask("report", &[]),
            self.ask("quarantine", &[]),
        ];
        let run = self.start();
        let verdict = self.verdict();
        let mut said = format!("{:?} {}\n{verdict}", run.code, run.stderr);
        let all = looks.iter().chain([&run]);
        let is_calm = all
            .clone()
            .all(|look| look.code.is_some() && !look.stderr.contains("panicked"));
        if !is_calm {
            said.extend(
                looks
                    .iter()
                    .map(|look| format!("\n{:?} {}", look.code, look.stderr)),
            );
            return Some((Fate::Fault, said));
        }
        if (run.code, &verdict) == (self.calm.0, &self.calm.1) {
            return Some((Fate::Healed, said));
        }
        let story = path
            .strip_prefix("stories")
            .ok()
            .and_then(|path| path.iter().next());
        let calm = self.calm.1["problems"].as_array().unwrap();
        let problems = verdict["problems"].as_array().cloned().unwrap_or_default();
        let mut new = problems.iter().filter(|problem| !calm.contains(problem));
        let is_told = !problems.is_empty() && run.code == self.calm.0;
        if is_told
            && run
                .stderr
                .contains("only the sizes of their files were looked at")
        {
            let repair = self.ask("repair", &[]);
            let verdict = self.verdict();
            // With 1 it tells of stories that were given up before.
            let is_well = matches!(repair.code, Some(0 | 1)) && verdict == self.calm.1;
            said.push_str(&format!("\n{:?} {}\n{verdict}", repair.code, repair.stderr));
            return Some((if is_well { Fate::Repaired } else { Fate::Fault }, said));
        }
        // Of one story, and nothing but of it.
        let is_alone = run.code == Some(1)
            && story.is_some()
            && !problems.is_empty()
            && new
                .all(|problem| problem["story"].as_str() == story.and_then(|story| story.to_str()));
        Some((if is_alone { Fate::Alone } else { Fate::Fault }, said))
    }
}

/// Tries the damages that `is_wanted` by the number of the kind and that of the damage; how many there
/// were, and a row of the table for each kind.
fn campaign(interrupted: &Interrupted, is_wanted: impl Fn(usize, usize) -> bool) -> usize {
    let (mut tried, mut faults) = (0, Vec::new());
    for (number, (kind, path)) in interrupted.kinds().into_iter().enumerate() {
        let mut row = format!("| {kind} |");
        for (place, (what, harm)) in HARMS.into_iter().enumerate() {
            let fate = is_wanted(number, place)
                .then(|| interrupted.fate(&path, harm))
                .flatten();
            let Some((fate, said)) = fate else {
                row.push_str(" – |");
                continue;
            };
            tried += 1;
            row.push_str(match fate {
                Fate::Healed => " H |",
                Fate::Repaired => " R |",
                Fate::Alone => " F |",
                Fate::Fault => " **?** |",
            });
            if fate == Fate::Fault {
                faults.push(format!("{kind}, {what}: {said}"));
            }
        }
        println!("{row}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    tried
}

/// One damage of each kind of file.
#[test]
fn whatever_is_damaged_is_healed_told_or_alone() {
    let interrupted = Interrupted::in_the_middle();
    let tried = campaign(&interrupted, |kind, damage| kind % HARMS.len() == damage);
    assert!(tried >= 30, "{tried}");
}

/// The whole table of docs/durability.md; `scripts/damage.sh`.
#[test]
#[ignore = "takes many minutes"]
fn every_damage_in_the_middle() {
    whole_table(&Interrupted::in_the_middle(), 230);
}

/// As [`every_damage_in_the_middle`], of the other index, and of what failed stories leave.
#[test]
#[ignore = "takes many minutes"]
fn every_damage_beside_failed_stories() {
    whole_table(&Interrupted::with_failed_stories(), 60);
}

fn whole_table(interrupted: &Interrupted, least: usize) {
    println!("| file | {} |", HARMS.map(|(what, _)| what).join(" | "));
    println!("|---|{}", "---|".repeat(HARMS.len()));
    let tried = campaign(interrupted, |_, _| true);
    println!("{tried} damages");
    assert!(tried >= least, "{tried}");
}
