//! Kills, twins, damage and a full disk: nothing is lost, nothing is made twice, no lie is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{
    Signal, Workshop, call, finish, frames, line, of_method, send, signal_when, wait_until,
};

const STORIES: [(&str, &[bool]); 2] = [("ad", &[true, false]), ("tale", &[true, true, false])];

/// Stories for runs that are interrupted, and shots that take a while: seconds of work after the
/// first ones, so that the moment is met on a busy machine, too.
pub const MORE: [(&str, &[bool]); 2] = [
    ("ad", &[true, false, true, true, true, true]),
    ("tale", &[true; 6]),
];
const SLOW: [&str; 1] = ["simulated.step_ms=300"];

/// A pseudorandom sequence; the same on every run of the tests.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn start(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    // Single shots are told at this level.
    command.env("STORYLOOM_LOG", "info,storyloom_telemetry=debug");
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Two programs at a time on one folder, one of them killed at a random moment, again and again. If
/// all is made before the last kill, the rest happen in another folder.
fn torture(kills: usize, stories: usize) {
    let cuts = [true, false, true, true, false];
    let names: Vec<String> = (0..stories).map(|n| format!("story-{n}")).collect();
    let lines: Vec<String> = names.iter().map(|name| line(name, &cuts)).collect();
    kill_until(kills, &lines, |shop| {
        for name in &names {
            let film = shop.out().join("stories").join(name).join("story.mp4");
            assert_eq!(frames(&film), 3 * 9 + 2 * 8);
        }
    });
}

/// Kills runs of these lines of a manifest, `kills` times in all, and looks at each when it is done.
fn kill_until(kills: usize, lines: &[String], look: impl Fn(&Workshop)) {
    let calm = Workshop::new();
    let manifest = calm.write("manifest.jsonl", lines.join("\n"));
    finish(&mut calm.run(&manifest, &["storymem.steps=4"])).ended_with(0);
    let calm = calm.digest();

    let mut dice = Dice(20_261_121);
    let (mut killed, begun) = ([0; 2], Instant::now());
    let mut log = String::new();
    while killed.iter().sum::<usize>() < kills {
        let shop = Workshop::new();
        log += &kill_at_random(&shop, &manifest, &mut dice, &mut killed, kills);
        finish(&mut shop.run(&manifest, &["storymem.steps=4"])).ended_with(0);
        assert_eq!(shop.digest(), calm);
        for story in fs::read_dir(shop.out().join("stories")).unwrap() {
            let folder = story.unwrap().path();
            let leftovers = fs::read_dir(folder.join("checkpoints"));
            assert_eq!(leftovers.map_or(0, Iterator::count), 0, "{folder:?}");
        }
        look(&shop);
        assert!(
            begun.elapsed() < Duration::from_secs(60 * 60),
            "no end is near"
        );
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        log.contains("goes on after step"),
        "no step was ever resumed"
    );
    eprintln!("{} kills, {} stops", killed[0], killed[1]);
}

/// Kills and stops programs, counted in `killed`, until there were this number or all is made. Returns
/// what they said.
fn kill_at_random(
    shop: &Workshop,
    manifest: &str,
    dice: &mut Dice,
    killed: &mut [usize; 2],
    kills: usize,
) -> String {
    let sets = [
        "simulated.step_ms=25",
        "checkpoint.every_steps=1",
        "storymem.steps=4",
    ];
    let log = shop.path("log");
    let said = || fs::read_to_string(&log).unwrap();
    let mut twins: Vec<Child> = Vec::new();
    while killed.iter().sum::<usize>() < kills {
        while twins.len() < 2 {
            twins.push(start(&mut shop.run(manifest, &sets), &log));
        }
        if dice.below(3) == 0 {
            // On a slow machine kills at random meet programs that start, and nothing else.
            let is_over = |twin: &mut Child| twin.try_wait().unwrap().is_some();
            while !is_in_a_shot(shop) && !twins.iter_mut().any(is_over) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        std::thread::sleep(Duration::from_millis(20 + dice.below(300)));
        let victim = dice.below(2) as usize;
        let kind = usize::from(dice.below(3) == 0);
        let mut child = twins.swap_remove(victim);
        if let Some(status) = child.try_wait().unwrap() {
            // It found everything done.
            assert!(status.success(), "{status}: {}", said());
            break;
        }
        let signal = [Signal::KILL, Signal::TERM][kind];
        send(signal, child.id());
        let code = child.wait().unwrap().code();
        // One that is asked to stop before it listens ends as the system sees fit; one that is at its
        // end, well.
        let is_expected = match code {
            None => true,
            Some(0) => shop.ask(&["verify"]).code == Some(0),
            Some(code) => kind == 1 && code == 75,
        };
        assert!(is_expected, "{signal:?}: {code:?}\n{}", said());
        killed[kind] += usize::from(code != Some(0));
    }
    for child in twins {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said());
    }
    said()
}

