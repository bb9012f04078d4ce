//! Runs with real networks on the tiny checkpoint, and checkpoints that are damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::harness::{Signal, Workshop, call, finish, frames, line, signal_when, write_sealed};

/// The tiny checkpoints, made once for all tests.
fn tiny() -> &'static Path {
    static TINY: OnceLock<TempDir> = OnceLock::new();
    let folder = TINY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny").display().to_string();
        call(&[
            "model",
            "init-tiny",
            &path,
            "--method",
            "storymem",
            "--seed",
            "1",
        ])
        .ended_with(0);
        folder
    });
    folder.path()
}

/// A copy of the tiny checkpoints in which `change` was made to the file `name`.
fn damaged(shop: &Workshop, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let models = shop.path("models");
    let copied = Command::new("cp")
        .args(["-rl"])
        .arg(tiny().join("tiny"))
        .arg(&models)
        .status();
    assert!(copied.unwrap().success());
    let file = models.join(name);
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    format!("models.dir={}", models.display())
}

pub fn models() -> String {
    format!("models.dir={}", tiny().join("tiny").display())
}

/// The only safetensors file of a component.
fn weights(component: &str) -> String {
    let folder = tiny().join("tiny").join(component);
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file: PathBuf = files
        .into_iter()
        .find(|path| {
            path.extension()
                .is_some_and(|ending| ending == "safetensors")
        })
        .unwrap();
    format!("{component}/{}", file.file_name().unwrap().display())
}

const STORIES: [(&str, &[bool]); 2] = [("ad", &[true, false]), ("tale", &[true, true])];

#[test]
fn the_networks_make_whole_stories_once() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&STORIES);
    let run = || finish(&mut shop.run_with("torch", &manifest, &[&models()]));
    run().ended_with(0);
    assert_eq!(frames(&shop.out().join("stories/ad/01_01.mp4")), 9);
    assert_eq!(frames(&shop.out().join("stories/ad/01_02.mp4")), 8);
    let before = shop.products();
    run().ended_with(0);
    assert_eq!(shop.products(), before);
    shop.digest();
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let calm = Workshop::new();
    // Many shots, so that there is work left when somebody looks.
    let manifest = calm.manifest(&[("ad", &[true, false, true, true]), ("tale", &[true; 12])]);
    finish(&mut calm.run_with("torch", &manifest, &[&models()])).ended_with(0);
    let shop = Workshop::new();
    let run = || shop.run_with("torch", &manifest, &[&models()]);
    let ended = signal_when(&mut run(), Signal::KILL, || shop.commits() > 0);
    assert_eq!(ended.code, None, "{}", ended.stderr);
    finish(&mut run()).ended_with(0);
    assert_eq!(shop.digest(), calm.digest());
}

#[test]
fn wrong_checkpoints_are_refused_before_anything_is_made() {
    let transformer = weights("i2v/transformer");
    let refused = |name: &str, change: fn(&mut Vec<u8>), wanted: &str| {
        let shop = Workshop::new();
        let manifest = shop.manifest(&STORIES);
        let models = damaged(&shop, name, change);
        finish(&mut shop.run_with("torch", &manifest, &[&models]))
            .ended_with(78)
            .saying(wanted);
        assert!(!shop.is_begun(), "the run was started");
    };
    refused(
        &transformer,
        |bytes| bytes.truncate(bytes.len() / 2),
        "i2v/transformer",
    );
    refused(&transformer, |bytes| bytes.truncate(5), "i2v/transformer");
    let class = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replace("WanTransformer3DModel", "FluxTransformer2DModel")
            .into_bytes();
    };
    refused(
        "i2v/transformer/config.json",
        class,
        "FluxTransformer2DModel",
    );
    refused(
        "lora/backbone_high_noise.safetensors",
        |bytes| rename_keys(bytes, b"base_model", b"cast_model"),
        "backbone_high_noise",
    );
}

/// Changes names in a header without changing its length.
fn rename_keys(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    for start in 0..bytes.len().saturating_sub(from.len()) {
        let place = &mut bytes[start..start + from.len()];
        if place == from {
            place.copy_from_slice(to);
        }
    }
}

