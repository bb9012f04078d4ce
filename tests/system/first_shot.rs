//! Stories of OneStory whose first shot is a ready-made video.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use storyloom_memory::BlobRef;

use crate::harness::{Workshop, finish, line, signal_when};

/// A script of three shots that begins with a ready-made one.
fn script(id: &str, video: &str) -> String {
    let shots: Vec<String> = ["A man.", "He sits.", "He stands up."]
        .iter()
        .zip(1..)
        .map(|(caption, number)| format!("{{\"i\":{number},\"caption\":\"{caption}\"}}"))
        .collect();
    format!(
        "{{\"schema\":\"storyloom.os.story/1\",\"id\":\"{id}\",\"setting\":\"t2msv\",\"first_shot\":\"{video}\",\
         \"shots\":[{}]}}\n",
        shots.join(",")
    )
}

/// The video of a shot that a run of StoryMem makes of a prompt.
fn video(prompt: &str, sets: &[&str]) -> Vec<u8> {
    let shop = Workshop::new();
    let text = line("cat", &[true]).replace("Shot 1 of cat.", prompt);
    let manifest = shop.write("m.jsonl", text);
    finish(&mut shop.run(&manifest, sets)).ended_with(0);
    fs::read(shop.out().join("stories/cat/01_01.mp4")).unwrap()
}

/// A folder with a video of a shot and a manifest that begins with it.
fn begun(prompt: &str) -> (Workshop, String) {
    let shop = Workshop::new();
    shop.write("clips/one.mp4", video(prompt, &[]));
    let manifest = shop.write("m.jsonl", script("s", "clips/one.mp4"));
    (shop, manifest)
}