#[test]
fn sixty_kills_change_nothing() {
    torture(60, 12);
}

/// The methods that are rehearsed, each by a few stories of one run.
#[test]
fn thirty_kills_change_nothing_of_any_method() {
    let methods = ["onestory", "narrative-weaver", "moviedreamer", "storymem"];
    let lines: Vec<String> = (0..8)
        .map(|n| of_method(&line(&format!("story-{n}"), &[true; 5]), methods[n % 4]))
        .collect();
    kill_until(30, &lines, |shop| {
        let story = |n: usize| shop.out().join(format!("stories/story-{n}"));
        for (n, file) in [(0, "story.mp4"), (1, "01_05.png"), (2, "01_05.mp4")] {
            assert!(story(n).join(file).is_file(), "{file}");
        }
        assert!(
            !story(1).join("story.mp4").exists(),
            "pictures make no film"
        );
    });
}

/// The long version; see docs/durability.md.
#[test]
#[ignore = "takes half an hour; scripts/torture.sh runs it"]
fn fifteen_hundred_kills_change_nothing() {
    torture(1500, 100);
}

#[test]
fn twins_started_together_share_the_work() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let log = shop.path("log");
    let twins: Vec<Child> = (0..2)
        .map(|_| start(&mut shop.run(&manifest, &["simulated.step_ms=30"]), &log))
        .collect();
    for twin in twins {
        assert!(twin.wait_with_output().unwrap().status.success());
    }
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("made in").count(), 5, "{log}");
    shop.digest();
}

/// A program that is stopped (SIGSTOP) while it works is taken over; when it wakes up, it leaves
/// the work to its successor.
#[test]
fn a_stopped_program_is_taken_over() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true; 20])]);
    let log = shop.path("log");
    let sets = ["simulated.step_ms=200", "run.lease_timeout=1"];
    let mut sleeper = start(&mut shop.run(&manifest, &sets), &log);
    wait_until(&mut sleeper, || shop.commits() > 0);
    send(Signal::STOP, sleeper.id());
    let made = || fs::read_to_string(&log).unwrap().matches("made in").count();
    let before = made();
    let successor = finish(&mut shop.run(&manifest, &["run.lease_timeout=1"]));
    successor.ended_with(0).saying("taken over");
    send(Signal::CONT, sleeper.id());
    let output = sleeper.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    // It may have been stopped between committing a shot and saying so.
    assert!(made() <= before + 1, "{before}, then {}", made());
    shop.digest();
}

/// Shots that take long and are saved at every step.
const SAVED_SLOWLY: [&str; 3] = [
    "simulated.step_ms=150",
    "storymem.steps=24",
    "checkpoint.every_steps=1",
];

/// What was saved of shots, each with whether its shot exists by now.
fn saved(shop: &Workshop) -> Vec<bool> {
    let names = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut saved = Vec::new();
    for story in names(shop.out().join("stories")) {
        for step in names(story.path().join("checkpoints")) {
            let record = story.path().join("commits").join(step.file_name());
            saved.push(record.exists());
        }
    }
    saved
}

/// Whether a shot was begun and saved at a step, and is not made yet.
fn is_in_a_shot(shop: &Workshop) -> bool {
    saved(shop).contains(&false)
}

#[test]
fn a_stop_saves_the_running_step() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let begun = || shop.commits() > 0 && is_in_a_shot(&shop);
    signal_when(&mut shop.run(&manifest, &SAVED_SLOWLY), Signal::USR1, begun).ended_with(75);
    assert!(is_in_a_shot(&shop));
    let again = finish(&mut shop.run(&manifest, &["storymem.steps=24"]));
    again.ended_with(0).saying("goes on after step");
    let calm = Workshop::new();
    finish(&mut calm.run(&manifest, &["storymem.steps=24"])).ended_with(0);
    assert_eq!(shop.digest(), calm.digest());
}

