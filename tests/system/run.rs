//! A run from its first shot to its report: complete, resumable, and honest about both.

use std::fs;
use std::path::Path;

use crate::harness::{Workshop, finish, frames, signal_when};

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
fn interrupted(signal: &str, code: Option<i32>) {
    let calm = Workshop::new();
    let manifest = calm.manifest(&STORIES);
    finish(&mut calm.run(&manifest, &[])).ended_with(0);

    let shop = Workshop::new();
    let committed = || count(&shop.out().join("stories/ad/commits")) > 0;
    let ended = signal_when(&mut shop.run(&manifest, &[]), signal, committed);
    assert_eq!(ended.code, code, "{}", ended.stderr);
    let before = shop.products();
    let commits: Vec<_> = before
        .keys()
        .filter(|path| path.parent().unwrap().ends_with("commits"))
        .collect();
    assert!(!commits.is_empty() && commits.len() < 5, "{commits:?}");
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
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|e| e == "json")
        })
        .count()
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    interrupted("KILL", None);
}

#[test]
fn a_run_asked_to_stop_saves_and_says_so() {
    interrupted("TERM", Some(75));
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
