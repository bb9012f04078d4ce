//! Files of a run that are damaged or lost between two starts: what can be made again is, and what
//! cannot be proven is told.

#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod made;
mod repair;

use std::fs;
use std::sync::Arc;

use storyloom_memory::Disk;
use storyloom_memory::pictures::encode_png;
use storyloom_orchestrator::run::run;
use storyloom_orchestrator::seal::seal;
use storyloom_orchestrator::simulated::SimulatedEngine;
use storyloom_orchestrator::status::status;
use storyloom_orchestrator::verify::{Depth, VerifyProblem};
use storyloom_orchestrator::{RunFolder, StopFlag, Videos};
use storyloom_story::RgbImage;
use storyloom_telemetry::Silent;

use made::{Damage, Made, damages, flip, named_files};

#[test]
fn a_story_json_is_made_again_from_records() {
    let calm = Made::new(Videos::Placeholders);
    calm.run();
    let wanted = calm.verdict(Depth::Content);
    assert!(wanted.ok, "{:?}", wanted.problems);
    for interrupted in [false, true] {
        for (what, damage) in damages() {
            let made = Made::new(Videos::Placeholders);
            made.run();
            if interrupted {
                made.interrupt();
            }
            damage(&made.story(0).join("story.json"));
            made.look_on(what);
            let outcome = made.run();
            assert_eq!((outcome.done, outcome.set_aside), (2, 0), "{what}");
            let verdict = made.verdict(Depth::Content);
            assert!(verdict.ok, "{what}: {:?}", verdict.problems);
            assert_eq!(verdict.content_digest, wanted.content_digest, "{what}");
        }
    }
}

#[test]
fn another_storys_file_is_not_taken_for_its_own() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    fs::copy(
        made.story(1).join("story.json"),
        made.story(0).join("story.json"),
    )
    .unwrap();
    assert_eq!(made.run().done, 2);
    let verdict = made.verdict(Depth::Content);
    assert!(verdict.ok, "{:?}", verdict.problems);
    // What stood there is kept.
    assert!(made.story(0).join("story.json.damaged-1").is_file());
}

#[test]
fn records_of_other_words_are_not_taken_for_a_lost_story() {
    let mut made = Made::new(Videos::Placeholders);
    made.run();
    fs::remove_file(made.story(0).join("story.json")).unwrap();
    made.manifest.stories[0].script.scenes[0].shots[1].prompt = "Another shot.".to_owned();
    let outcome = made.run();
    assert_eq!((outcome.done, outcome.set_aside), (1, 1));
}

#[test]
fn the_size_of_a_lost_story_is_that_of_its_records() {
    for shots_are_there in [true, false] {
        let mut made = Made::new(Videos::Placeholders);
        let inputs = made.config.out.with_file_name("in");
        fs::create_dir(&inputs).unwrap();
        let hero = RgbImage::new(40, 80, vec![90; 40 * 80 * 3]).unwrap();
        fs::write(inputs.join("hero.png"), encode_png(&hero).unwrap()).unwrap();
        made.config.input_folder = inputs.clone().into();
        made.manifest.stories[0].reference_images = vec!["hero.png".to_owned()];
        made.run();
        let wanted = made.verdict(Depth::Content);
        assert!(wanted.ok, "{:?}", wanted.problems);
        made.interrupt();
        fs::remove_file(made.story(0).join("story.json")).unwrap();
        if !shots_are_there {
            for shot in ["01_01", "01_02"] {
                fs::remove_file(made.story(0).join(format!("commits/{shot}.json"))).unwrap();
            }
        }
        // The owner of the pictures has taken them away.
        fs::remove_file(inputs.join("hero.png")).unwrap();
        assert_eq!(made.run().done, 2);
        let verdict = made.verdict(Depth::Content);
        assert_eq!(
            verdict.content_digest, wanted.content_digest,
            "{:?}",
            verdict.problems
        );
    }
}

#[test]
fn a_film_that_is_cut_is_joined_again() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let wanted = made.verdict(Depth::Content);
    for (what, damage) in damages().iter().filter(|(what, _)| *what != "a bit") {
        damage(&made.story(0).join("story.mp4"));
        assert!(!made.verdict(Depth::Content).ok, "{what}");
        assert_eq!(made.run().done, 2);
        assert_eq!(made.verdict(Depth::Content), wanted, "{what}");
    }
}

