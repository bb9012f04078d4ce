//! Story scripts: every way one can be wrong, round trips, and the 30 scripts of ST-Bench.
//!
//! StoryMem specification, section 1.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use storyloom_story::{Scene, ShotScript, StoryScript, parse_script};

/// The problems of `text`, one a line, as `line:column: message`.
fn problems(text: &str) -> String {
    match parse_script("s.json", text) {
        Ok(script) => format!("{} shots", script.shot_count()),
        Err(problems) => {
            let lines: Vec<_> = problems
                .iter()
                .map(|p| format!("{}:{}: {}; {}", p.line, p.column, p.message, p.help))
                .collect();
            lines.join("\n")
        }
    }
}

fn scene(body: &str) -> String {
    format!("{{\"scenes\": [\n{{\"scene_num\": 1, {body}}}]}}")
}

#[track_caller]
fn expect(text: &str, wanted: &str) {
    assert_eq!(problems(text), wanted, "for {text}");
}

#[test]
fn malformed_json_is_shown_with_line_and_column() {
    expect("", "1:1: the file is empty; write a story script into it");
    expect(
        " \n",
        "1:1: the file is empty; write a story script into it",
    );
    expect(
        "{\n  \"scenes\": [\n",
        "2:14: not valid JSON: the text ends inside a list; close it with ']', or look for a missing ']' further up",
    );
    expect(
        "{\"scenes\": [{\"scene_num\": 1\n\"video_prompts\": []}]}",
        "1:28: not valid JSON: a comma is missing; put a comma between the two values",
    );
    expect(
        "{\"scenes\": oops}",
        "1:12: not valid JSON: unexpected token; mend the JSON at this place",
    );
    assert!(problems("{} {}").contains("more than one JSON value"));
    assert!(problems(&"[".repeat(100_000)).contains("nesting"));
}

#[test]
fn json5_that_the_reference_reads_is_read() {
    let text =
        "\u{feff}// a story\n{scenes: [{scene_num: 1, video_prompts: ['A dog.',], cut: [true,]},]}";
    expect(text, "1 shots");
}

#[test]
fn unknown_keys_are_problems_with_a_hint() {
    let help = "did you mean \"video_prompts\"?";
    let text = scene("\"video_prompt\": [\"A dog.\"]");
    let found = problems(&text);
    assert!(found.contains(help), "{found}");
    assert!(found.contains("2:18: the scene has the unknown key \"video_prompt\""));
    assert!(found.contains("the scene has no \"video_prompts\""));
    expect(
        "{\"scenes\": [{\"scene_num\": 1, \"video_prompts\": [\"a\"], \"lens\": 3}], \"scenes\": []}",
        "1:54: the scene has the unknown key \"lens\"; the known keys are scene_num, video_prompts, first_frame_prompt, cut\n\
         1:67: the story has the key \"scenes\" twice; remove one of them",
    );
}

#[test]
fn cut_takes_booleans_and_the_words_in_any_case() {
    let text =
        scene("\"video_prompts\": [\"a\", \"b\", \"c\"], \"cut\": [\"True\", \"FALSE\", false]");
    let script = parse_script("s.json", &text).unwrap();
    let cuts: Vec<_> = script.shots().map(|(_, shot)| shot.cut).collect();
    assert_eq!(cuts, [true, false, false]);
    for bad in [
        "\"yes\"",
        "1",
        "0",
        "null",
        "\" true\"",
        "[true]",
        "{}",
        "\"\"",
    ] {
        let text = scene(&format!(
            "\"video_prompts\": [\"a\", \"b\"], \"cut\": [true, {bad}]"
        ));
        let found = problems(&text);
        assert!(
            found.contains("2:61: \"cut\" must be true or false"),
            "{found}"
        );
    }
}

#[test]
fn lists_of_a_scene_have_one_length() {
    for (list, wanted) in [
        (
            "\"cut\": [true]",
            "\"cut\" has 1 entries, but the scene has 2 shots",
        ),
        (
            "\"cut\": [true, false, true]",
            "\"cut\" has 3 entries, but the scene has 2 shots",
        ),
        (
            "\"cut\": []",
            "\"cut\" has 0 entries, but the scene has 2 shots",
        ),
        (
            "\"cut\": true",
            "\"cut\" must be a list, but is true or false",
        ),
        (
            "\"first_frame_prompt\": [\"x\"]",
            "\"first_frame_prompt\" has 1 entries, but the scene has 2 shots",
        ),
    ] {
        let found = problems(&scene(&format!(
            "\"video_prompts\": [\"a\", \"b\"], {list}"
        )));
        assert!(found.contains(wanted), "{found}");
    }
}

