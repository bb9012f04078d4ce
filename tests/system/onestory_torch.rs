//! Runs of OneStory with real networks on the tiny checkpoint: end to end, killed and resumed on other ranks,
//! and with a history that is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Finished, Ranks, Signal, Workshop, call, finish, frames, line, of_method, signal_when,
};

/// The tiny checkpoint, made once for all tests.
fn models() -> String {
    static TINY: OnceLock<TempDir> = OnceLock::new();
    let folder = TINY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny").display().to_string();
        let init = ["model", "init-tiny", &path, "--method", "onestory"];
        call(&init).ended_with(0);
        folder
    });
    format!("models.dir={}", folder.path().join("tiny").display())
}

/// Settings of all runs: shots of which the last ones see more frames than they may.
const SETS: [&str; 3] = [
    "method=onestory",
    "onestory.steps=16",
    "checkpoint.every_steps=1",
];

fn run_on(shop: &Workshop, ranks: Ranks, manifest: &str, sets: &[&str]) -> Command {
    let models = models();
    let sets = [&[models.as_str()], &SETS[..], sets].concat();
    shop.run_on(ranks, "torch", manifest, &sets)
}

fn run(shop: &Workshop, manifest: &str) -> Finished {
    finish(&mut run_on(shop, Ranks::Alone, manifest, &[]))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The record of a shot of the first scene.
fn record(shop: &Workshop, story: &str, shot: usize) -> Value {
    let name = format!("stories/{story}/commits/01_{shot:02}.json");
    read(&shop.out().join(name))
}

/// What decides and what is made: all of a record but how long it took and on which ranks.
fn products(shop: &Workshop, story: &str, shots: usize) -> Vec<Value> {
    let records = (1..=shots).map(|shot| record(shop, story, shot));
    let parts = ["request", "seen", "earlier", "made", "file", "kept"];
    records
        .map(|record| parts.iter().map(|part| record[part].clone()).collect())
        .collect()
}

fn picture(shop: &Workshop) {
    let picture = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8 * 3, y as u8, 90]));
    picture.save(shop.path("first.png")).unwrap();
}

