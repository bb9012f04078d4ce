//! What is asked for, from start to start: stories that nobody has taken yet, and inputs that change
//! behind their paths.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod fixture;
mod unusable;

use std::fs;
use std::path::Path;

use storyloom_memory::PolicySettings;
use storyloom_orchestrator::admission::Asked;
use storyloom_orchestrator::set_aside::marks;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::Counts;
use storyloom_orchestrator::{MethodTerms, RunTerms, ShotEngine, StoryState};
use storyloom_story::{Brief, Line, Method};

use crate::fixture::{Fixture, brief, id, pictured, story};

#[test]
fn a_run_is_seen_before_any_story_has_a_file() {
    let fixture = Fixture::new();
    let lines = [story("ad", &["one", "two"]), story("tale", &["one"])];
    fixture.begin(&lines);
    assert!(!fixture.config.out.join("stories").exists());
    let seen = fixture.status();
    let counts = |total| Counts {
        total,
        pending: total,
        ..Counts::default()
    };
    assert_eq!((seen.stories, seen.shots), (counts(2), counts(3)));
    let problems = fixture.verdict().problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.message == "the story is not finished")
    );
    // A longer list, in which a story that nobody has begun has other words: that is what is made.
    let longer = [story("new", &["three"]), story("ad", &["one", "other"])];
    fixture.begin(&longer);
    let shots = |name: &str| {
        let file = fixture.folder().story_file(&id(name)).unwrap();
        let prompts = file.shots().map(|(_, shot)| shot.prompt.clone());
        prompts.collect::<Vec<_>>()
    };
    assert_eq!(shots("ad"), ["one", "other"]);
    assert_eq!(shots("tale"), ["one"], "only the first list has it");
    assert_eq!(fixture.status().stories.total, 3);
    // Every finished story has a file of its own.
    let all = [&longer[..], &lines[1..]].concat();
    assert_eq!(fixture.make(&all).done, 3);
    for name in ["ad", "tale", "new"] {
        assert!(fixture.story_path(name).is_file(), "{name}");
    }
    assert!(fixture.verdict().ok, "{:?}", fixture.verdict().problems);
    fs::remove_dir_all(fixture.config.out.join("lists")).unwrap();
    assert_eq!(
        fixture.status().stories.done,
        3,
        "nobody needs the lists any more"
    );
}

/// A story that is pending in a folder of an earlier version, with a file of its own, is nothing else
/// than one that is only listed.
#[test]
fn what_nobody_has_begun_is_made_as_it_is_asked_for() {
    let fixture = Fixture::new();
    let before = [story("ad", &["one"]), story("tale", &["one"])];
    fixture.begin(&before);
    let file = fixture.folder().story_file(&id("ad")).unwrap();
    fixture.folder().write_story(&file).unwrap();
    let now = [story("ad", &["other", "more"]), story("tale", &["other"])];
    let asked = fixture.begin(&now);
    assert!(
        asked.iter().all(|asked| matches!(asked, Asked::New(_))),
        "{asked:?}"
    );
    assert_eq!(fixture.make(&now).done, 2);
    assert_eq!(fixture.status().shots.done, 3);
    assert!(fixture.verdict().ok, "{:?}", fixture.verdict().problems);
}

