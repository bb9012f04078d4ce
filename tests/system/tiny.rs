//! A model is trained, written as checkpoints, and tells a story.

use std::fs;

use crate::harness::{Workshop, call, finish, frames};

/// Everything at the size of the preset for tests: nothing can be recognised, but all files are
/// what the engine takes.
#[test]
fn what_was_trained_in_seconds_tells_a_story() {
    let shop = Workshop::new();
    let (run, set) = (shop.path("training"), shop.path("set"));
    let (run, set) = (run.display().to_string(), set.display().to_string());
    let train = ["train", "tiny", "--out", &run, "--preset", "test"];
    call(&train).ended_with(0);
    assert!(shop.path("training/curve-memory.svg").exists());
    call(&[&train[..], &["--export", &set]].concat()).ended_with(0);
    call(&[&train[..], &["--export", &set]].concat())
        .ended_with(65)
        .saying("already");
    let inspected = call(&["model", "inspect", &set, "--json"]).ended_with(0);
    let components = inspected.json();
    assert_eq!(components.as_array().unwrap().len(), 7, "{components}");
    let lora = shop.path("lora").display().to_string();
    call(&[&train[..], &["--stage", "memory-lora"]].concat()).ended_with(0);
    call(&[&train[..], &["--export", &lora, "--form", "lora"]].concat()).ended_with(0);
    assert!(
        shop.path("lora/lora/backbone_high_noise.safetensors")
            .exists()
    );
    let card = fs::read_to_string(shop.path("set/README.md")).unwrap();
    assert!(card.contains("| fast-memory |"), "{card}");
    let further = shop.path("further").display().to_string();
    let further = ["train", "tiny", "--preset", "test", "--out", &further];
    let from = ["--from", &set];
    let one = ["--stage", "pictures", "--steps", "4", "--rate", "1e-4"];
    call(&[&further[..], &from, &one].concat()).ended_with(0);
    call(&[&further[..], &["--stage", "vae"]].concat())
        .ended_with(65)
        .saying("comes finished");
    call(&[&further[..], &["--steps", "4"]].concat()).ended_with(2);

    for (set, name) in [(set, "whole"), (lora, "lora")] {
        let settings = [
            format!("models.dir={set}"),
            "video.width=48".to_owned(),
            "video.height=32".to_owned(),
            "video.frames=5".to_owned(),
            "storymem.solver=euler".to_owned(),
            "storymem.steps=2".to_owned(),
            "storymem.guidance=1".to_owned(),
            "storymem.quality_threshold=-1000".to_owned(),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let shop = Workshop::new();
        let manifest = shop.manifest(&[("ad", &[true, false, true])]);
        finish(&mut shop.run_with("torch", &manifest, &settings)).ended_with(0);
        assert_eq!(
            frames(&shop.out().join("stories/ad/01_03.mp4")),
            5,
            "{name}"
        );
    }
}

/// The model in `models/` as the quickstart uses it, on one of its stories: captions are followed, and
/// more of what they do not repeat is remembered than by shots that know nothing (15 % of it).
#[test]
fn the_shipped_model_tells_a_story_that_can_be_read() {
    let shop = Workshop::new();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let stories = fs::read_to_string(format!("{root}/manifests/quickstart.jsonl")).unwrap();
    let manifest = shop.write("manifest.jsonl", stories.lines().next().unwrap());
    let out = shop.out().display().to_string();
    let config = format!("{root}/configs/quickstart.toml");
    let models = format!("models.dir={root}/models/storyloom-tiny");
    let run = ["run", "--config", &config, "--manifest", &manifest];
    call(&[&run[..], &["--out", &out, "--set", &models]].concat()).ended_with(0);
    let scores = call(&["eval", &out, "--json"]).ended_with(0).json();
    let run = &scores["runs"][0];
    assert_eq!(run["shots"], 8, "{scores}");
    let metric = |name: &str| run["metrics"][name]["value"].as_f64().unwrap();
    assert!(metric("prompt_following") > 0.7, "{scores}");
    assert!(metric("remembered") > 0.2, "{scores}");
}