#[test]
fn a_film_is_never_joined_from_another_shot() {
    let made = Made::new(Videos::Encoded);
    made.run();
    let wanted = made.verdict(Depth::Frames);
    assert!(wanted.ok, "{:?}", wanted.problems);
    let film = fs::read(made.story(0).join("story.mp4")).unwrap();
    made.interrupt();
    fs::copy(
        made.story(1).join("01_02.mp4"),
        made.story(0).join("01_01.mp4"),
    )
    .unwrap();
    assert_eq!(made.run().done, 2);
    let verdict = made.verdict(Depth::Frames);
    assert_eq!(verdict, wanted);
    assert_eq!(fs::read(made.story(0).join("story.mp4")).unwrap(), film);
}

#[test]
fn what_a_record_names_is_made_again_from_it() {
    let calm = Made::new(Videos::Placeholders);
    calm.run();
    let wanted = calm.verdict(Depth::Content);
    let mut tried = 0;
    for interrupted in [false, true] {
        let made = Made::new(Videos::Placeholders);
        made.run();
        if interrupted {
            made.interrupt();
        }
        let records = |made: &Made| fs::read(made.story(0).join("commits/01_02.json")).unwrap();
        let before = records(&made);
        for file in named_files(&made) {
            let size_only = |what: &str| what != "a bit";
            let damages = damages().into_iter().filter(|(what, _)| size_only(what));
            let flip: (&str, Damage) = ("a flipped bit", flip);
            for (what, damage) in damages.chain(interrupted.then_some(flip)) {
                damage(&file);
                let told = format!("{what}: {}, interrupted {interrupted}", file.display());
                assert!(!made.verdict(Depth::Content).ok, "{told}");
                let is_blob = file.starts_with(made.config.out.join("blobs"));
                if is_blob && !interrupted {
                    // Nobody looks at blobs of finished stories but `verify` and `repair`.
                    made.reopen();
                }
                assert_eq!(made.run().done, 2, "{told}");
                let verdict = made.verdict(Depth::Content);
                assert!(verdict.ok, "{told}: {:?}", verdict.problems);
                assert_eq!(verdict.content_digest, wanted.content_digest, "{told}");
                assert_eq!(records(&made), before, "{told}");
                tried += 1;
                if interrupted {
                    made.interrupt();
                }
            }
        }
    }
    assert!(tried >= 60, "{tried}");
}

/// Nothing follows the last record; see `lost_records.rs` for the others.
#[test]
fn a_record_that_says_nothing_sound_gives_way() {
    let calm = Made::new(Videos::Placeholders);
    calm.run();
    let wanted = calm.verdict(Depth::Content).content_digest;
    for (interrupted, last) in [(false, "commits/01_03.json"), (true, "commits/01_02.json")] {
        let damages = damages().into_iter().filter(|(what, _)| *what != "a bit");
        for (what, damage) in damages {
            let made = Made::new(Videos::Placeholders);
            made.run();
            if interrupted {
                made.interrupt();
            }
            damage(&made.story(0).join(last));
            assert_eq!(made.run().done, 2, "{what}");
            let verdict = made.verdict(Depth::Content);
            assert!(verdict.ok, "{what}: {:?}", verdict.problems);
            assert_eq!(verdict.content_digest, wanted, "{what}");
            let aside = made.story(0).join(format!("{last}.damaged-1"));
            assert_eq!(aside.symlink_metadata().is_ok(), what != "gone", "{what}");
        }
    }
}

#[test]
fn a_film_of_other_pictures_is_told() {
    let made = Made::new(Videos::Encoded);
    made.run();
    let story = made.story(0);
    fs::copy(made.story(1).join("story.mp4"), story.join("story.mp4")).unwrap();
    // A person who does so on purpose puts its digest right as well.
    let path = story.join("story.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let other = fs::read(made.story(1).join("story.json")).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&other).unwrap();
    file["video"] = other["video"].clone();
    seal(file.as_object_mut().unwrap());
    fs::write(&path, file.to_string()).unwrap();
    let verdict = made.verdict(Depth::Frames);
    let told = |problem: &&VerifyProblem| problem.message.contains("other pictures");
    assert_eq!(
        verdict.problems.iter().filter(told).count(),
        3,
        "{:?}",
        verdict.problems
    );
}

/// Its script could not be read when it was asked for: nothing but the mark knows of it.
#[test]
fn a_story_of_which_only_a_mark_is_there_is_told() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let folder = RunFolder::new(&made.config.out, Arc::new(Disk));
    let mark = made.config.out.join("changed/late.json");
    fs::create_dir_all(mark.parent().unwrap()).unwrap();
    let text = r#"{"format": 1, "story": "late", "reason": "cannot read late-script.json"}"#;
    fs::write(&mark, text).unwrap();
    let seen = status(&folder).unwrap();
    assert_eq!((seen.stories.total, seen.stories.done), (3, 2));
    let late = seen.list.last().unwrap();
    assert_eq!(late.id.as_str(), "late");
    assert_eq!(
        late.set_aside.as_deref(),
        Some("cannot read late-script.json")
    );
    let verdict = made.verdict(Depth::Content);
    assert!(!verdict.ok && verdict.problems[0].message.contains("late-script.json"));
    fs::remove_file(mark).unwrap();
    assert_eq!(status(&folder).unwrap().stories.total, 2);
    assert!(made.verdict(Depth::Content).ok);
}