/// How the input of a finished story may be another at the next start.
#[test]
fn changed_inputs_set_their_story_aside_and_no_other() {
    type Change = fn(&Fixture, &mut Vec<Line>);
    fn replace(fixture: &Fixture, size: (u32, u32), shade: u8) {
        fixture.paint("p.png", size, shade);
    }
    let table: [(&str, Change, bool); 12] = [
        ("the same", |_, _| {}, true),
        (
            "another colour",
            |fixture, _| replace(fixture, (64, 64), 9),
            false,
        ),
        (
            "another size",
            |fixture, _| replace(fixture, (32, 64), 200),
            false,
        ),
        (
            "touched",
            |fixture, _| {
                let path = fixture.input("p.png");
                let file = fs::File::options().append(true).open(path).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH)
                    .unwrap();
            },
            true,
        ),
        (
            "written again",
            |fixture, _| replace(fixture, (64, 64), 200),
            true,
        ),
        (
            "another name",
            |fixture, lines| {
                fs::rename(fixture.input("p.png"), fixture.input("q.png")).unwrap();
                lines[0] = pictured("ad", &["q.png"]);
            },
            true,
        ),
        (
            "a link to another",
            |fixture, _| {
                fs::remove_file(fixture.input("p.png")).unwrap();
                std::os::unix::fs::symlink("other.png", fixture.input("p.png")).unwrap();
            },
            false,
        ),
        (
            "a link to a copy",
            |fixture, _| {
                fs::rename(fixture.input("p.png"), fixture.input("copy.png")).unwrap();
                std::os::unix::fs::symlink("copy.png", fixture.input("p.png")).unwrap();
            },
            true,
        ),
        (
            "gone",
            |fixture, _| fs::remove_file(fixture.input("p.png")).unwrap(),
            true,
        ),
        (
            "another script",
            |_, lines| {
                let Line::Story(entry) = &mut lines[0] else {
                    return;
                };
                entry.script.scenes[0].shots[0].prompt = "a cup".to_owned();
            },
            false,
        ),
        (
            "one picture more",
            |_, lines| lines[0] = pictured("ad", &["p.png", "other.png"]),
            false,
        ),
        ("a brief", |_, lines| lines[0] = brief("ad", "p.png"), false),
    ];
    for (what, change, same) in table {
        // As this version leaves the folder, and as earlier ones did.
        for is_old in [false, true] {
            let fixture = Fixture::new();
            fixture.paint("p.png", (64, 64), 200);
            fixture.paint("other.png", (64, 64), 10);
            let lines = vec![pictured("ad", &["p.png"]), story("tale", &["one"])];
            assert_eq!(fixture.make(&lines).done, 2, "{what}");
            if is_old {
                forget_inputs(&fixture.story_path("ad"));
                unusable::forget_pictures(&fixture, &serde_json::Value::Null);
                fs::remove_file(fixture.config.out.join("lists/run.json")).unwrap();
            }
            let (before, file) = (
                fixture.verdict(),
                fs::read(fixture.story_path("ad")).unwrap(),
            );
            let mut changed = lines.clone();
            change(&fixture, &mut changed);
            let outcome = fixture.make(&changed);
            let expected = if same { (2, 0) } else { (1, 1) };
            assert_eq!(
                (outcome.done, outcome.set_aside),
                expected,
                "{what}, old: {is_old}"
            );
            // What was made is not touched, and what is said of it is so.
            assert_eq!(fixture.verdict(), before, "{what}");
            assert_eq!(fs::read(fixture.story_path("ad")).unwrap(), file, "{what}");
            let seen = fixture.status();
            assert_eq!(seen.stories.set_aside, usize::from(!same), "{what}");
            assert_eq!(seen.stories.failed, usize::from(!same), "{what}");
            assert_eq!(seen.shots.done, 2, "{what}");
            let reason = seen.list[0].set_aside.clone().unwrap_or_default();
            assert!(
                same || reason.contains("has changed since"),
                "{what}: {reason}"
            );
        }
    }
}

/// As earlier versions wrote it.
fn forget_inputs(path: &Path) {
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for key in ["inputs", "digest"] {
        assert!(file.as_object_mut().unwrap().remove(key).is_some());
    }
    fs::write(path, serde_json::to_vec_pretty(&file).unwrap()).unwrap();
}

#[test]
fn a_mark_goes_when_the_input_is_back_or_the_story_is_made_anew() {
    let fixture = Fixture::new();
    fixture.paint("p.png", (64, 64), 200);
    let lines = [brief("ad", "p.png"), story("tale", &["one"])];
    assert_eq!(fixture.make(&lines).done, 2);
    fixture.paint("p.png", (64, 64), 9);
    assert_eq!(fixture.make(&lines).set_aside, 1);
    assert_eq!(marks(&fixture.folder()).unwrap().len(), 1);
    fixture.paint("p.png", (64, 64), 200);
    assert_eq!(fixture.make(&lines).done, 2);
    assert!(marks(&fixture.folder()).unwrap().is_empty());
    fixture.paint("p.png", (64, 64), 9);
    assert_eq!(fixture.make(&lines).set_aside, 1);
    // What the reason says.
    fs::remove_dir_all(fixture.config.out.join("stories/ad")).unwrap();
    assert_eq!(fixture.status().stories.total, 2);
    assert_eq!(fixture.make(&lines).done, 2);
    assert!(marks(&fixture.folder()).unwrap().is_empty());
    assert!(fixture.verdict().ok);
    // Of a story that is not asked for any more nothing is said.
    fixture.paint("p.png", (64, 64), 10);
    assert_eq!(fixture.make(&lines).set_aside, 1);
    assert_eq!(fixture.make(&lines[1..]).done, 1);
    assert!(marks(&fixture.folder()).unwrap().is_empty());
}

