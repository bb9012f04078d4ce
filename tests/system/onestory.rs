//! Story scripts of OneStory: read by every command, converted from scripts of scenes, and what is wrong with them.

use std::fs;

use serde_json::Value;

use crate::harness::{Workshop, call, finish, line};

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../manifests/insert-recall.jsonl"
);

/// A line of two shots.
fn script(id: &str, setting: &str, keys: &str) -> String {
    format!(
        "{{\"schema\":\"storyloom.os.story/1\",\"id\":\"{id}\",\"setting\":\"{setting}\",{keys}\"shots\":[\
         {{\"i\":1,\"caption\":\"A man.\",\"characters\":[\"man_a\"]}},{{\"i\":2,\"caption\":\"He sits.\"}}]}}\n"
    )
}

#[test]
fn the_shipped_script_is_made_and_keeps_its_notes() {
    let simulated = ["--set", "engine=simulated"];
    let found = call(&[&["validate", "--json", SAMPLE][..], &simulated].concat());
    let found = found.ended_with(0).json();
    assert_eq!((&found["shots"], &found["scenes"]), (&6.into(), &1.into()));
    assert_eq!(found["warnings"], Value::Array(Vec::new()));
    let shop = Workshop::new();
    finish(&mut shop.run(SAMPLE, &[])).ended_with(0);
    let story = shop.out().join("stories/lamp-between");
    let file: Value = serde_json::from_slice(&fs::read(story.join("story.json")).unwrap()).unwrap();
    assert_eq!(file["method"], "onestory");
    assert_eq!(file["notes"]["pattern"], "insert_recall");
    let shots = file["notes"]["shots"].as_array().unwrap();
    let places: Vec<&Value> = shots.iter().map(|shot| &shot["environment"]).collect();
    assert_eq!(
        places,
        ["beach", "beach", "library", "beach", "beach", "library"]
    );
    shop.digest();
    // Started again it finds nothing to do.
    let before = shop.products();
    finish(&mut shop.run(SAMPLE, &[])).ended_with(0);
    assert_eq!(shop.products(), before);
    let manifest = shop.path("again.jsonl").display().to_string();
    call(&[
        "plan",
        "--briefs",
        SAMPLE,
        "--out",
        &manifest,
        "--set",
        "engine=simulated",
    ])
    .ended_with(0);
    let written = fs::read_to_string(&manifest).unwrap();
    assert_eq!(
        written,
        fs::read_to_string(SAMPLE).unwrap(),
        "a script is passed on as it is"
    );
}

#[test]
fn what_is_wrong_is_told_before_anything_is_made() {
    let shop = Workshop::new();
    shop.write("images/man.png", "not a picture");
    for (text, wanted) in [
        (
            script("s", "i2msv", "\"first_image\":\"cat.png\","),
            "m.jsonl:1:75: the first image \"cat.png\" cannot be used",
        ),
        (
            script("s", "i2msv", ""),
            "m.jsonl:1:1: the setting is i2msv and there is no \"first_image\" (story s)",
        ),
        (
            script("a", "t2msv", "") + &script("s", "t2msv", "\"frames\":81,"),
            "jsonl:2: the story s is written for frames = 81, and video.frames is 9",
        ),
        (
            script("s", "t2msv", "").replace("He sits.", "<i></i>"),
            "the caption of shot 2 is empty without tags and invisible characters (story s)",
        ),
    ] {
        let manifest = shop.write("m.jsonl", text);
        finish(&mut shop.run(&manifest, &[]))
            .ended_with(65)
            .saying(wanted);
        assert!(!shop.is_begun());
    }
    // So is a script of scenes that the method cannot make.
    let blank = line("s", &[true, true]).replace("Shot 2 of s.", "<br>");
    let manifest = shop.write("m.jsonl", blank);
    finish(&mut shop.run(&manifest, &["method=onestory"]))
        .ended_with(65)
        .saying("jsonl:1: the story s, shot 01_02: nothing is left of its prompt");
    assert!(!shop.is_begun());
    // `validate` opens the picture.
    let text = script("s", "i2msv", "\"first_image\":\"images/man.png\",");
    let manifest = shop.write("m.jsonl", text);
    call(&["validate", &manifest, "--set", "engine=simulated"])
        .ended_with(65)
        .saying("the first image \"images/man.png\" cannot be used");
}