#[test]
fn a_drain_finishes_the_running_shot() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let begun = || shop.commits() > 0 && is_in_a_shot(&shop);
    signal_when(&mut shop.run(&manifest, &SAVED_SLOWLY), Signal::USR2, begun).ended_with(75);
    assert!(shop.commits() > 1);
    assert!(saved(&shop).is_empty());
}

/// Under Slurm a program that exits counts as done, so it waits, and the next signal ends it.
#[test]
fn under_slurm_a_stopped_run_waits_for_its_end() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    let log = shop.path("log");
    let mut command = shop.run(&manifest, &SLOW);
    let mut child = start(command.env("SLURM_JOB_ID", "7"), &log);
    wait_until(&mut child, || shop.commits() > 0);
    send(Signal::TERM, child.id());
    let said = || fs::read_to_string(&log).unwrap();
    wait_until(&mut child, || said().contains("waiting for the end"));
    send(Signal::TERM, child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
}

#[test]
fn a_deleted_or_broken_index_is_rebuilt() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    let bank = shop.out().join("bank");
    // Deleted under a running program.
    let stopped = signal_when(&mut shop.run(&manifest, &SLOW), Signal::KILL, || {
        // The program may write into it meanwhile.
        shop.commits() > 1 && fs::remove_dir_all(&bank).is_ok()
    });
    assert_eq!(stopped.code, None);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let digest = shop.digest();
    fs::write(
        bank.join("0/sled/conf"),
        b"garbage that is no database of any kind",
    )
    .unwrap();
    fs::remove_file(shop.out().join("stories/tale/commits/01_06.json")).unwrap();
    let rebuilt = finish(&mut shop.run(&manifest, &[]));
    rebuilt.ended_with(0).saying("did not open");
    assert_eq!(shop.digest(), digest);
}

/// A run folder is whole wherever it lies, and goes on there.
#[test]
fn a_copied_run_goes_on() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&MORE);
    let ended = signal_when(&mut shop.run(&manifest, &SLOW), Signal::KILL, || {
        shop.commits() > 1
    });
    assert_eq!(ended.code, None);
    let copy = Workshop::new();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(shop.out())
        .arg(copy.out())
        .status();
    assert!(copied.unwrap().success());
    finish(&mut copy.run(&manifest, &[])).ended_with(0);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    assert_eq!(copy.digest(), shop.digest());
}

/// A program whose clock is days behind goes on with what one with the right time began, while
/// that one is still at work.
#[test]
fn clocks_may_jump() {
    if Command::new("faketime").arg("--version").output().is_err() {
        eprintln!("skipped: a jumping clock needs the program faketime (Debian: faketime)");
        return;
    }
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let log = shop.path("log");
    let slow = &["simulated.step_ms=100", "run.lease_timeout=30"];
    let tells = ("STORYLOOM_LOG", "debug");
    let first = start(shop.run(&manifest, slow).env(tells.0, tells.1), &log);
    let second = shop.run(&manifest, slow);
    let mut shifted = Command::new("faketime");
    shifted.arg("-f").arg("-3d").arg(second.get_program());
    shifted.args(second.get_args()).env("OMP_NUM_THREADS", "1");
    shifted.env(tells.0, tells.1);
    let second = start(&mut shifted, &log);
    for program in [first, second] {
        let status = program.wait_with_output().unwrap().status;
        assert!(status.success(), "{}", fs::read_to_string(&log).unwrap());
    }
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("made in").count(), 5, "{log}");
    assert!(!log.contains("taken over"), "{log}");
    shop.digest();
}

