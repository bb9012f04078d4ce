//! What shops, spreadsheets and Macs hand in.

use crate::harness::{Workshop, call, finish, line, storyloom, write_sealed};

const SCRIPT: &str =
    r#"{"scenes": [{"scene_num": 1, "video_prompts": ["A red mug."], "cut": [true]}]}"#;
/// What Macs write beside a file on foreign disks.
const APPLE_DOUBLE: &[u8] = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        \0\x02\xb0";

#[test]
fn what_is_no_script_is_left_out_of_a_folder_and_named() {
    let shop = Workshop::new();
    for name in [
        "in/tale.json",
        "in/Other.JSON",
        "in/the red mug.json",
        "in/小王子.json",
    ] {
        shop.write(name, SCRIPT);
    }
    for name in [
        "in/._tale.json",
        "in/.DS_Store",
        "in/tale.json~",
        "in/~$tale.json",
    ] {
        shop.write(name, APPLE_DOUBLE);
    }
    shop.write("in/below.json/notes.txt", "not a story");
    let folder = shop.path("in").display().to_string();
    let found = call(&["validate", &folder, "--json"]).ended_with(0).json();
    assert_eq!(found["stories"], 4);
    let told = found["warnings"].to_string();
    for name in [
        "._tale.json",
        ".DS_Store",
        "tale.json~",
        "~$tale.json",
        "below.json",
    ] {
        assert!(told.contains(name), "no {name} in {told}");
    }
    call(&["validate", &folder])
        .ended_with(0)
        .saying("5 entries are no story scripts");
    finish(&mut shop.run(&folder, &[]))
        .ended_with(0)
        .saying("the-red-mug-");
    let made = std::fs::read_dir(shop.out().join("stories")).unwrap();
    let mut made: Vec<String> = made
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    made.sort();
    assert_eq!(made.len(), 4, "{made:?}");
    assert_eq!(made[0], "Other");
    assert!(
        made[1].starts_with("story-") && made[3].starts_with("the-red-mug-"),
        "{made:?}"
    );
}

#[test]
fn a_folder_with_a_manifest_only_names_it() {
    let shop = Workshop::new();
    shop.write("in/m.jsonl", line("a", &[true]));
    let folder = shop.path("in").display().to_string();
    call(&["validate", &folder])
        .ended_with(65)
        .saying("in/m.jsonl; give that file");
    let manifest = shop.write("M.JSONL", line("a", &[true]));
    call(&["validate", &manifest]).ended_with(0);
}

#[test]
fn tables_are_planned_and_made() {
    let shop = Workshop::new();
    let text = "\u{feff}id;title;selling_points;shots\r\nkettle;\"<b>Tea Kettle</b> &amp; lid\";boils fast|quiet;3\r\n";
    let briefs = shop.write("feed.CSV", text);
    call(&["validate", &briefs])
        .ended_with(0)
        .saying("feed.CSV:2: \"title\" has tags, entities or invisible characters in it; it is read as \"Tea Kettle & lid\"");
    finish(&mut shop.run(&briefs, &[])).ended_with(0);
    let story = std::fs::read_to_string(shop.out().join("stories/kettle/story.json")).unwrap();
    assert!(
        story.contains("Tea Kettle & lid") && !story.contains("<b>"),
        "{story}"
    );
    let wrong = shop.write("wrong.tsv", "id\ttitle\na\tMug\nb\tX\n");
    call(&["validate", &wrong])
        .ended_with(65)
        .saying("wrong.tsv:3:3: \"title\" has no word in it");
}

/// A run that an earlier version began had the words as they were written.
#[test]
fn a_run_of_unclean_words_goes_on() {
    let shop = Workshop::new();
    let brief = |title: &str| format!("{{\"id\": \"a\", \"title\": \"{title}\", \"shots\": 2}}\n");
    let clean = shop.write("b.jsonl", brief("Lamp & Shade"));
    finish(&mut shop.run(&clean, &[])).ended_with(0);
    let file = shop.out().join("stories/a/story.json");
    let before = std::fs::read_to_string(&file).unwrap();
    let unclean = before.replace(
        "\"title\": \"Lamp & Shade\"",
        "\"title\": \"<b>Lamp</b> &amp; Shade\"",
    );
    assert_ne!(before, unclean);
    write_sealed(&file, serde_json::from_str(&unclean).unwrap());
    let same = shop.write("b.jsonl", brief("<b>Lamp</b> &amp; Shade"));
    finish(&mut shop.run(&same, &[])).ended_with(0);
    let other = shop.write("b.jsonl", brief("Lamp and Shade"));
    assert_ne!(finish(&mut shop.run(&other, &[])).code, Some(0));
}

