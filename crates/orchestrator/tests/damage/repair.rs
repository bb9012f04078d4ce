//! `repair`: what it heals, what it leaves to the next start, and that it only looks at what is healthy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use storyloom_memory::Disk;
use storyloom_orchestrator::lease::{Claim, Leases};
use storyloom_orchestrator::repair::{CameTo, Repair, Repaired, lines, repair};
use storyloom_orchestrator::verify::Depth;
use storyloom_orchestrator::{RunFolder, Videos};
use storyloom_story::StoryId;

use super::made::{Damage, Made, damages, flip, named_files};

/// How long a program of these tests may show no sign of life.
const LEASE_TIMEOUT: Duration = Duration::from_secs(2);

fn repaired(made: &Made, stories: &[StoryId], anew: bool) -> Repaired {
    let folder = RunFolder::new(&made.config.out, Arc::new(Disk));
    let how = Repair {
        stories,
        anew,
        lease_timeout: LEASE_TIMEOUT,
    };
    repair(&folder, &how).unwrap()
}

/// Every file below a folder with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn a_healthy_run_is_only_looked_at() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let stories = made.config.out.join("stories");
    let before = contents(&stories);
    let found = repaired(&made, &[], false);
    assert_eq!((found.stories, found.deeds), (2, Vec::new()));
    assert_eq!(contents(&stories), before);
    made.interrupt();
    let before = contents(&stories);
    assert_eq!(repaired(&made, &[], false).deeds, []);
    assert_eq!(contents(&stories), before);
}

/// Also what only contents tell, of finished stories.
#[test]
fn after_repair_and_a_start_all_is_as_it_was() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let wanted = made.verdict(Depth::Content);
    let story = made.story(0);
    let mut files = named_files(&made);
    files.extend(["commits/01_03.json", "story.mp4", "story.json"].map(|name| story.join(name)));
    let flip: (&str, Damage) = ("a flipped bit", flip);
    for file in files {
        let others = damages().into_iter().filter(|(what, _)| *what != "a bit");
        for (what, damage) in others.chain([flip]) {
            damage(&file);
            let told = format!("{what}: {}", file.display());
            let sound_still = made.verdict(Depth::Content).ok;
            let found = repaired(&made, &[], false);
            // A flipped bit in story.json may be one of no consequence.
            assert!(sound_still || !found.deeds.is_empty(), "{told}");
            assert!(!found.came_to(CameTo::Left), "{told}: {:?}", found.deeds);
            if !file.ends_with("story.json") {
                let name = file.to_str().unwrap();
                let mut deeds = found.deeds.iter();
                assert!(deeds.all(|deed| deed.what.contains(name)), "{found:?}");
            }
            assert_eq!(made.run().done, 2, "{told}");
            assert_eq!(made.verdict(Depth::Content), wanted, "{told}");
            assert_eq!(repaired(&made, &[], false).deeds, [], "{told}");
        }
    }
}

#[test]
fn a_film_is_joined_again_without_a_start() {
    let made = Made::new(Videos::Encoded);
    made.run();
    let wanted = made.verdict(Depth::Frames);
    let film = made.story(0).join("story.mp4");
    let before = fs::read(&film).unwrap();
    fs::copy(made.story(1).join("story.mp4"), &film).unwrap();
    let found = repaired(&made, &[], false);
    let came_to: Vec<CameTo> = found.deeds.iter().map(|deed| deed.came_to).collect();
    assert_eq!((came_to, found.to_make), (vec![CameTo::Healed], Vec::new()));
    assert_eq!(fs::read(&film).unwrap(), before);
    assert_eq!(made.verdict(Depth::Frames), wanted);
}

/// A program that is killed between its commit and the names of its files leaves them staged.
#[test]
fn a_file_that_lies_under_its_content_gets_its_name() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let wanted = made.verdict(Depth::Content);
    let story = made.story(0);
    let keyframes = fs::read_dir(story.join("keyframes")).unwrap();
    let keyframe = keyframes.map(|entry| entry.unwrap().path()).min().unwrap();
    let name = blake3::hash(&fs::read(&keyframe).unwrap()).to_hex();
    fs::create_dir_all(story.join(".staged")).unwrap();
    fs::rename(&keyframe, story.join(format!(".staged/{name}.png"))).unwrap();
    let found = repaired(&made, &[], false);
    assert_eq!(found.deeds.len(), 1);
    assert_eq!(found.deeds[0].came_to, CameTo::Healed);
    assert_eq!(made.verdict(Depth::Content), wanted);
}

#[test]
fn a_story_in_other_hands_is_left_to_them() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let ids: Vec<StoryId> = made
        .manifest
        .stories
        .iter()
        .map(|story| story.id.clone())
        .collect();
    for place in [0, 1] {
        fs::remove_file(made.story(place).join("01_02.mp4")).unwrap();
    }
    let leases = made.config.out.join("leases");
    let others = Leases::join(&leases, Arc::new(Disk), LEASE_TIMEOUT).unwrap();
    let Claim::Held { lease, .. } = others.claim(&ids[0]).unwrap() else {
        panic!("nobody has it")
    };
    let found = repaired(&made, &[], false);
    let came_to: Vec<_> = found
        .deeds
        .iter()
        .map(|deed| (deed.story.clone(), deed.came_to))
        .collect();
    let expected = [
        (ids[0].clone(), CameTo::Left),
        (ids[1].clone(), CameTo::ToMake),
    ];
    assert_eq!(
        came_to,
        expected.map(|(story, came_to)| (Some(story), came_to))
    );
    assert_eq!(found.to_make, [ids[1].clone()]);
    lease.release().unwrap();
    // Only what is asked for.
    assert_eq!(repaired(&made, &ids[1..], false).to_make, [ids[1].clone()]);
}