#[test]
fn a_script_of_scenes_is_converted_and_told_what_it_loses() {
    let shop = Workshop::new();
    let manifest = shop.write(
        "in/m.jsonl",
        format!(
            "{}\n{}",
            line("one", &[true, false, false]),
            line("two", &[true, true])
        ),
    );
    let plain = "2 shots of the story one should go on from the shot before";
    let onestory = ["--set", "engine=simulated", "--set", "method=onestory"];
    let found = call(&[&["validate", &manifest][..], &onestory].concat());
    let told = found.ended_with(0).saying(plain).stderr;
    assert_eq!(told.matches("plain next shot").count(), 1, "{told}");
    let made = finish(&mut shop.run(&manifest, &["method=onestory"]));
    let told = made.ended_with(0).saying(plain).stderr;
    assert_eq!(told.matches("plain next shot").count(), 1, "{told}");

    let out = shop.path("out/scripts.jsonl").display().to_string();
    fs::create_dir_all(shop.path("out")).unwrap();
    call(&["convert", &manifest, "--to", "onestory", "--out", &out])
        .ended_with(0)
        .saying(plain);
    let written = fs::read_to_string(&out).unwrap();
    let first: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(first["schema"], "storyloom.os.story/1");
    assert_eq!(first["shots"][2]["caption"], "Shot 3 of one.");
    let found = call(&["validate", "--json", &out, "--set", "engine=simulated"]);
    let found = found.ended_with(0).json();
    assert_eq!((&found["stories"], &found["shots"]), (&2.into(), &5.into()));
    assert_eq!(found["warnings"], Value::Array(Vec::new()));
    // What is converted again is the same.
    let again = shop.path("again.jsonl").display().to_string();
    call(&["convert", &out, "--to", "onestory", "--out", &again]).ended_with(0);
    assert_eq!(fs::read_to_string(&again).unwrap(), written);
    call(&["convert", &out, "--to", "onestory", "--out", &out]).ended_with(2);
    assert_eq!(fs::read_to_string(&out).unwrap(), written);
}

#[test]
fn what_cannot_be_converted_is_named_and_nothing_is_written() {
    let shop = Workshop::new();
    for image in ["a.png", "b.png"] {
        let picture = image::RgbImage::new(64, 48);
        picture.save(shop.path(image)).unwrap();
    }
    let two = line("two", &[true]).replacen('{', "{\"reference_images\":[\"a.png\",\"b.png\"],", 1);
    let text = format!(
        "{}\n{two}\n{{\"id\":\"ad\",\"title\":\"Mug\"}}\n",
        line("one", &[true])
    );
    let manifest = shop.write("m.jsonl", text);
    let out = shop.path("s.jsonl").display().to_string();
    call(&["convert", &manifest, "--to", "onestory", "--out", &out])
        .ended_with(65)
        .saying("m.jsonl:2:1: the story two has 2 reference images")
        .saying("m.jsonl:3:1: the story ad is a brief");
    assert!(!shop.path("s.jsonl").exists());
    // One picture is the first image, and lies beside what is written.
    let one = line("one", &[true]).replacen('{', "{\"reference_images\":[\"a.png\"],", 1);
    let manifest = shop.write("m.jsonl", one);
    let out = shop.path("below/s.jsonl").display().to_string();
    fs::create_dir(shop.path("below")).unwrap();
    call(&["convert", &manifest, "--to", "onestory", "--out", &out]).ended_with(0);
    let written: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(written["setting"], "i2msv");
    assert_eq!(written["first_image"], "s.jsonl.pictures/one-1.png");
    call(&["validate", &out, "--set", "engine=simulated"]).ended_with(0);
    // So does a ready-made first shot.
    shop.write("one.mp4", "a video");
    let ready = line("two", &[true, true]).replacen(
        '{',
        "{\"method\":\"onestory\",\"first_shot\":\"one.mp4\",",
        1,
    );
    let manifest = shop.write("m.jsonl", ready);
    call(&["convert", &manifest, "--to", "onestory", "--out", &out]).ended_with(0);
    let written: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(written["setting"], "t2msv");
    assert_eq!(written["first_shot"], "s.jsonl.pictures/two-1.mp4");
    // Its file is found, and is no video.
    call(&["validate", &out, "--set", "engine=simulated"])
        .ended_with(65)
        .saying("s.jsonl.pictures/two-1.mp4\" of the story two cannot be used");
}

#[test]
fn an_estimate_counts_the_budget_and_the_latents() {
    let built_in = [
        "--set",
        "engine=simulated",
        "--set",
        "simulated.costs=built-in",
    ];
    let ask = ["estimate", "--manifest", SAMPLE];
    let found = call(&[&ask[..], &built_in, &["--json"]].concat());
    let found = found.ended_with(0).json();
    let latents = 16.0 * 21.0 * 60.0 * 104.0 * 4.0;
    let disk = &found["disk"];
    assert_eq!(disk["per_shot"]["remembered"], latents);
    assert_eq!(disk["longest_memory"], 6.0 * latents);
    assert_eq!(
        (&disk["per_shot"]["keyframes"], &disk["per_shot"]["tail"]),
        (&0.0.into(), &0.0.into())
    );
    assert_eq!(found["costs"]["memory"]["transformers"], 1);
    // Six loops of 80 forwards: one of 1676 TFLOP, five of 1798, at 650 TFLOP/s, and little besides.
    let denoising = 80.0 * (1676.0 + 5.0 * 1798.0) / 650.0;
    let seconds = found["longest_chain"]["seconds"].as_f64().unwrap();
    let beside = seconds - denoising;
    assert!(
        (0.0..6.0 * 10.0).contains(&beside),
        "{seconds} and {denoising}"
    );
    let text = call(&[&ask[..], &built_in].concat()).ended_with(0).stdout;
    for wanted in ["of it memory", "without the choice of what they see"] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
}