#[test]
fn a_picture_that_is_gone_before_its_story_was_begun_keeps_that_story_only() {
    let fixture = Fixture::new();
    fixture.paint("p.png", (64, 64), 200);
    let wrong = Line::Brief(Brief {
        product_image_sha256: Some("0".repeat(64)),
        ..match brief("wrong", "p.png") {
            Line::Brief(brief) => brief,
            Line::Story(_) => return,
        }
    });
    let lines = [
        pictured("ad", &["gone.png"]),
        story("tale", &["one"]),
        wrong,
    ];
    let outcome = fixture.make(&lines);
    assert_eq!((outcome.done, outcome.set_aside), (1, 2));
    let seen = fixture.status();
    let reason = |place: usize| seen.list[place].set_aside.clone().unwrap();
    assert!(reason(0).contains("gone.png"), "{}", reason(0));
    assert!(reason(2).contains("the brief says"), "{}", reason(2));
    // Once it is there, the next start makes it.
    fixture.paint("gone.png", (64, 64), 7);
    assert_eq!(fixture.make(&lines[..2]).done, 2);
    let state = fixture.folder().story_file(&id("ad")).unwrap().state;
    assert_eq!(state, StoryState::Done);
}

/// A picture that changes between the plan and the first shot.
#[test]
fn what_was_noted_of_a_picture_counts_from_the_first_work_on() {
    let fixture = Fixture::new();
    fixture.paint("p.png", (64, 64), 200);
    let lines = [pictured("ad", &["p.png"])];
    fixture.make(&lines);
    let noted = fixture.folder().story_file(&id("ad")).unwrap().inputs;
    assert_eq!(noted.len(), 1);
    assert_eq!(
        noted[0].bytes,
        fs::metadata(fixture.input("p.png")).unwrap().len()
    );
    // Nothing is left of the story but its file: whatever was noted does not bind.
    let story = fixture.config.out.join("stories/ad");
    let mut file = fixture.folder().story_file(&id("ad")).unwrap();
    file.state = StoryState::Running;
    fs::remove_dir_all(&story).unwrap();
    fixture.folder().write_story(&file).unwrap();
    fixture.paint("p.png", (64, 64), 9);
    let outcome = fixture.make(&lines);
    assert_eq!((outcome.done, outcome.set_aside), (1, 0));
    let now = fixture.folder().story_file(&id("ad")).unwrap().inputs;
    assert_ne!(now[0].sha256, noted[0].sha256);
    assert!(fixture.verdict().ok, "{:?}", fixture.verdict().problems);
}

#[test]
fn another_adapter_under_the_same_name_is_named() {
    let fixture = Fixture::new();
    let method = Method::StoryMem;
    let terms = |digest: &str| -> RunTerms {
        let mut engine = SimulatedEngine::default().describe(method).unwrap();
        engine.fingerprint = digest.to_owned();
        engine.models = vec![
            ("clip".to_owned(), "1".to_owned()),
            ("lora/high".to_owned(), digest.to_owned()),
        ];
        let terms = MethodTerms::new(
            method,
            engine,
            PolicySettings::new(method, &fixture.config.memory()),
        );
        [(method, terms)].into_iter().collect()
    };
    let lines = [story("ad", &["one"])];
    let begin = |digest| {
        fixture
            .folder()
            .begin(&fixture.config, &terms(digest), &lines)
    };
    begin("a").unwrap();
    begin("a").unwrap();
    let refused = begin("b").unwrap_err().to_string();
    assert!(
        refused.contains("lora/high has another content"),
        "{refused}"
    );
    assert!(!refused.contains("clip"), "{refused}");
}