#[test]
fn a_story_opens_with_a_cut() {
    let found = problems(&scene("\"video_prompts\": [\"a\"], \"cut\": [\"False\"]"));
    assert_eq!(
        found,
        "2:50: the first shot of a story cannot continue from a shot before it; make the first \"cut\" true"
    );
}

#[test]
fn without_any_cut_every_shot_is_one_and_half_of_them_is_a_mistake() {
    let script = parse_script("s.json", &scene("\"video_prompts\": [\"a\", \"b\"]")).unwrap();
    assert!(script.shots().all(|(_, shot)| shot.cut));
    expect(
        "{\"scenes\": [{\"scene_num\": 1, \"video_prompts\": [\"a\"], \"cut\": [true]},\n {\"scene_num\": 2, \"video_prompts\": [\"a\"]}]}",
        "2:2: the scene has no \"cut\", but others have; give every scene a \"cut\" list, or none of them",
    );
}

#[test]
fn prompts_say_something() {
    for blank in ["", " ", "\\n\\t", "\u{a0}"] {
        let found = problems(&scene(&format!("\"video_prompts\": [\"a\", \"{blank}\"]")));
        assert!(found.contains("the prompt of shot 2 is empty"), "{found}");
    }
    let found = problems(&scene("\"video_prompts\": [7]"));
    assert!(
        found.contains("\"video_prompts\" must be a text, but is a number"),
        "{found}"
    );
    assert!(problems(&scene("\"video_prompts\": []")).contains("\"video_prompts\" is empty"));
    assert!(problems("{\"scenes\": []}").contains("\"scenes\" is empty"));
    assert!(problems("{}").contains("the story has no \"scenes\""));
    assert!(problems("[]").contains("the story must be an object, but is a list"));
}

