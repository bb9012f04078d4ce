//! Wrong input: told with its place, exit code 65, and nothing is started.

use std::fs;

use crate::durable::BLUE;
use crate::harness::{Workshop, call, finish, line};

/// `validate` and `run` both refuse `name` with `text` in it, and both say `wanted`.
#[track_caller]
fn refused(name: &str, text: impl AsRef<[u8]>, wanted: &str) {
    let shop = Workshop::new();
    let manifest = shop.write(name, text);
    call(&["validate", &manifest]).ended_with(65).saying(wanted);
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(65)
        .saying(wanted);
    assert!(!shop.out().exists(), "the run was started");
}

fn script(scene: &str) -> String {
    format!("{{\"id\": \"a\", \"script\": {{\"scenes\": [{{\"scene_num\": 1, {scene}}}]}}}}")
}

#[test]
fn malformed_json_is_shown_with_line_and_column() {
    let text = format!("{}\n{{\"id\": \"b\" \"script\": 3}}\n", line("a", &[true]));
    refused(
        "m.jsonl",
        &text,
        "m.jsonl:2:11: not valid JSON: a comma is missing",
    );
    refused(
        "m.jsonl",
        &text,
        "  | {\"id\": \"b\" \"script\": 3}\n  |           ^",
    );
    refused(
        "s.json",
        "{\n\"scenes\": [\n",
        "s.json:2:12: not valid JSON",
    );
    refused(
        "s.json",
        b"{\"story_name\": \"\xff\"}",
        "no UTF-8 text (byte 16)",
    );
    refused("empty.jsonl", "", "lists no story");
}

#[test]
fn cuts_that_are_neither_true_nor_false_are_refused() {
    refused(
        "m.jsonl",
        script("\"video_prompts\": [\"a\"], \"cut\": [\"yes\"]"),
        "is the text \"yes\"",
    );
    refused(
        "m.jsonl",
        script("\"video_prompts\": [\"a\"], \"cut\": [1]"),
        "is the number 1",
    );
    refused(
        "m.jsonl",
        script("\"video_prompts\": [\"a\"], \"cut\": [true, false]"),
        "has 2 entries, but the scene has 1 shots",
    );
    refused(
        "m.jsonl",
        script("\"video_prompts\": [\"a\"], \"cut\": [false]"),
        "cannot continue",
    );
}

#[test]
fn empty_prompts_are_refused() {
    refused(
        "m.jsonl",
        script("\"video_prompts\": [\" \"], \"cut\": [true]"),
        "the prompt of shot 1 is empty",
    );
}

#[test]
fn ids_are_unique_and_stay_inside() {
    let twice = format!("{}\n{}\n", line("a", &[true]), line("a", &[true]));
    refused(
        "m.jsonl",
        twice,
        "m.jsonl:2:7: the id \"a\" was already used on line 1",
    );
    for id in ["a/b", "..", "../x", "."] {
        refused("m.jsonl", line(id, &[true]), "m.jsonl:1:7: ");
    }
}

#[test]
fn files_that_are_not_there_are_named_with_their_line() {
    let text = "\n{\"id\": \"a\", \"script\": \"gone.json\"}\n";
    refused(
        "m.jsonl",
        text,
        "m.jsonl:2:23: the script \"gone.json\" cannot be used",
    );
    let images = line("a", &[true]).replacen('{', "{\"reference_images\": [\"hero.png\"], ", 1);
    refused(
        "m.jsonl",
        images,
        "m.jsonl:1:23: the reference image \"hero.png\" cannot be used",
    );
    call(&["validate", "/nowhere/m.jsonl"])
        .ended_with(65)
        .saying("/nowhere/m.jsonl");
}