/// Its first shot is the encoded video, and the second sees that as any other shot.
#[test]
fn a_story_begins_with_a_video_that_another_run_made() {
    let before = Workshop::new();
    let one = of_method(&line("one", &[true]), "onestory");
    let manifest = before.write("manifest.jsonl", one);
    run(&before, &manifest).ended_with(0);
    let video = fs::read(before.out().join("stories/one/01_01.mp4")).unwrap();

    let shop = Workshop::new();
    shop.write("one.mp4", video);
    let two = of_method(&line("two", &[true; 2]), "onestory");
    let two = two.replacen('{', r#"{"first_shot":"one.mp4","#, 1);
    let manifest = shop.write("manifest.jsonl", two);
    run(&shop, &manifest).ended_with(0);
    let folder = shop.out().join("stories/two/commits");
    let kept = read(&folder.join("references.json"));
    let kept = &kept["items"][0]["arrays"]["first_shot"];
    assert!(kept.is_object(), "{kept}");
    assert_eq!(record(&shop, "two", 1)["made"]["latents"], *kept);
    let seen = record(&shop, "two", 2)["seen"].clone();
    assert_eq!(seen.as_array().unwrap().len(), 1, "{seen}");
    let proof = shop.ask(&["verify", "--networks", "--json"]);
    assert_eq!(proof.ended_with(0).json()["networks"]["shots_proven"], 2);
}

#[test]
fn a_story_is_made_of_what_the_network_chose() {
    let shop = Workshop::new();
    picture(&shop);
    let image = line("image", &[true; 2]).replacen('{', r#"{"reference_images":["first.png"],"#, 1);
    let lines = [line("text", &[true, true, false, true]), image];
    let lines = lines.map(|line| of_method(&line, "onestory"));
    let manifest = shop.write("manifest.jsonl", lines.join("\n"));
    let said = run(&shop, &manifest).ended_with(0);
    assert!(said.stderr.contains("plain next shot"), "{}", said.stderr);
    let run_file = read(&shop.out().join("run.json"));
    let engine = &run_file["methods"]["onestory"]["engine"];
    assert_eq!(engine["engine"], "torch");
    let parts = engine["models"].as_array().unwrap().iter();
    assert!(parts.clone().any(|part| part[0] == "onestory/onestory"));
    for (shot, most) in (1..=4).zip(0..) {
        let record = record(&shop, "text", shot);
        assert_eq!(record["earlier"][0]["pass"], "select");
        let seen = record["seen"].as_array().unwrap();
        assert_eq!(seen.is_empty(), most == 0, "shot {shot}");
        assert!(seen.len() <= most, "shot {shot}");
    }
    // The image is where the story begins, and no part of its history.
    assert_eq!(record(&shop, "image", 1)["seen"], Value::Array(Vec::new()));
    assert_eq!(
        record(&shop, "image", 2)["seen"].as_array().unwrap().len(),
        1
    );
    assert_eq!(frames(&shop.out().join("stories/text/story.mp4")), 4 * 9);
    shop.digest();
    shop.ask(&["report"]).ended_with(0);
    let proof = shop
        .ask(&["verify", "--networks", "--json"])
        .ended_with(0)
        .json();
    assert_eq!(proof["networks"]["shots_proven"], 4 + 2, "{proof}");
    let difference = proof["networks"]["largest_difference"].as_f64().unwrap();
    assert!(difference <= 1e-5, "{difference}");
    let before = shop.products();
    run(&shop, &manifest).ended_with(0);
    assert_eq!(shop.products(), before);
    // Other weights prove nothing.
    let other = shop.path("other").display().to_string();
    call(&[
        "model",
        "init-tiny",
        &other,
        "--method",
        "onestory",
        "--seed",
        "2",
    ])
    .ended_with(0);
    let said = shop
        .ask(&["verify", "--networks", "--models", &other])
        .ended_with(78);
    assert!(
        said.stderr.contains("onestory/text_encoder"),
        "{}",
        said.stderr
    );
    // What else a shot would see is another run.
    finish(&mut run_on(
        &shop,
        Ranks::Alone,
        &manifest,
        &["onestory.budget=2"],
    ))
    .ended_with(78);
}

/// Whether a shot that is being made is saved.
fn is_in_a_shot(shop: &Workshop) -> bool {
    let saved = fs::read_dir(shop.out().join("stories/ad/checkpoints"));
    saved.map_or(0, Iterator::count) > 0
}

#[test]
fn killed_at_any_step_it_goes_on_with_other_ranks_to_the_same_bytes() {
    const SHOTS: usize = 8;
    let line = of_method(&line("ad", &[true; SHOTS]), "onestory");
    let calm = Workshop::new();
    let manifest = calm.write("manifest.jsonl", line);
    run(&calm, &manifest).ended_with(0);
    let shop = Workshop::new();
    // Neither who encodes nor who has which half of guidance moves a bit.
    let ways: [(Ranks, &[&str]); 3] = [
        (Ranks::Alone, &[]),
        (Ranks::Launch(2), &["topology.cfg=2"]),
        (Ranks::Launch(2), &["topology.encoders=1"]),
    ];
    for (after, (ranks, sets)) in (1..).zip(ways) {
        let mut command = run_on(&shop, ranks, &manifest, sets);
        let is_time = || shop.commits() >= after && is_in_a_shot(&shop);
        let ended = signal_when(&mut command, Signal::KILL, is_time);
        assert_ne!(ended.code, Some(0), "{}", ended.stderr);
    }
    run(&shop, &manifest).ended_with(0);
    assert_eq!(shop.digest(), calm.digest());
    let (found, wanted) = (products(&shop, "ad", SHOTS), products(&calm, "ad", SHOTS));
    assert_eq!(found, wanted);
}

/// The blob of the latents that a story keeps of a shot.
fn latents_of(shop: &Workshop, shot: usize) -> PathBuf {
    let hash = record(shop, "ad", shot)["kept"][0]["arrays"]["latents"]["blake3"].clone();
    let hash = hash.as_str().unwrap().to_owned();
    let mut found = Vec::new();
    let mut folders = vec![shop.out().join("blobs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.display().to_string().contains(&hash) => found.push(path),
                false => {}
            }
        }
    }
    assert_eq!(found.len(), 1, "{hash}");
    found.remove(0)
}

/// A history that is gone or altered is told by its proof, and made again to the same bytes; what follows from
/// it stays.
#[test]
fn a_history_that_is_damaged_is_told_and_made_whole() {
    let shop = Workshop::new();
    let manifest = shop.write("m.jsonl", of_method(&line("ad", &[true; 3]), "onestory"));
    run(&shop, &manifest).ended_with(0);
    let (digest, made) = (shop.digest(), products(&shop, "ad", 3));
    let damages: [fn(&Path); 2] = [
        |blob| fs::remove_file(blob).unwrap(),
        |blob| {
            let mut bytes = fs::read(blob).unwrap();
            let last = bytes.len() - 3;
            bytes[last] ^= 1;
            fs::remove_file(blob).unwrap();
            fs::write(blob, bytes).unwrap();
        },
    ];
    for damage in damages {
        damage(&latents_of(&shop, 1));
        let told = shop.ask(&["verify"]).ended_with(1);
        assert!(told.stdout.contains("ad"), "{}", told.stdout);
        shop.ask(&["repair"]).ended_with(0);
        assert_eq!(shop.digest(), digest);
        assert_eq!(products(&shop, "ad", 3), made);
    }
}

/// Weights that stand for others are named in the record of a run, and their shots see what was chosen too.
#[test]
fn other_backends_are_named_in_what_they_make() {
    for (backend, method) in [("wan1.3b-fun", "onestory"), ("storymem-inject", "storymem")] {
        let shop = Workshop::new();
        let folder = shop.path("models").display().to_string();
        call(&["model", "init-tiny", &folder, "--method", method]).ended_with(0);
        let sets = [
            format!("models.dir={folder}"),
            format!("onestory.backend={backend}"),
            "onestory.selector=recent".to_owned(),
            "onestory.steps=2".to_owned(),
            "method=onestory".to_owned(),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let manifest = shop.write("m.jsonl", line("ad", &[true; 3]));
        finish(&mut shop.run_with("torch", &manifest, &sets)).ended_with(0);
        let engine = &read(&shop.out().join("run.json"))["methods"]["onestory"]["engine"];
        assert_eq!(engine["engine"], format!("torch, {backend}"));
        // At this size the budget holds three frames: those of the newest shot.
        assert_eq!(record(&shop, "ad", 1)["seen"], Value::Array(Vec::new()));
        assert_eq!(record(&shop, "ad", 3)["seen"].as_array().unwrap().len(), 1);
        shop.digest();
        let learned = [&sets[..2], &["method=onestory"]].concat();
        finish(&mut shop.run_with("torch", &manifest, &learned)).ended_with(78);
    }
}

/// What networks are not asked for, pictures are: the name says so, and the proof compares them again.
#[test]
fn an_oracle_of_labels_is_named_in_what_it_makes_and_proven() {
    let shop = Workshop::new();
    let shot = |i: usize, caption: &str, who: &str| serde_json::json!({"i": i, "caption": caption, "characters": [who]});
    let story = serde_json::json!({
        "schema": "storyloom.os.story/1", "id": "tagged", "setting": "t2msv",
        "shots": [
            shot(1, "A red boat on the sea.", "boat"),
            shot(2, "An old house in the snow.", "house"),
            shot(3, "The same boat in the snow.", "boat"),
        ],
    });
    let manifest = shop.write("manifest.jsonl", story.to_string());
    let sets = ["onestory.selector=clip"];
    finish(&mut run_on(&shop, Ranks::Alone, &manifest, &sets)).ended_with(0);
    let run_file = read(&shop.out().join("run.json"));
    let engine = &run_file["methods"]["onestory"]["engine"];
    assert_eq!(engine["engine"], "torch, label-oracle, not OneStory");
    assert_eq!(
        record(&shop, "tagged", 3)["request"]["related"],
        serde_json::json!([0])
    );
    let kept = &record(&shop, "tagged", 1)["kept"][0]["arrays"];
    let names: Vec<&String> = kept.as_object().unwrap().keys().collect();
    assert_eq!(names, ["clip", "dino", "latents"]);
    let proof = shop.ask(&["verify", "--networks", "--json"]);
    let proof = proof.ended_with(0).json();
    assert_eq!(proof["networks"]["shots_proven"], 3, "{proof}");
    // It is not to be had where nothing is kept of the frames.
    let sets = ["onestory.selector=clip", "onestory.backend=storymem-inject"];
    let refused = finish(&mut run_on(
        &Workshop::new(),
        Ranks::Alone,
        &manifest,
        &sets,
    ));
    let said = refused.ended_with(78).stderr;
    assert!(said.contains("storymem-inject"), "{said}");
}