#[test]
fn long_prompts_are_told_before_anything_is_made() {
    let shop = Workshop::new();
    let prompt = "A red mug stands on a table. ".repeat(200);
    let story = format!(
        "{{\"id\": \"s\", \"script\": {{\"scenes\": [{{\"scene_num\": 1, \"video_prompts\": [\"A mug.\", {prompt:?}], \"cut\": [true, true]}}]}}}}\n"
    );
    let manifest = shop.write("m.jsonl", story);
    let place = "story s, scene 1, shot 2: the prompt has";
    call(&["validate", &manifest])
        .ended_with(0)
        .saying(&format!("{place} about "));
    let models = format!(
        "models.dir={}/../../models/storyloom-tiny",
        env!("CARGO_MANIFEST_DIR")
    );
    let found = call(&["validate", &manifest, "--set", &models, "--json"]);
    let found = found.ended_with(0).json();
    let long = &found["long_prompts"][0];
    assert_eq!(
        (&long["story"], &long["shot"], &long["exact"]),
        (&"s".into(), &"01_02".into(), &true.into())
    );
    assert_eq!(long["read"], 512);
    assert!(
        long["tokens"].as_u64().is_some_and(|tokens| tokens > 1400),
        "{long}"
    );
    let simulated = call(&["validate", &manifest, "--set", "engine=simulated"]).ended_with(0);
    assert!(!simulated.stderr.contains("tokens"), "{}", simulated.stderr);
}

#[test]
fn paths_count_from_the_config_that_names_them() {
    let shop = Workshop::new();
    let config = shop.write("configs/c.toml", "[models]\ndir = \"../models\"\n");
    let manifest = shop.manifest(&[("a", &[true])]);
    let wanted = shop.path("models").display().to_string();
    let out = shop.out().display().to_string();
    let run = [
        "run",
        "--config",
        &config,
        "--manifest",
        &manifest,
        "--out",
        &out,
    ];
    // In a folder from which the path leads to nothing either.
    let elsewhere = shop.path("configs");
    finish(storyloom(run).current_dir(&elsewhere))
        .ended_with(78)
        .saying(&format!(
            "models.dir = \"{wanted}\": there is no such file or folder"
        ))
        .saying("counts from the folder of that file");
    let mut config = storyloom(["config", "--config", &config]);
    let shown = finish(config.current_dir(&elsewhere)).ended_with(0).stdout;
    assert!(shown.contains(&format!("dir = \"{wanted}\"")), "{shown}");
    // As earlier versions took it.
    shop.write("here/checkpoints/notes.txt", "");
    let config = shop.write("configs/old.toml", "[models]\ndir = \"checkpoints\"\n");
    let mut command = storyloom(["config", "--config", &config]);
    let found = finish(command.current_dir(shop.path("here"))).ended_with(0);
    let found = found.saying("models.dir = \"checkpoints\" is not beside the config file");
    assert!(
        found.stdout.contains("here/checkpoints\""),
        "{}",
        found.stdout
    );
}

#[test]
fn misspelt_commands_are_known() {
    call(&["rnu"]).ended_with(2).saying("'run'");
    call(&["model", "inpsect"])
        .ended_with(2)
        .saying("'inspect'");
}

#[test]
fn an_estimate_for_a_cpu_says_nothing_of_gpus() {
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("a", &[true])]);
    let shown = |device: &str, code: i32| {
        let found = call(&["estimate", "--manifest", &manifest, "--set", device]);
        found.ended_with(code).stdout
    };
    let cpu = shown("device=cpu", 0);
    assert!(cpu.contains("disk") && cpu.contains("--measured"), "{cpu}");
    assert!(
        !cpu.contains("GPU memory") && !cpu.contains("GPU-hours"),
        "{cpu}"
    );
    // One GPU does not hold the experts of Wan2.2.
    assert!(shown("device=cuda", 78).contains("THIS DOES NOT FIT"));
}