#[test]
fn scenes_count_from_one() {
    let story = |numbers: &[&str]| {
        let scenes: Vec<_> = numbers
            .iter()
            .map(|n| format!("{{\"scene_num\": {n}, \"video_prompts\": [\"a\"]}}"))
            .collect();
        format!("{{\"scenes\": [{}]}}", scenes.join(","))
    };
    expect(&story(&["1", "2", "3"]), "3 shots");
    for (numbers, wanted) in [
        (["0", "1"], "\"scene_num\" is 0 where 1 must stand"),
        (["2", "3"], "\"scene_num\" is 2 where 1 must stand"),
        (["1", "3"], "\"scene_num\" is 3 where 2 must stand"),
        (["1", "1"], "two scenes have \"scene_num\" 1"),
        (
            ["1", "\"2\""],
            "must be a whole number from 1, but is a text",
        ),
        (["1", "-2"], "must be a whole number from 1, but is -2"),
        (["1", "2.0"], "must be a whole number from 1, but is 2.0"),
        (["1", "99999999999"], "but is 99999999999"),
        (["1", "null"], "the scene has no \"scene_num\""),
    ] {
        let found = problems(&story(&numbers));
        assert!(found.contains(wanted), "{numbers:?}: {found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let found = problems(
        "{\"scenes\": [\n{\"scene_num\": 1, \"video_prompts\": [\"\", \"b\"], \"cut\": [false, 3]},\n{\"scene_num\": 5, \"video_prompts\": [], \"sound\": 1}\n]}",
    );
    assert_eq!(found.lines().count(), 7, "{found}");
}

#[test]
fn long_stories_are_legal() {
    let story = |shots: usize| {
        scene(&format!(
            "\"video_prompts\": [{}]",
            ["\"a\""; 1].repeat(shots).join(",")
        ))
    };
    expect(&story(100), "100 shots");
    expect(&story(999), "999 shots");
    assert!(problems(&story(1000)).contains("has 1000 entries, at most 999 are possible"));
}

/// The folder with the real scripts; they are not ours and not shipped.
fn st_bench() -> Option<Vec<(String, String)>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/st-bench");
    let other = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../../shared/data/st-bench"
    );
    let entries = [folder, other]
        .into_iter()
        .find_map(|path| std::fs::read_dir(path).ok());
    let Some(entries) = entries else {
        eprintln!("skipped: the ST-Bench scripts are not at {folder}");
        return None;
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut scripts: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| {
            (
                path.display().to_string(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    scripts.sort();
    Some(scripts)
}

#[test]
fn st_bench_has_the_counts_of_storymem_1() {
    let Some(scripts) = st_bench() else { return };
    let parsed: Vec<_> = scripts
        .iter()
        .map(|(file, text)| parse_script(file, text).unwrap())
        .collect();
    let cuts: Vec<bool> = parsed
        .iter()
        .flat_map(|script| script.shots().map(|(_, shot)| shot.cut).collect::<Vec<_>>())
        .collect();
    let scenes: usize = parsed.iter().map(|script| script.scenes.len()).sum();
    let continued = cuts.iter().filter(|&&cut| !cut).count();
    assert_eq!(
        (
            parsed.len(),
            scenes,
            cuts.len(),
            cuts.len() - continued,
            continued
        ),
        (30, 95, 300, 176, 124)
    );
}

#[test]
fn st_bench_survives_the_way_to_our_text_and_back() {
    let Some(scripts) = st_bench() else { return };
    for (file, text) in scripts {
        let script = parse_script(&file, &text).unwrap();
        let ours = serde_json::to_string(&script).unwrap();
        assert_eq!(parse_script(&file, &ours).unwrap(), script);
        let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&script).unwrap(), theirs, "{file}");
    }
}

fn any_script() -> impl Strategy<Value = StoryScript> {
    let shot = (
        "\\PC*[a-z]\\PC*",
        proptest::option::of("\\PC*[a-z]"),
        any::<bool>(),
    );
    let shots = proptest::collection::vec(shot, 1..5);
    let scenes = proptest::collection::vec(shots, 1..4);
    let title = || proptest::option::of(any::<String>());
    (title(), title(), scenes).prop_map(|(name, overview, scenes)| {
        let mut script = StoryScript {
            name,
            overview,
            scenes: (1..)
                .zip(scenes)
                .map(|(number, shots)| finish(number, shots))
                .collect(),
        };
        script.scenes[0].shots[0].cut = true;
        script
    })
}

fn finish(number: u32, shots: Vec<(String, Option<String>, bool)>) -> Scene {
    let shots = shots
        .into_iter()
        .map(|(prompt, first_frame_prompt, cut)| ShotScript {
            prompt,
            first_frame_prompt,
            cut,
        });
    Scene {
        number,
        shots: shots.collect(),
    }
}

/// Bits of JSON and of the schema, so that random texts get past the first character.
fn any_near_script() -> impl Strategy<Value = String> {
    let bit = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\n"),
        Just("\"scenes\""),
        Just("\"scene_num\""),
        Just("\"video_prompts\""),
        Just("\"cut\""),
        Just("\"a dog\""),
        Just("\""),
        Just("1"),
        Just("-"),
        Just("true"),
        Just("false"),
        Just("null"),
        Just("\\u"),
        Just("é"),
        Just("/*"),
        Just("\u{feff}"),
    ];
    proptest::collection::vec(bit, 0..60).prop_map(|bits| bits.concat())
}

proptest! {
    #[test]
    fn a_script_survives_the_way_to_json_and_back(script in any_script()) {
        let text = serde_json::to_string_pretty(&script).unwrap();
        prop_assert_eq!(&parse_script("s.json", &text).unwrap(), &script);
        prop_assert_eq!(&serde_json::from_str::<StoryScript>(&text).unwrap(), &script);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = parse_script("s.json", &text);
    }

    #[test]
    fn a_refused_text_has_a_place_and_a_help(text in any_near_script()) {
        if let Err(problems) = parse_script("s.json", &text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.line >= 1 && problem.column >= 1 && !problem.help.is_empty());
                prop_assert!(problem.span.0 <= text.len());
            }
        }
    }

    #[test]
    fn a_script_cut_short_anywhere_is_refused(script in any_script(), part in 0.0..1.0_f64) {
        let text = serde_json::to_string(&script).unwrap();
        let mut end = (text.len() as f64 * part) as usize;
        while !text.is_char_boundary(end) { end -= 1; }
        prop_assert!(parse_script("s.json", &text[..end]).is_err());
    }
}
