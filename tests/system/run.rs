//! A run from its first shot to its report: complete, resumable, and honest about both.

use std::fs;
use std::path::Path;

use crate::durable::MORE;
use crate::harness::{Signal, Workshop, finish, frames, line, signal_when};

/// A blue picture of 32 x 24 pixels.
const PNG: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x20\x00\x00\x00\x18\x08\x02\x00\x00\x00\x14\x31\x68\x63\x00\x00\x00\x24\x49\x44\x41\x54\x78\xda\x63\x50\x68\x38\x40\x53\xc4\x30\x6a\xc1\xa8\x05\xa3\x16\x8c\x5a\x30\x6a\xc1\xa8\x05\xa3\x16\x8c\x5a\x30\x34\x2c\x00\x00\xc2\x58\x20\x3d\x34\x5a\xf7\xa5\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";

const STORIES: [(&str, &[bool]); 2] = [("ad", &[true, false]), ("tale", &[true, true, false])];

#[test]
fn every_shot_is_made_once_and_decodes() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    for (story, cuts) in STORIES {
        let folder = shop.out().join("stories").join(story);
        let mut total = 0;
        for (cut, position) in cuts.iter().zip(1..) {
            let found = frames(&folder.join(format!("01_{position:02}.mp4")));
            assert_eq!(found, if *cut { 9 } else { 8 }, "{story} {position}");
            total += found;
        }
        assert_eq!(frames(&folder.join("story.mp4")), total);
    }
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(
        (&status["stories"]["done"], &status["shots"]["done"]),
        (&2.into(), &5.into())
    );
    assert_eq!(status["shots"]["total"], 5);
    assert_eq!(shop.digest().len(), 64);
    shop.ask(&["report"]).ended_with(0);
    let page = fs::read_to_string(shop.out().join("report/index.html")).unwrap();
    assert!(page.contains("tale") && page.contains("ad"));
    assert!(
        shop.ask(&["memory", "tale"])
            .ended_with(0)
            .stdout
            .contains("01_03")
    );
}

#[test]
fn a_second_start_makes_nothing_again() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let before = shop.products();
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    assert_eq!(shop.products(), before);
}

/// Runs until something is committed, ends the program with `signal`, and runs again.
#[track_caller]
fn interrupted(signal: Signal, code: Option<i32>) {
    let calm = Workshop::new();
    let manifest = calm.manifest(&MORE);
    finish(&mut calm.run(&manifest, &[])).ended_with(0);

    let shop = Workshop::new();
    let committed = || count(&shop.out().join("stories/ad/commits")) > 0;
    let slow = &["simulated.step_ms=300"];
    let ended = signal_when(&mut shop.run(&manifest, slow), signal, committed);
    assert_eq!(ended.code, code, "{}", ended.stderr);
    let before = shop.products();
    let commits: Vec<_> = before
        .keys()
        .filter(|path| path.parent().unwrap().ends_with("commits"))
        .filter(|path| is_record(path))
        .collect();
    assert!(!commits.is_empty() && commits.len() < 12, "{commits:?}");
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let after = shop.products();
    for commit in commits {
        assert_eq!(
            before[commit],
            after[commit],
            "{} was made again",
            commit.display()
        );
    }
    assert_eq!(shop.digest(), calm.digest());
}

fn count(folder: &Path) -> usize {
    let files = fs::read_dir(folder).into_iter().flatten();
    files
        .filter(|entry| is_record(&entry.as_ref().unwrap().path()))
        .count()
}

/// A killed program may leave a record that has not got its name; that of an unfinished file begins
/// with a point.
fn is_record(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.ends_with(".json") && !name.starts_with('.')
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    interrupted(Signal::KILL, None);
}

#[test]
fn a_run_asked_to_stop_saves_and_says_so() {
    interrupted(Signal::TERM, Some(75));
}