/// Where a shot cannot come out as it was, it and all that have seen it are made anew.
#[test]
fn shots_can_be_made_anew() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let wanted = made.verdict(Depth::Content);
    let story = made.story(0);
    fs::remove_file(story.join("01_02.mp4")).unwrap();
    let found = repaired(&made, &[], true);
    assert_eq!(found.to_make.len(), 1);
    for (shot, is_there) in [("01_01", true), ("01_02", false), ("01_03", false)] {
        assert_eq!(
            story.join(format!("commits/{shot}.json")).is_file(),
            is_there,
            "{shot}"
        );
    }
    assert!(story.join("commits/01_03.json.damaged-1").is_file());
    assert_eq!(made.run().done, 2);
    // This engine makes the same again.
    assert_eq!(made.verdict(Depth::Content), wanted);
}

/// What a start without the manifest is asked for.
#[test]
fn stories_are_asked_for_again_as_they_were_begun() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let folder = RunFolder::new(&made.config.out, Arc::new(Disk));
    let ids: Vec<StoryId> = made
        .manifest
        .stories
        .iter()
        .map(|story| story.id.clone())
        .collect();
    let asked = lines(&folder, &ids);
    assert_eq!(asked.len(), 2);
    for (line, story) in asked.iter().zip(&made.manifest.stories) {
        let storyloom_story::Line::Story(entry) = line else {
            panic!("it is a brief")
        };
        assert_eq!((&entry.id, &entry.script), (&story.id, &story.script));
    }
}

/// The way out of a story whose lost record cannot come back.
#[test]
fn what_follows_from_a_lost_record_is_made_anew() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let wanted = made.verdict(Depth::Content);
    let story = made.story(0);
    fs::remove_file(story.join("commits/01_02.json")).unwrap();
    // No journal tells how it was made.
    assert_eq!(made.run().quarantined, 1);
    assert!(repaired(&made, &[], false).came_to(CameTo::ToMake));
    assert_eq!(made.run().quarantined, 1);
    let found = repaired(&made, &[], true);
    assert_eq!(found.to_make.len(), 1);
    assert!(!story.join("commits/01_03.json").exists());
    assert_eq!(made.run().done, 2);
    assert_eq!(made.verdict(Depth::Content), wanted);
}

/// A `story.json` of other words than its records were made from never makes a shorter film, or another
/// story, of them.
#[test]
fn a_story_json_of_other_words_gives_way() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 4] = [
        ("fewer shots", |file| {
            let scene = &mut file["script"]["scenes"][0];
            for key in ["video_prompts", "cut"] {
                scene[key].as_array_mut().unwrap().truncate(2);
            }
        }),
        ("another prompt", |file| {
            file["script"]["scenes"][0]["video_prompts"][1] = "Another.".into();
        }),
        ("another seed", |file| file["seed"] = 77.into()),
        ("another size", |file| {
            file["size"] = serde_json::json!([80, 48])
        }),
    ];
    for (what, change) in changes {
        let made = Made::new(Videos::Placeholders);
        made.run();
        let wanted = made.verdict(Depth::Content);
        made.change(change);
        assert!(!made.verdict(Depth::Content).ok, "{what}");
        let found = repaired(&made, &[], false);
        assert!(found.came_to(CameTo::ToMake), "{what}: {found:?}");
        assert!(
            made.story(0).join("story.json.damaged-1").is_file(),
            "{what}"
        );
        assert_eq!(made.run().done, 2, "{what}");
        assert_eq!(made.verdict(Depth::Content), wanted, "{what}");
    }
}

/// What nobody here can heal is told, and is no success.
#[test]
fn what_verify_finds_repair_tells() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let commits = made.story(0).join("commits");
    fs::copy(commits.join("01_03.json"), commits.join("01_09.json")).unwrap();
    assert!(!made.verdict(Depth::Content).ok);
    let found = repaired(&made, &[], false);
    assert!(found.came_to(CameTo::Left), "{found:?}");
}

/// A pipe that nobody writes into keeps nobody waiting.
#[test]
fn a_pipe_is_no_file() {
    let made = Made::new(Videos::Placeholders);
    made.run();
    let wanted = made.verdict(Depth::Content);
    for file in ["01_02.mp4", "commits/01_03.json", "story.json", "story.mp4"] {
        let path = made.story(0).join(file);
        fs::remove_file(&path).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(pipe.unwrap().success());
        assert!(!made.verdict(Depth::Content).ok, "{file}");
        assert_eq!(made.run().done, 2, "{file}");
        assert_eq!(made.verdict(Depth::Content), wanted, "{file}");
    }
}
