//! Inputs that cannot be used when their story is taken, settings that decide what is made of them, and
//! what is said of both.

use std::fs;

use serde_json::{Value, json};
use storyloom_orchestrator::report::write_report;
use storyloom_orchestrator::set_aside::marks;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::Looks;
use storyloom_orchestrator::{FilmShape, PictureSettings, RunTerms, StoryState};
use storyloom_story::{Fit, Ground, LeftOut, Line};

use crate::fixture::{Fixture, brief, id, pictured, story};

/// Files that nobody can make a picture of, for a script and for a brief.
#[test]
fn a_picture_that_cannot_be_opened_keeps_its_own_story_only() {
    let whole = {
        let fixture = Fixture::new();
        fixture.paint("p.png", (64, 64), 200);
        fs::read(fixture.input("p.png")).unwrap()
    };
    let bad = [&b"no picture"[..], b"", &whole[..whole.len() / 2]];
    for content in bad {
        let fixture = Fixture::new();
        fs::write(fixture.input("p.png"), content).unwrap();
        let lines = [
            pictured("ad", &["p.png"]),
            brief("promo", "p.png"),
            story("tale", &["one"]),
        ];
        let outcome = fixture.make(&lines);
        assert_eq!((outcome.done, outcome.set_aside), (1, 2), "{content:?}");
        for (name, reason) in marks(&fixture.folder()).unwrap() {
            let told = reason.contains("p.png") && reason.contains("cannot be used");
            assert!(told, "{name}: {reason}");
        }
        let plan = fixture.config.out.join("stories/promo/plan.json");
        assert!(!plan.exists(), "no planner can look at it");
        // Once it can be opened, the next start makes them.
        fixture.paint("p.png", (64, 64), 200);
        let outcome = fixture.make(&lines);
        assert_eq!((outcome.done, outcome.set_aside), (3, 0));
        assert!(marks(&fixture.folder()).unwrap().is_empty());
        assert!(fixture.verdict().ok, "{:?}", fixture.verdict().problems);
    }
}

/// A manifest names pictures in its folder only, also when a link was put there since it was read, unless
/// the person who runs the program widens the folder.
#[test]
fn a_link_that_leaves_the_folder_of_a_manifest_is_not_followed() {
    let mut fixture = Fixture::new();
    fixture.paint("../secret.png", (64, 64), 200);
    std::os::unix::fs::symlink("../secret.png", fixture.input("p.png")).unwrap();
    let lines = [brief("promo", "p.png"), pictured("ad", &["p.png"])];
    let outcome = fixture.make(&lines);
    assert_eq!((outcome.done, outcome.set_aside), (0, 2));
    let marks = marks(&fixture.folder()).unwrap();
    for story in ["promo", "ad"] {
        assert!(marks[&id(story)].contains("link"), "{marks:?}");
    }
    let wider = fixture.config.input_folder.clone();
    fixture.config.input_folder = wider.within(fixture.input("").parent().map(Into::into));
    assert_eq!(fixture.make(&lines).done, 2);
    // What was begun goes on where the folder is narrow again: as with a picture that is gone.
    fixture.config.input_folder = fixture.config.input_folder.within(None);
    assert_eq!(fixture.make(&lines).done, 2);
}

#[test]
fn a_story_without_its_script_is_set_aside_and_the_others_go_on() {
    let mut fixture = Fixture::new();
    let lines = [story("ad", &["one"]), story("tale", &["one"])];
    assert_eq!(fixture.make(&lines[..1]).done, 1);
    let before = (
        fixture.verdict(),
        fs::read(fixture.story_path("ad")).unwrap(),
    );
    let left_out = |name: &str, position| LeftOut {
        story: id(name),
        reason: "its script \"s.json\" cannot be used: no such file".to_owned(),
        position,
    };
    // One that was made, and one that nobody knows.
    fixture.config.left_out = vec![left_out("ad", 0), left_out("new", 2)];
    let outcome = fixture.make(&lines[1..]);
    assert_eq!((outcome.stories, outcome.done), (3, 1));
    assert_eq!(outcome.set_aside, 2);
    assert_eq!(fs::read(fixture.story_path("ad")).unwrap(), before.1);
    let seen = fixture.status();
    assert_eq!((seen.stories.total, seen.stories.set_aside), (3, 2));
    let ad = seen.list.iter().find(|story| story.id == id("ad")).unwrap();
    assert!(ad.set_aside.as_ref().unwrap().contains("s.json"));
    assert_eq!(ad.done, 1, "what was made stays");
    fixture.config.left_out.clear();
    assert_eq!(fixture.make(&lines).done, 2);
    assert!(marks(&fixture.folder()).unwrap().is_empty());
    assert!(fixture.verdict().ok, "{:?}", fixture.verdict().problems);
}