#[test]
fn a_hundred_shots_are_a_story() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("long", &[true; 100])]);
    finish(&mut shop.run(
        &manifest,
        &["video.frames=1", "video.width=16", "video.height=16"],
    ))
    .ended_with(0);
    assert_eq!(count(&shop.out().join("stories/long/commits")), 100);
}

#[test]
fn damage_is_found() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let video = shop.out().join("stories/ad/01_02.mp4");
    fs::write(&video, b"not a video").unwrap();
    let verified = shop.ask(&["verify", "--json"]);
    assert_eq!(verified.code, Some(1), "{}", verified.stderr);
    assert!(verified.stdout.contains("01_02"), "{}", verified.stdout);
}

#[test]
fn a_run_folder_belongs_to_its_settings_and_stories() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    finish(&mut shop.run(&manifest, &["run.seed=1"]))
        .ended_with(78)
        .saying("run.seed (was 0, is 1)");
    for (setting, told) in [
        (
            "storymem.steps=3",
            "the engine: storymem.steps (was 2, is 3);",
        ),
        ("video.height=64", "settings: video.height (was 48, is 64);"),
        (
            "storymem.similarity_start=0.8",
            "settings: storymem.similarity_start (was 0.9, is 0.8);",
        ),
        (
            "storymem.selection=first-frame",
            "settings: storymem.selection (was \"semantic\", is \"first-frame\");",
        ),
    ] {
        finish(&mut shop.run(&manifest, &[setting]))
            .ended_with(78)
            .saying(told);
    }
    finish(&mut shop.run(&manifest, &["video.fps=24"]))
        .ended_with(78)
        .saying("settings: video.fps (was 8, is 24);")
        .saying("\"Another rate\" in docs/videos.md");
    let other = shop.manifest(&[("ad", &[true, true])]);
    finish(&mut shop.run(&other, &[]))
        .ended_with(65)
        .saying("its script has changed since the story was begun");
    let seen = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(seen["stories"]["set_aside"], 1);
    shop.ask(&["verify"]).ended_with(0);
}

#[test]
fn stories_may_be_made_a_few_at_a_time() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    finish(shop.run(&manifest, &[]).args(["--limit", "1"])).ended_with(0);
    let status = shop
        .ask(&["status", "--json", "--watch"])
        .ended_with(0)
        .json();
    assert_eq!(
        (&status["stories"]["total"], &status["stories"]["done"]),
        (&1.into(), &1.into())
    );
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["stories"]["done"], 2);
}

#[test]
fn continuations_follow_the_settings() {
    for (continuation, saved) in [("mm2v", 4), ("none", 9)] {
        let shop = Workshop::new();
        let manifest = shop.manifest(&STORIES[..1]);
        let set = format!("storymem.continuation={continuation}");
        finish(&mut shop.run(&manifest, &[&set])).ended_with(0);
        assert_eq!(frames(&shop.out().join("stories/ad/01_02.mp4")), saved);
    }
}

#[test]
fn reference_images_are_the_first_memory() {
    let shop = Workshop::new();
    let text =
        line("ad", &[true, true]).replacen('{', "{\"reference_images\": [\"hero.png\"], ", 1);
    let manifest = shop.write("manifest.jsonl", text);
    shop.write("hero.png", PNG);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let memory = shop.ask(&["memory", "ad", "--json"]).ended_with(0).json();
    assert_eq!(memory["references"].as_array().unwrap().len(), 1);
    assert_eq!(memory["shots"][0]["saw"], memory["references"]);
    shop.digest();
}

#[test]
fn folders_and_stories_that_are_not_there_are_wrong_input() {
    let shop = Workshop::new();
    for command in ["status", "verify", "report"] {
        shop.ask(&[command])
            .ended_with(65)
            .saying("not a run folder");
    }
    let manifest = shop.manifest(&STORIES);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    shop.ask(&["memory", "tail"])
        .ended_with(65)
        .saying("did you mean tale?");
    shop.ask(&["memory", "../x"]).ended_with(2);
}
