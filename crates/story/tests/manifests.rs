//! Manifests: every way one can be wrong, folders of scripts, and stories given inline.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use storyloom_story::{InputFiles, Manifest, Method, manifest_from_scripts, parse_manifest};

const SCRIPT: &str =
    r#"{"scenes": [{"scene_num": 1, "video_prompts": ["A dog."], "cut": [true]}]}"#;

/// A folder with `dog.json`, `bad.json` and `dog.png` in it.
struct Folder;

impl InputFiles for Folder {
    fn script(&self, path: &str) -> Result<String, String> {
        match path {
            "dog.json" => Ok(SCRIPT.to_owned()),
            "bad.json" => Ok("{\n\"scenes\": 3}".to_owned()),
            _ => Err("no such file".to_owned()),
        }
    }

    fn reference_image(&self, path: &str) -> Result<(), String> {
        (path == "dog.png")
            .then_some(())
            .ok_or("no such file".to_owned())
    }
}

fn problems(text: &str) -> String {
    match parse_manifest("m.jsonl", text, &Folder) {
        Ok(manifest) => format!("{} stories", manifest.stories.len()),
        Err(problems) => {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        }
    }
}

#[track_caller]
fn expect(text: &str, wanted: &str) {
    let found = problems(text);
    assert!(
        found.contains(wanted),
        "{text}\ngives {found}\nnot   {wanted}"
    );
}

#[test]
fn a_full_line_is_read() {
    let text = format!(
        "\u{feff}\n{{\"id\": \"a\", \"script\": \"dog.json\"}}\r\n\n{{\"id\": \"b\", \"script\": {SCRIPT}, \"method\": \"storymem\", \
         \"seed\": 18446744073709551615, \"tenant\": \"x\", \"priority\": -3, \"size\": [64, 96], \"reference_images\": [\"dog.png\"]}}"
    );
    let Manifest { stories } = parse_manifest("m.jsonl", &text, &Folder).unwrap();
    assert_eq!(stories[0].script, stories[1].script);
    assert_eq!(
        (stories[0].method, stories[0].seed, stories[0].priority),
        (None, None, 0)
    );
    let second = &stories[1];
    assert_eq!(second.method, Some(Method::StoryMem));
    assert_eq!((second.seed, second.priority), (Some(u64::MAX), -3));
    assert_eq!(second.tenant.as_deref(), Some("x"));
    assert_eq!(second.reference_images, ["dog.png"]);
    assert_eq!(
        second.size.map(|size| (size.width, size.height)),
        Some((64, 96))
    );
}

#[test]
fn duplicate_ids_name_the_first_line() {
    expect(
        "{\"id\": \"a\", \"script\": \"dog.json\"}\n\n{\"id\": \"a\", \"script\": \"dog.json\"}\n",
        "m.jsonl:3:8: the id \"a\" was already used on line 1",
    );
}

#[test]
fn ids_cannot_leave_the_run_folder() {
    for bad in [
        "a/b", "..", "../x", "a\\\\b", ".hidden", "", "a b", "-rf", "x\\u0000",
    ] {
        expect(
            &format!("{{\"id\": \"{bad}\", \"script\": \"dog.json\"}}"),
            "m.jsonl:1:8: ",
        );
    }
}

#[test]
fn wrong_lines_are_shown_with_their_place() {
    for (line, wanted) in [
        (
            "{\"id\": \"a\"",
            ":2:11: not valid JSON: the text ends inside an object",
        ),
        ("[]", ":2:1: the story must be an object, but is a list"),
        (
            "{\"script\": \"dog.json\"}",
            ":2:1: the story has no \"id\"",
        ),
        (
            "{\"id\": 3, \"script\": \"dog.json\"}",
            ":2:8: \"id\" must be a text, but is a number",
        ),
        ("{\"id\": \"a\"}", ":2:1: the story has no \"script\""),
        (
            "{\"id\": \"a\", \"script\": 5}",
            ":2:23: \"script\" must be a path or an object",
        ),
        (
            "{\"id\": \"a\", \"script\": \"cat.json\"}",
            ":2:23: the script \"cat.json\" cannot be used: no such file",
        ),
        (
            "{\"id\": \"a\", \"scrpt\": \"dog.json\"}",
            ":2:13: the story has the unknown key \"scrpt\"; did you mean \"script\"?",
        ),
        (
            "{\"id\": \"a\", \"script\": \"dog.json\", \"method\": \"story-mem\"}",
            "there is no method \"story-mem\"; did you mean \"storymem\"?",
        ),
        (
            "{\"id\": \"a\", \"script\": \"dog.json\", \"seed\": -1}",
            "\"seed\" must be a whole number from 0",
        ),
        (
            "{\"id\": \"a\", \"script\": \"dog.json\", \"seed\": 1.5}",
            "\"seed\" must be a whole number from 0",
        ),
        (
            "{\"id\": \"a\", \"script\": \"dog.json\", \"priority\": \"high\"}",
            "\"priority\" must be a whole number",
        ),
        (
            "{\"id\": \"a\", \"script\": \"dog.json\", \"reference_images\": \"dog.png\"}",
            "\"reference_images\" must be a list",
        ),
        (
            "{\"id\": \"a\", \"script\": \"dog.json\", \"reference_images\": [\"dog.png\", \"cat.png\"]}",
            ":2:67: the reference image \"cat.png\" cannot be used: no such file",
        ),
        (
            "{\"id\": \"a\", \"script\": {\"scenes\": [{\"scene_num\": 1, \"video_prompts\": [\" \"]}]}}",
            ":2:70: the prompt of shot 1 is empty",
        ),
    ] {
        expect(&format!("\n{line}\n"), wanted);
    }
    expect("", "m.jsonl:1:1: the manifest lists no story");
    expect("\n\n", "m.jsonl:1:1: the manifest lists no story");
}