#[test]
fn not_a_number_costs_the_story_and_nothing_else() {
    let shop = Workshop::new();
    // Text to video stays whole: a story of one shot can be made, the second shot cannot.
    let nan = |bytes: &mut Vec<u8>| {
        let start = bytes.len() - 512;
        bytes[start..]
            .chunks_exact_mut(2)
            .for_each(|value| value.copy_from_slice(&[0xc0, 0x7f]));
    };
    let models = damaged(&shop, &weights("i2v/transformer"), nan);
    let text = format!(
        "{}\n{}",
        line("broken", &[true, true]),
        line("whole", &[true])
    );
    let manifest = shop.write("manifest.jsonl", text);
    finish(&mut shop.run_with("torch", &manifest, &[&models]))
        .ended_with(1)
        .saying("not finite");
    let status = shop.ask(&["status", "--json"]).ended_with(0).json();
    assert_eq!(
        (
            &status["stories"]["quarantined"],
            &status["stories"]["done"]
        ),
        (&1.into(), &1.into())
    );
    assert_eq!(status["shots"]["done"], 2);
    let verified = shop.ask(&["verify"]).ended_with(1);
    assert!(verified.stdout.contains("broken"), "{}", verified.stdout);
}

#[test]
fn another_scorer_is_another_run_and_its_parts_are_looked_for() {
    const SCORER: &str = "storymem.scorer=aesthetic";
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true, true])]);
    finish(&mut shop.run_with("torch", &manifest, &[&models(), SCORER])).ended_with(0);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(shop.out().join(name)).unwrap()).unwrap()
    };
    let engine = &read("run.json")["engine"];
    assert_eq!(engine["quality_score"], "LAION aesthetic predictor");
    let parts: Vec<&str> = engine["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part[0].as_str().unwrap())
        .collect();
    assert!(
        parts.ends_with(&[
            "clip",
            "aesthetic/clip",
            "aesthetic/head",
            "lora/backbone_high_noise",
            "lora/backbone_low_noise"
        ]),
        "{parts:?}"
    );
    // The tiny head gives about 5.
    let quality = read("stories/ad/commits/01_01.json")["keyframes"][0]["quality"]
        .as_f64()
        .unwrap();
    assert!((2.0..8.0).contains(&quality), "{quality}");
    finish(&mut shop.run_with("torch", &manifest, &[&models()]))
        .ended_with(78)
        .saying("the quality score (was LAION aesthetic predictor");

    let broken = damaged(&shop, "aesthetic/head.safetensors", |bytes| {
        bytes.truncate(10)
    });
    let other = Workshop::new();
    finish(&mut other.run_with("torch", &manifest, &[&broken])).ended_with(0);
    let other = Workshop::new();
    finish(&mut other.run_with("torch", &manifest, &[&broken, SCORER]))
        .ended_with(78)
        .saying("aesthetic/head (LAION's predictor")
        .saying("storymem.scorer = \"rule\" needs nothing");
}

#[test]
fn a_run_goes_on_with_the_resize_that_it_was_begun_with() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("ad", &[true, true])]);
    let begin = |sets: &[&str]| {
        let models = models();
        let sets = [&[models.as_str()], sets].concat();
        finish(&mut shop.run_with("torch", &manifest, &sets))
    };
    let file = shop.out().join("run.json");
    let read =
        || -> serde_json::Value { serde_json::from_slice(&fs::read(&file).unwrap()).unwrap() };
    let (pillow, torch) = (
        "storymem.selection_resize=pillow",
        "storymem.selection_resize=torch",
    );
    begin(&[pillow]).ended_with(0);
    // As an earlier build left it.
    let mut run = read();
    let memory = run["config"]["storymem"].as_object_mut().unwrap();
    assert_eq!(memory.remove("selection_resize").unwrap(), "pillow");
    write_sealed(&file, run);
    begin(&[]).ended_with(0).saying("1 of 1 stories done");
    begin(&[torch])
        .ended_with(78)
        .saying("storymem.selection_resize (was \"pillow\", is \"torch\")");

    fs::remove_dir_all(shop.out()).unwrap();
    begin(&[]).ended_with(0);
    assert_eq!(read()["config"]["storymem"]["selection_resize"], "torch");
    begin(&[torch]).ended_with(0);
    begin(&[pillow])
        .ended_with(78)
        .saying("storymem.selection_resize");
}

#[test]
fn checkpoints_can_be_looked_at_and_tried() {
    let folder = tiny().join("tiny").display().to_string();
    let components = call(&["model", "inspect", &folder, "--json"])
        .ended_with(0)
        .json();
    let list = components.as_array().unwrap();
    assert!(
        list.iter().any(|part| part["path"] == "i2v/transformer_2"),
        "{components}"
    );
    call(&["model", "init-tiny", &folder])
        .ended_with(78)
        .saying("already");

    let shop = Workshop::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/dit-t2v");
    let input = format!("{golden}/io.safetensors");
    let output = shop.path("o.safetensors").display().to_string();
    let forward = |module: &str| {
        let files = ["--model", golden, "--input", &input, "--output", &output];
        call(&[&["model", "forward", "--module", module], &files[..]].concat())
    };
    forward("transformer").ended_with(0);
    assert!(fs::metadata(&output).unwrap().len() > 0);
    assert!(forward("unet").stderr.contains("vae.encode"));
}