/// Folders of earlier builds have no copy of it: then the records tell.
#[test]
fn a_damaged_run_json_comes_back_and_never_for_another_run() {
    let calm = Made::new(Videos::Placeholders);
    calm.run();
    let wanted = calm.verdict(Depth::Content).content_digest;
    let damages = damages().into_iter().filter(|(what, _)| *what != "a bit");
    for ((what, damage), has_copy) in damages.flat_map(|harm| [(harm, true), (harm, false)]) {
        let mut made = Made::new(Videos::Placeholders);
        made.run();
        made.interrupt();
        let path = made.config.out.join("run.json");
        let before = fs::read(&path).unwrap();
        damage(&path);
        let folder = RunFolder::new(&made.config.out, Arc::new(Disk));
        let (mut other, refusal) = (made.config.clone(), "another run.seed");
        other.seed += 1;
        let (engine, stop) = (SimulatedEngine::default(), StopFlag::default());
        let refused = |config| {
            let ended = run(config, &made.manifest, &engine, &Silent, &stop);
            ended.unwrap_err().to_string()
        };
        if has_copy {
            assert_eq!(status(&folder).unwrap().stories.done, 1, "{what}");
            other.window.max_images += 1;
            let told = refused(&other);
            assert!(told.contains("begun with other settings"), "{told}");
        } else {
            fs::remove_file(made.config.out.join("lists/run.json")).unwrap();
            let told = status(&folder).unwrap_err().to_string();
            assert!(told.contains("start the run again"), "{what}: {told}");
            // Another seed makes other pictures, which the records tell.
            let told = refused(&other);
            assert!(told.contains(refusal), "{told}");
        }
        assert_eq!(made.run().done, 2, "{what}");
        let verdict = made.verdict(Depth::Content);
        assert_eq!(
            verdict.content_digest, wanted,
            "{what}: {:?}",
            verdict.problems
        );
        let aside = made.config.out.join("run.json.damaged-1");
        assert_eq!(aside.symlink_metadata().is_ok(), what != "gone", "{what}");
        assert_eq!(fs::read(&path).unwrap() == before, has_copy, "{what}");
        made.config = other;
    }
}

/// The record of the pictures says what the pictures do.
#[test]
fn damaged_references_are_made_again_from_the_pictures() {
    let mut made = Made::new(Videos::Placeholders);
    let inputs = made.config.out.with_file_name("in");
    fs::create_dir(&inputs).unwrap();
    let hero = RgbImage::new(64, 48, (0..64 * 48 * 3).map(|n| n as u8).collect()).unwrap();
    fs::write(inputs.join("hero.png"), encode_png(&hero).unwrap()).unwrap();
    made.config.input_folder = inputs.into();
    made.manifest.stories[0].reference_images = vec!["hero.png".to_owned()];
    made.run();
    let wanted = made.verdict(Depth::Content);
    assert!(wanted.ok, "{:?}", wanted.problems);
    let flip: (&str, Damage) = ("a flipped bit", flip);
    for file in ["commits/references.json", "keyframes/00_00_keyframe0.png"] {
        let path = made.story(0).join(file);
        let before = fs::read(&path).unwrap();
        for interrupted in [false, true] {
            let damages = damages().into_iter().filter(|(what, _)| *what != "a bit");
            for (what, damage) in damages.chain(interrupted.then_some(flip)) {
                if interrupted {
                    made.interrupt();
                }
                damage(&path);
                assert_eq!(made.run().done, 2, "{file} {what}");
                assert_eq!(fs::read(&path).unwrap(), before, "{file} {what}");
                assert_eq!(made.verdict(Depth::Content), wanted, "{file} {what}");
            }
        }
    }
}