/// A story that cannot be made is set aside with its reason, can be tried alone by the command that
/// is given, and is made once the cause is mended and it is let back.
#[test]
fn a_poisoned_story_is_set_aside() {
    let shop = Workshop::new();
    let broken = line("ad", &[true]).replacen('{', "{\"reference_images\": [\"hero.png\"], ", 1);
    let lines = format!("{broken}\n{}", line("tale", &[true]));
    let manifest = shop.write("manifest.jsonl", lines);
    shop.write("hero.png", BLUE);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let poison = shop.poison("ad");
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(1)
        .saying("01_01.json");
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    let stories = &status["stories"];
    assert_eq!(
        (&stories["quarantined"], &stories["done"]),
        (&1.into(), &1.into())
    );
    let list = shop.ask(&["quarantine", "--json"]).ended_with(0).json();
    assert_eq!(list[0]["story"], "ad");
    assert!(list[0]["reason"].as_str().unwrap().contains("01_01.json"));

    let alone = list[0]["command"].as_str().unwrap();
    let mut words: Vec<&str> = alone
        .split_whitespace()
        .map(|word| word.trim_matches('\''))
        .collect();
    assert_eq!(words.remove(0), "storyloom");
    // The poison lies in the folder of the run; alone the story can be made.
    call(&words).ended_with(0);

    // It stays aside, whatever becomes of the cause, until it is let back.
    fs::remove_file(poison).unwrap();
    finish(&mut shop.run(&manifest, &[])).ended_with(1);
    shop.ask(&["retry", "nobody"]).ended_with(65);
    let back = shop.ask(&["retry", "ad"]).ended_with(0);
    assert_eq!(back.stdout, "ad\n");
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    shop.digest();
    assert_eq!(shop.ask(&["quarantine"]).ended_with(0).stdout.trim(), "");
    let swept = shop.ask(&["memory", "gc", "--json"]).ended_with(0).json();
    assert_eq!(swept["removed"], 0);
}

/// Alone a story becomes what it would be in the run: with its pictures, also when they are gone from
/// where they were, and with all that its line says of them.
#[test]
fn a_story_in_quarantine_can_be_made_alone_as_it_is() {
    let shop = Workshop::new();
    let lines = [
        r##"{"id": "promo", "title": "Mug", "shots": 1, "product_image": "hero.png", "size": [96, 160],
            "fit": "crop", "ground": "#102030", "seed": 5}"##
            .replace('\n', ""),
        line("ad", &[true]).replacen(
            '{',
            r##"{"reference_images": ["hero.png"], "fit": "stretch", "tenant": "north", "##,
            1,
        ),
        r#"{"id": "eyes", "product_image": "hero.png", "shots": 1}"#.to_owned(),
    ];
    let manifest = shop.write("in/m.jsonl", lines.join("\n"));
    shop.write("in/hero.png", BLUE);
    finish(&mut shop.run(&manifest, &[])).ended_with(1);
    let poison = ["promo", "ad"].map(|id| shop.poison(id));
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(1)
        .saying("0 of 3 stories done, 0 failed, 3 in quarantine");
    fs::remove_file(shop.path("in/hero.png")).unwrap();
    let list = shop.ask(&["quarantine", "--json"]).ended_with(0).json();
    for story in list.as_array().unwrap() {
        let command = story["command"].as_str().unwrap();
        let words = command.split_whitespace().skip(1);
        let words: Vec<&str> = words.map(|word| word.trim_matches('\'')).collect();
        // What the rules cannot write, they cannot write alone either.
        let code = if story["story"] == "eyes" { 1 } else { 0 };
        call(&words).ended_with(code);
    }
    for path in poison {
        fs::remove_file(path).unwrap();
    }
    shop.write("in/hero.png", BLUE);
    shop.ask(&["retry", "ad", "promo"]).ended_with(0);
    finish(&mut shop.run(&manifest, &[])).ended_with(1);
    for id in ["promo", "ad"] {
        let there = shop.out().join("stories").join(id);
        let alone = shop.out().join("quarantine").join(id);
        let alone = alone.join("out/stories").join(id);
        let read = |folder: &Path, name: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let [story, same] = [&there, &alone].map(|folder| read(folder, "story.json"));
        for key in ["size", "fit", "ground", "seed", "tenant", "script"] {
            assert_eq!(story[key], same[key], "{id}: {key}");
        }
        let [shot, same] = [&there, &alone].map(|folder| read(folder, "commits/01_01.json"));
        assert_eq!(shot["frames_blake3"], same["frames_blake3"], "{id}");
        let seen = "keyframes/00_00_keyframe0.png";
        let [seen, same] = [&there, &alone].map(|folder| fs::read(folder.join(seen)).unwrap());
        assert!(seen == same, "{id}: other pictures");
    }
}

/// A blue picture of 32 x 24 pixels.
pub const BLUE: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x20\x00\x00\x00\x18\x08\x02\x00\x00\x00\x14\x31\x68\x63\x00\x00\x00\x24\x49\x44\x41\x54\x78\xda\x63\x50\x68\x38\x40\x53\xc4\x30\x6a\xc1\xa8\x05\xa3\x16\x8c\x5a\x30\x6a\xc1\xa8\x05\xa3\x16\x8c\x5a\x30\x34\x2c\x00\x00\xc2\x58\x20\x3d\x34\x5a\xf7\xa5\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";