/// What decides the pictures of stories that are not begun must be the same at every start.
#[test]
fn how_pictures_are_put_into_films_belongs_to_the_run() {
    type Change = fn(&mut PictureSettings);
    let changes: [(&str, Change); 3] = [
        ("pictures.fit", |pictures| pictures.fit = Fit::Crop),
        ("pictures.ground", |pictures| {
            pictures.ground = Ground([0; 3]);
        }),
        ("pictures.shape", |pictures| {
            pictures.shape = FilmShape::Video;
        }),
    ];
    let lines = [story("ad", &["one"])];
    let begin = |fixture: &Fixture| {
        let terms = RunTerms::new(&fixture.config, &lines, &SimulatedEngine::default()).unwrap();
        let begun = fixture.folder().begin(&fixture.config, &terms, &lines);
        begun.map(drop).map_err(|error| error.to_string())
    };
    for (key, change) in changes {
        let mut fixture = Fixture::new();
        begin(&fixture).unwrap();
        change(&mut fixture.config.pictures);
        let refused = begin(&fixture).unwrap_err();
        assert!(refused.contains(key), "{refused}");
        let admitted = fixture.folder().admit(&fixture.config, &lines);
        assert!(admitted.is_err(), "{key}");
        // Runs of earlier versions do not say it: they had what everybody has,
        forget_pictures(&fixture, &json!(null));
        assert!(begin(&fixture).unwrap_err().contains(key));
        fixture.config.pictures = PictureSettings::default();
        begin(&fixture).unwrap();
        // or what their settings were.
        change(&mut fixture.config.pictures);
        let PictureSettings { fit, ground, shape } = fixture.config.pictures;
        let settings = json!({"pictures": {"fit": fit, "ground": ground, "shape": shape}});
        forget_pictures(&fixture, &settings);
        begin(&fixture).unwrap();
        fixture.config.pictures = PictureSettings::default();
        assert!(begin(&fixture).unwrap_err().contains(key));
    }
}

/// Leaves `run.json` as earlier versions wrote it, with these settings.
pub fn forget_pictures(fixture: &Fixture, settings: &Value) {
    let path = fixture.config.out.join("run.json");
    let mut run: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let identity = run["identity"].as_object_mut().unwrap();
    identity.retain(|key, _| !key.starts_with("pictures."));
    identity.retain(|key, _| !["method", "digest"].contains(&key.as_str()));
    run["config"] = settings.clone();
    run["version"] = json!("0.1.0");
    run.as_object_mut().unwrap().remove("digest");
    fs::write(&path, run.to_string()).unwrap();
}

/// The states that the table of the report has.
fn reported(fixture: &Fixture) -> Vec<Looks> {
    let folder = fixture.folder();
    write_report(&folder).unwrap();
    let data = fs::read_to_string(fixture.config.out.join("report/data/0.js")).unwrap();
    let rows = data.split_once(", ").unwrap().1.trim_end();
    let rows = rows.strip_suffix(");").unwrap();
    let rows: Vec<Vec<Value>> = serde_json::from_str(rows).unwrap();
    let states = rows.into_iter().map(|mut row| row.swap_remove(2));
    states
        .map(|state| serde_json::from_value(state).unwrap())
        .collect()
}

/// The report says of every story what `status` says, also when nothing but the world around it changes.
#[test]
fn the_report_and_the_status_agree() {
    let fixture = Fixture::new();
    fixture.paint("p.png", (64, 64), 200);
    let lines: [Line; 3] = [
        pictured("ad", &["p.png"]),
        story("tale", &["one", "two"]),
        story("end", &["one"]),
    ];
    assert_eq!(fixture.make(&lines).done, 3);
    let expect = |expected: [Looks; 3]| {
        assert_eq!(reported(&fixture), expected);
        let seen = fixture.status();
        let looks: Vec<Looks> = seen.list.iter().map(|story| story.looks()).collect();
        assert_eq!(looks, expected);
        for looks in Looks::ALL {
            let listed = expected.iter().filter(|other| **other == looks).count();
            assert_eq!(looks.count(&seen.stories), listed, "{looks:?}");
        }
    };
    expect([Looks::Done; 3]);
    // A program died in the middle of this one.
    let folder = fixture.folder();
    let mut file = folder.story_file(&id("tale")).unwrap();
    file.state = StoryState::Running;
    folder.write_story(&file).unwrap();
    let record = fixture.config.out.join("stories/tale/commits/01_02.json");
    fs::remove_file(record).unwrap();
    expect([Looks::Done, Looks::Interrupted, Looks::Done]);
    // Nothing in the folder of the story changes when it is set aside.
    fixture.paint("p.png", (64, 64), 9);
    let outcome = fixture.make(&lines);
    assert_eq!((outcome.done, outcome.set_aside), (2, 1));
    expect([Looks::Changed, Looks::Done, Looks::Done]);
    let page = fixture.config.out.join("report/stories/ad.html");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("Set aside") && page.contains("has changed since"));
    let index = fs::read_to_string(fixture.config.out.join("report/index.html")).unwrap();
    assert!(index.contains("One needs attention") && !index.contains("storyloom retry"));
    fixture.paint("p.png", (64, 64), 200);
    assert_eq!(fixture.make(&lines).done, 3);
    expect([Looks::Done; 3]);
    let page = fixture.config.out.join("report/stories/ad.html");
    assert!(!fs::read_to_string(page).unwrap().contains("Set aside"));
}