/// The writer of the manifest sees nothing of files outside of its folder.
#[test]
fn files_elsewhere_are_refused_unread_unless_the_settings_allow_them() {
    let shop = Workshop::new();
    let secret = shop.write("secret.txt", "the password is fish");
    shop.write("in/sub/zero.txt", "");
    std::os::unix::fs::symlink("../secret.txt", shop.path("in/link.json")).unwrap();
    let pipe = shop.path("in/pipe.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let story = line("a", &[true]);
    for key in ["script", "reference_images", "product_image"] {
        for (path, wanted) in [
            ("../secret.txt", "leaves the folder"),
            (secret.as_str(), "leaves the folder"),
            ("link.json", "a link in its path leads out"),
            ("/dev/zero", "leaves the folder"),
            ("pipe.json", "not a plain file"),
            ("sub", "not a plain file"),
        ] {
            let line = match key {
                "script" => format!("{{\"id\": \"a\", \"script\": {path:?}}}"),
                "product_image" => {
                    format!("{{\"id\": \"a\", \"title\": \"Mug\", \"product_image\": {path:?}}}")
                }
                _ => story.replacen('{', &format!("{{\"reference_images\": [{path:?}], "), 1),
            };
            let manifest = shop.write("in/m.jsonl", line);
            for said in [
                call(&["validate", &manifest]),
                finish(&mut shop.run(&manifest, &[])),
            ] {
                let said = said.ended_with(65).saying(wanted).saying("m.jsonl:1:");
                let said = said.saying("(story a)").saying("inputs.folder");
                assert!(!said.stderr.contains("fish"), "{}", said.stderr);
            }
        }
    }
    // Those who run the program may allow more.
    shop.write("hero.png", BLUE);
    let root = format!("inputs.folder={}", shop.path("").display());
    let elsewhere = story.replacen('{', "{\"reference_images\": [\"../hero.png\"], ", 1);
    let manifest = shop.write("in/m.jsonl", elsewhere);
    call(&["validate", &manifest, "--set", &root]).ended_with(0);
    finish(&mut shop.run(&manifest, &[&root])).ended_with(0);
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(65)
        .saying("inputs.folder");
    shop.digest();
}

/// What is in a file `validate` finds out at once, and `run` when it takes the story.
#[test]
fn a_picture_that_is_none_keeps_its_own_story_only() {
    let shop = Workshop::new();
    let images = line("a", &[true]).replacen('{', "{\"reference_images\": [\"hero.png\"], ", 1);
    let manifest = shop.write("m.jsonl", format!("{images}\n{}", line("b", &[true])));
    shop.write("hero.png", "no picture");
    let wanted = "m.jsonl:1:23: the reference image \"hero.png\" cannot be used";
    call(&["validate", &manifest]).ended_with(65).saying(wanted);
    finish(&mut shop.run(&manifest, &[]))
        .ended_with(65)
        .saying("hero.png")
        .saying("1 of 2 stories done, 0 failed, 0 in quarantine, 1 set aside");
    shop.write("hero.png", BLUE);
    call(&["validate", &manifest]).ended_with(0);
    finish(&mut shop.run(&manifest, &[])).ended_with(0);
    shop.digest();
}

/// In a manifest and in a folder, once the run has begun.
#[test]
fn a_script_that_is_gone_or_broken_keeps_its_own_story_only() {
    let scene = serde_json::json!({"scene_num": 1, "video_prompts": ["A dog."], "cut": [true]});
    let script = serde_json::json!({"scenes": [scene]}).to_string();
    for (is_folder, outcome) in [
        (
            false,
            "1 of 3 stories done, 0 failed, 0 in quarantine, 2 set aside",
        ),
        (
            true,
            "1 of 2 stories done, 0 failed, 0 in quarantine, 1 set aside",
        ),
    ] {
        let shop = Workshop::new();
        let lines = ["a", "b", "c"].map(|id| {
            shop.write(&format!("scripts/{id}.json"), &script);
            serde_json::json!({"id": id, "script": format!("scripts/{id}.json")}).to_string()
        });
        let input = match is_folder {
            true => shop.path("scripts").display().to_string(),
            false => shop.write("m.jsonl", lines.join("\n")),
        };
        finish(&mut shop.run(&input, &[])).ended_with(0);
        let before = (shop.digest(), shop.products());
        shop.write("scripts/a.json", "{\"scenes\": 3}");
        // What is not in a folder is not asked for.
        fs::remove_file(shop.path("scripts/b.json")).unwrap();
        finish(&mut shop.run(&input, &[]))
            .ended_with(65)
            .saying("a.json:1:12")
            .saying(outcome);
        finish(shop.run(&input, &[]).args(["--limit", "1"]))
            .ended_with(65)
            .saying("0 of 1 stories done, 0 failed, 0 in quarantine, 1 set aside");
        let status = shop.ask(&["status", "--json"]).ended_with(0).json();
        assert_eq!(status["stories"]["total"], 3);
        assert_eq!((shop.digest(), shop.products()), before);
        shop.write("scripts/a.json", &script);
        shop.write("scripts/b.json", &script);
        finish(&mut shop.run(&input, &[])).ended_with(0);
        let status = shop.ask(&["status", "--json"]).ended_with(0).json();
        assert_eq!(status["stories"]["done"], 3);
    }
}

#[test]
fn a_folder_without_scripts_is_refused() {
    let shop = Workshop::new();
    shop.write("folder/readme.txt", "");
    let folder = shop.path("folder").display().to_string();
    call(&["validate", &folder])
        .ended_with(65)
        .saying("there is no story script");
}

#[test]
fn problems_can_be_read_by_programs() {
    let shop = Workshop::new();
    let manifest = shop.write("m.jsonl", line("a b", &[true]));
    let problems = call(&["validate", "--json", &manifest])
        .ended_with(65)
        .json();
    assert_eq!(problems["problems"][0]["line"], 1);
    assert_eq!(problems["problems"][0]["column"], 7);
}

#[test]
fn good_input_is_counted() {
    let shop = Workshop::new();
    shop.write("scripts/quoted.json", "{\"scenes\": [{\"scene_num\": 1, \"video_prompts\": [\"a\", \"b\"], \"cut\": [\"True\", \"false\"]}]}");
    let folder = shop.path("scripts").display().to_string();
    let summary = call(&["validate", "--json", &folder]).ended_with(0).json();
    assert_eq!(
        (&summary["shots"], &summary["continued"]),
        (&2.into(), &1.into())
    );
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/stories.jsonl");
    let summary = call(&["validate", "--json", shipped]).ended_with(0).json();
    assert_eq!(
        (&summary["stories"], &summary["shots"]),
        (&4.into(), &24.into())
    );
}

#[test]
fn wrong_usage_is_code_2() {
    call(&["rum"]).ended_with(2).saying("run");
    call(&["run"]).ended_with(2);
    call(&["validate", "--no-such-flag"]).ended_with(2);
}