/// A file of the story `s`.
fn json(shop: &Workshop, file: &str) -> Value {
    let path = shop.out().join("stories/s").join(file);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The latents of the pass that made a shot.
fn latents(shop: &Workshop, shot: &str) -> Value {
    let record = json(shop, &format!("commits/{shot}.json"));
    record["made"]["latents"].clone()
}

fn seen(shop: &Workshop, shot: &str) -> Vec<String> {
    let record = json(shop, &format!("commits/{shot}.json"));
    let seen = record["seen"].as_array().unwrap().iter();
    seen.map(|seen| seen["file"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_ready_made_video_is_the_first_shot() {
    let (shop, manifest) = begun("A cat.");
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let digest = shop.digest();
    let file = json(&shop, "story.json");
    assert_eq!(file["first_shot"], "clips/one.mp4");
    let bytes = fs::read(shop.path("clips/one.mp4")).unwrap();
    assert_eq!(file["inputs"][0]["bytes"], bytes.len());
    let item = &json(&shop, "commits/references.json")["items"][0];
    assert_eq!(item["arrays"]["first_shot"], latents(&shop, "01_01"));
    assert_eq!(seen(&shop, "01_01"), ["references#0"]);
    // Later shots see what was made of it, and no second time what it was made of.
    assert_eq!(seen(&shop, "01_02"), ["01_01#0"]);
    let first = json(&shop, "commits/01_01.json");
    assert_eq!(first["request"]["opening"], "memory");
    let memory = shop.ask(&["memory", "s", "--json"]).ended_with(0).json();
    assert_eq!(memory["references"][0], "references#0");
    assert_eq!(memory["shots"][0]["saw"][0], "references#0");
    shop.ask(&["report"]).ended_with(0);
    // Started again it finds nothing to do, also where the video is gone by then or has another name.
    let before = shop.products();
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    fs::rename(shop.path("clips/one.mp4"), shop.path("two.mp4")).unwrap();
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let renamed = shop.write("m.jsonl", script("s", "two.mp4"));
    finish(&mut shop.run(&renamed, &[])).ended_with(0);
    assert_eq!(shop.products().len(), before.len());
    assert_eq!(shop.digest(), digest);
    // Another video is another story, and without one the shot is made of its caption.
    let (other, manifest) = begun("A dog.");
    finish(&mut other.run(&manifest, &[])).ended_with(0);
    assert_ne!(other.digest(), digest);
    assert_ne!(latents(&other, "01_02"), latents(&shop, "01_02"));
    // A budget of nothing does not keep the first shot from being what it is.
    let (none, manifest) = begun("A cat.");
    finish(&mut none.run(&manifest, &["onestory.budget=0"])).ended_with(0);
    none.digest();
    assert_eq!(latents(&none, "01_01"), latents(&shop, "01_01"));
    assert!(seen(&none, "01_02").is_empty());
}

/// Frames of 60x44 are the middle of the 64x48 that networks make.
#[test]
fn a_video_of_a_cropped_film_is_a_first_shot_of_one() {
    let size = ["video.width=60", "video.height=44"];
    let shop = Workshop::new();
    shop.write("one.mp4", video("A cat.", &size));
    let manifest = shop.write("m.jsonl", script("s", "one.mp4"));
    finish(&mut shop.run(&manifest, &size)).ended_with(0);
    shop.digest();
}

#[test]
fn a_video_that_cannot_be_the_first_shot_is_told_and_others_go_on() {
    let shop = Workshop::new();
    shop.write("good.mp4", video("A cat.", &[]));
    shop.write("wide.mp4", video("A cat.", &["video.width=96"]));
    shop.write("long.mp4", video("A cat.", &["video.frames=13"]));
    shop.write("short.mp4", video("A cat.", &["video.frames=5"]));
    shop.write("text.mp4", "#EXTM3U\n#EXTINF:1,\ngood.mp4\n");
    let good = fs::read(shop.path("good.mp4")).unwrap();
    shop.write("cut.mp4", &good[..good.len() / 2]);
    let wrong = ["wide", "long", "short", "text", "cut"];
    let lines: String = wrong
        .iter()
        .chain(&["good"])
        .map(|id| script(id, &format!("{id}.mp4")))
        .collect();
    let manifest = shop.write("m.jsonl", lines);
    let said = finish(&mut shop.run(&manifest, &[]))
        .ended_with(65)
        .saying("1 of 6 stories done")
        .saying("wide.mp4: the ready-made first shot of the story wide cannot be used: its frames have 96x48 pixels, and those of the story 64x48")
        .saying("long.mp4: the ready-made first shot of the story long cannot be used: it has 13 frames, and a shot of the story has 9")
        .saying("of the story short cannot be used: it has 5 frames, and a shot of the story has 9")
        .saying("of the story text cannot be used: it cannot be decoded as a video")
        .saying("of the story cut cannot be used: it cannot be decoded as a video");
    drop(said);
    let commits = |id: &str| shop.out().join("stories").join(id).join("commits");
    for id in wrong {
        let made = fs::read_dir(commits(id)).into_iter().flatten().count();
        assert_eq!(made, 0, "{id}");
        // Once it is as it should be, the story is made.
        shop.write(&format!("{id}.mp4"), &good);
    }
    shop.ask(&["retry"]).ended_with(0);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    shop.digest();
}

#[test]
fn a_missing_first_shot_or_one_elsewhere_is_told_before_anything_is_made() {
    let shop = Workshop::new();
    shop.write("in/keep", "");
    for (path, reason) in [
        ("one.mp4", "No such file"),
        ("../one.mp4", "its path leaves the folder"),
        ("http://127.0.0.1/one.mp4", "it is a URL"),
    ] {
        let manifest = shop.write("in/m.jsonl", script("s", path));
        finish(&mut shop.run(&manifest, &[]))
            .ended_with(65)
            .saying(&format!(
                "the ready-made first shot {path:?} cannot be used: {reason}"
            ));
        assert!(!shop.is_begun());
    }
    let other = line("s", &[true]).replacen('{', "{\"first_shot\":\"one.mp4\",", 1);
    let manifest = shop.write("in/m.jsonl", other);
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(65)
        .saying("only OneStory begins with a ready-made first shot (story s)");
}

#[test]
fn a_replaced_first_shot_is_found_out() {
    let (shop, manifest) = begun("A cat.");
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let digest = shop.digest();
    let own = fs::read(shop.path("clips/one.mp4")).unwrap();
    shop.write("clips/one.mp4", video("A dog.", &[]));
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(65)
        .saying("the content of its first shot clips/one.mp4");
    shop.write("clips/one.mp4", own);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    assert_eq!(shop.digest(), digest);
}

#[test]
fn killed_or_damaged_the_story_comes_out_the_same() {
    let (shop, manifest) = begun("A cat.");
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    let whole = shop.digest();
    let bytes = fs::read(shop.path("clips/one.mp4")).unwrap();
    // The references have a record as well.
    for commits in 1..=3 {
        let broken = Workshop::new();
        broken.write("clips/one.mp4", &bytes);
        let manifest = broken.write("m.jsonl", script("s", "clips/one.mp4"));
        let slow = ["simulated.step_ms=20", "run.lease_timeout=1"];
        let reached = || broken.commits() >= commits;
        signal_when(&mut broken.run(&manifest, &slow), Signal::KILL, reached);
        finish(&mut broken.run(&manifest, &slow)).ended_with(0);
        assert_eq!(broken.digest(), whole, "killed after {commits} records");
    }
    let item = &json(&shop, "commits/references.json")["items"][0];
    let blob: BlobRef = serde_json::from_value(item["arrays"]["first_shot"].clone()).unwrap();
    let array = format!("blobs/{}/{}.safetensors", &blob.blake3[..2], blob.blake3);
    let array = shop.out().join(array);
    let record = shop.out().join("stories/s/commits/references.json");
    for damaged in [array, record] {
        fs::write(&damaged, b"damaged").unwrap();
        shop.ask(&["verify"]).ended_with(1);
        shop.ask(&["repair"]);
        finish(&mut shop.run(&manifest, &[])).ended_with(0);
        assert_eq!(shop.digest(), whole, "{}", damaged.display());
    }
}