#[test]
fn problems_of_a_script_are_listed_once_and_under_its_name() {
    let found = problems(
        "{\"id\": \"a\", \"script\": \"bad.json\"}\n{\"id\": \"b\", \"script\": \"bad.json\"}\n",
    );
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(
        found.starts_with("bad.json:2:11: \"scenes\" must be a list"),
        "{found}"
    );
}

#[test]
fn a_closure_is_enough_to_read_scripts() {
    let read = |_: &str| Ok::<_, String>(SCRIPT.to_owned());
    let text = "{\"id\": \"a\", \"script\": \"x\", \"reference_images\": [\"anything\"]}";
    assert_eq!(parse_manifest("m", text, &read).unwrap().stories.len(), 1);
}

#[test]
fn a_folder_of_scripts_is_a_manifest() {
    let (manifest, warnings) =
        manifest_from_scripts("d", [("d/neo.json", SCRIPT), ("d/cat.json", SCRIPT)]).unwrap();
    assert!(warnings.is_empty());
    let ids: Vec<_> = manifest
        .stories
        .iter()
        .map(|story| story.id.as_str())
        .collect();
    assert_eq!(ids, ["cat", "neo"]);
    let first = |files: &[(&'static str, &'static str)]| {
        manifest_from_scripts("d", files.iter().copied()).unwrap_err()[0].to_string()
    };
    assert!(first(&[]).starts_with("d:1:1: there is no story script"));
    let (manifest, warnings) = manifest_from_scripts("d", [("d/a b.json", SCRIPT)]).unwrap();
    let id = manifest.stories[0].id.as_str();
    assert!(id.starts_with("a-b-"), "{id}");
    assert!(warnings[0].to_string().contains(id));
    assert!(first(&[("d/a.json", "{}")]).starts_with("d/a.json:1:1: the story has no \"scenes\""));
    assert!(first(&[("d/a.json", SCRIPT), ("e/a.json", SCRIPT)]).contains("the id \"a\""));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse_manifest("m.jsonl", &text, &Folder);
    }

    #[test]
    fn no_id_makes_the_reader_panic_or_leave_the_folder(id in any::<String>()) {
        let id_json = serde_json::to_string(&id).unwrap();
        let text = format!("{{\"id\": {id_json}, \"script\": \"dog.json\"}}");
        if let Ok(manifest) = parse_manifest("m.jsonl", &text, &Folder) {
            let path = std::path::Path::new(manifest.stories[0].id.as_str());
            prop_assert_eq!(path.components().count(), 1);
            prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
        }
    }
}

/// Lists what models are loaded.
struct Loaded(&'static [Method]);

impl InputFiles for Loaded {
    fn script(&self, _path: &str) -> Result<String, String> {
        Ok(SCRIPT.to_owned())
    }

    fn method(&self, method: Method) -> Result<(), String> {
        match self.0.contains(&method) {
            true => Ok(()),
            false => Err("its models are not loaded".to_owned()),
        }
    }

    fn reference_image(&self, _path: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Nothing has been loaded when a manifest is read.
#[test]
fn a_line_whose_method_has_no_models_is_refused_at_its_place() {
    let text = "{\"id\": \"a\", \"script\": \"dog.json\"}\n\
                {\"id\": \"b\", \"script\": \"dog.json\", \"method\": \"onestory\"}";
    let problems = parse_manifest("m.jsonl", text, &Loaded(&[Method::StoryMem])).unwrap_err();
    let told = problems[0].to_string();
    assert_eq!(problems.len(), 1);
    assert!(told.starts_with("m.jsonl:2:45: "), "{told}");
    assert!(
        told.contains("by the method \"onestory\": its models are not loaded"),
        "{told}"
    );
    assert!(
        problems[0].help.contains("one that is loaded: storymem"),
        "{:?}",
        problems[0]
    );
    let both = Loaded(&[Method::StoryMem, Method::OneStory]);
    let stories = parse_manifest("m.jsonl", text, &both).unwrap().stories;
    let methods = stories.iter().map(|story| story.method);
    assert_eq!(methods.collect::<Vec<_>>(), [None, Some(Method::OneStory)]);
    // Where nobody says what is loaded, it is what this version can run.
    let plain = |_: &str| Ok(SCRIPT.to_owned());
    assert!(parse_manifest("m.jsonl", text, &plain).is_ok());
    let other = text.replace("onestory", "moviedreamer");
    assert!(parse_manifest("m.jsonl", &other, &plain).is_err());
}
