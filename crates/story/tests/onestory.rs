//! Story scripts of OneStory: what a line is read as, every way one can be wrong, and the way there and back.
//!
//! OneStory specification, section 1.1.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use storyloom_story::{
    Fit, InputFiles, Line, Method, Resolution, Scene, ShotNotes, ShotScript, StoryEntry, StoryId,
    StoryNotes, StoryPattern, StoryScript, onestory_line, parse_lines, parse_manifest,
    parse_script,
};

/// A folder with `man.png` in it, for all methods.
struct Folder;

impl InputFiles for Folder {
    fn script(&self, _path: &str) -> Result<String, String> {
        Err("no such file".to_owned())
    }

    fn method(&self, _method: Method) -> Result<(), String> {
        Ok(())
    }

    fn reference_image(&self, path: &str) -> Result<(), String> {
        match path {
            "man.png" => Ok(()),
            _ => Err("no such file".to_owned()),
        }
    }

    fn first_shot(&self, path: &str) -> Result<(), String> {
        match path {
            "one.mp4" => Ok(()),
            _ => Err("no such file".to_owned()),
        }
    }
}

/// The line of the specification.
const SAMPLE: &str = r#"{"schema":"storyloom.os.story/1","id":"t2msv-007","setting":"t2msv","pattern":"insert_recall","fps":16,"frames":81,"size":[480,832],"first_image":null,"first_shot":null,"shots":[{"i":1,"caption":"Medium shot of a man speaking.","characters":["man_a"],"environment":"office"},{"i":2,"caption":"The same man leans back.","characters":["man_a"],"environment":"office"}],"seed":7}"#;

/// A line of these keys beside what every story has.
fn line(keys: &str) -> String {
    format!(
        "{{\"schema\":\"storyloom.os.story/1\",\"id\":\"s\",\"setting\":\"t2msv\",\"shots\":[{{\"i\":1,\"caption\":\"A man.\"}}]{keys}}}"
    )
}

/// A line whose shots are these.
fn shots(shots: &str) -> String {
    format!(
        "{{\"schema\":\"storyloom.os.story/1\",\"id\":\"s\",\"setting\":\"t2msv\",\"shots\":{shots}}}"
    )
}

fn problems(text: &str) -> String {
    let (lines, problems) = parse_lines("m.jsonl", text, &Folder);
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    match told.is_empty() {
        true => format!("{} stories", lines.len()),
        false => told.join("\n"),
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

fn story(text: &str) -> StoryEntry {
    let (mut lines, problems) = parse_lines("m.jsonl", text, &Folder);
    assert!(problems.is_empty(), "{problems:?}");
    match lines.remove(0) {
        Line::Story(entry) => entry,
        Line::Brief(_) => panic!("it is no brief"),
    }
}

#[test]
fn the_line_of_the_specification_is_a_whole_story() {
    let found = story(SAMPLE);
    assert_eq!(found.method, Some(Method::OneStory));
    assert_eq!(found.seed, Some(7));
    let size = found.size.unwrap();
    assert_eq!(
        (size.width, size.height),
        (832, 480),
        "written as height and width"
    );
    assert!(found.reference_images.is_empty());
    let shots: Vec<_> = found.script.shots().collect();
    assert_eq!(found.script.scenes.len(), 1);
    assert!(shots.iter().all(|(_, shot)| shot.cut));
    assert_eq!(shots[1].1.prompt, "The same man leans back.");
    let notes = found.notes.clone().unwrap();
    assert_eq!(notes.pattern, Some(StoryPattern::InsertRecall));
    assert_eq!((notes.frames, notes.fps), (Some(81), Some(16)));
    assert_eq!(notes.shots[1].characters, ["man_a"]);
    assert_eq!(notes.shots[1].environment.as_deref(), Some("office"));
    // A manifest of stories takes it as well.
    let manifest = parse_manifest("m.jsonl", SAMPLE, &Folder).unwrap();
    assert_eq!(manifest.stories, [found]);
}

#[test]
fn a_line_says_only_what_it_must_and_stands_beside_others() {
    let text = format!(
        "{}\n{{\"id\":\"b\",\"title\":\"Mug\"}}\n{{\"id\":\"c\",\"script\":{{\"scenes\":[{{\"scene_num\":1,\"video_prompts\":[\"A dog.\"]}}]}}}}\n",
        line("")
    );
    let (lines, problems) = parse_lines("m.jsonl", &text, &Folder);
    assert!(problems.is_empty(), "{problems:?}");
    let methods: Vec<_> = lines.iter().map(Line::method).collect();
    assert_eq!(methods, [Some(Method::OneStory), None, None]);
    let first = story(&line(""));
    assert_eq!((first.notes, first.size, first.seed), (None, None, None));
    let more = story(&line(",\"tenant\":\"x\",\"priority\":3,\"fit\":\"crop\""));
    assert_eq!((more.tenant.as_deref(), more.priority), (Some("x"), 3));
    assert_eq!(more.fit, Some(Fit::Crop));
}

#[test]
fn a_first_image_is_the_only_reference_image() {
    let with = |setting: &str, image: &str| line(image).replace("t2msv", setting);
    let found = story(&with("i2msv", ",\"first_image\":\"man.png\""));
    assert_eq!(found.reference_images, ["man.png"]);
    expect(
        &with("i2msv", ",\"first_image\":\"cat.png\""),
        "m.jsonl:1:112: the first image \"cat.png\" cannot be used: no such file (story s); put a plain file beside",
    );
    for missing in ["", ",\"first_image\":null"] {
        expect(
            &with("i2msv", missing),
            "m.jsonl:1:1: the setting is i2msv and there is no \"first_image\" (story s); give the path",
        );
    }
    expect(
        &with("t2msv", ",\"first_image\":\"man.png\""),
        "there is a \"first_image\", but the setting is t2msv (story s); write \"i2msv\"",
    );
}

#[test]
fn a_ready_made_first_shot_stands_alone_and_is_onestorys() {
    let text = line(",\"first_shot\":\"one.mp4\"");
    let found = story(&text);
    assert_eq!(found.first_shot.as_deref(), Some("one.mp4"));
    assert!(found.reference_images.is_empty());
    assert_eq!(found.method, Some(Method::OneStory));
    // Written and read again it is the same, in both forms.
    assert_eq!(story(&onestory_line(&found).unwrap()), found);
    let plain = serde_json::to_string(&found).unwrap();
    assert_eq!(story(&plain), found);
    expect(
        &line(",\"first_shot\":\"two.mp4\""),
        "m.jsonl:1:111: the ready-made first shot \"two.mp4\" cannot be used: no such file (story s); put a",
    );
    let both = line(",\"first_image\":\"man.png\",\"first_shot\":\"one.mp4\"");
    expect(
        &both.replace("t2msv", "i2msv"),
        "there is a \"first_shot\" beside a picture that the story begins with (story s); leave one of them out",
    );
    let images = plain.replace(
        "\"first_shot\"",
        "\"reference_images\":[\"man.png\"],\"first_shot\"",
    );
    expect(&images, "there is a \"first_shot\" beside a picture");
    for method in ["", "\"method\":\"storymem\","] {
        let other = plain.replace("\"method\":\"onestory\",", method);
        expect(
            &other,
            "only OneStory begins with a ready-made first shot (story s); write \"method\": \"onestory\"",
        );
    }
}

#[test]
fn wrong_lines_are_shown_with_their_place() {
    for (text, wanted) in [
        (
            line("").replace("story/1", "story/2"),
            "m.jsonl:1:11: there is no schema \"storyloom.os.story/2\"; write \"schema\": \"storyloom.os.story/1\"",
        ),
        (
            "{\"id\":\"s\",\"setting\":\"t2msv\",\"shots\":[{\"i\":1,\"caption\":\"A man.\"}]}"
                .to_owned(),
            "m.jsonl:1:1: the story has no \"schema\"; write",
        ),
        (
            line("").replace("\"setting\":\"t2msv\",", ""),
            "m.jsonl:1:1: the story has no \"setting\"; write \"t2msv\" (from text)",
        ),
        (
            line("").replace("t2msv", "tmsv"),
            "\"setting\" does not fit: \"tmsv\" is none of t2msv, i2msv, did you mean \"t2msv\"?",
        ),
        (
            line(",\"pattern\":\"recall\""),
            "\"pattern\" does not fit: \"recall\" is none of main_subject, insert_recall",
        ),
        (
            line(",\"patern\":\"free\""),
            "the story has the unknown key \"patern\"; did you mean \"pattern\"?",
        ),
        (
            line(",\"method\":\"onestory\""),
            "the story has the unknown key \"method\"",
        ),
        (line(",\"seed\":1,\"seed\":2"), "the key \"seed\" twice"),
        (
            line(",\"seed\":-1"),
            "\"seed\" must be a whole number from 0",
        ),
        (
            line(",\"frames\":0"),
            "\"frames\" must be a whole number from 1 to 4294967295, but is 0",
        ),
        (
            line(",\"fps\":15.5"),
            "\"fps\" must be a whole number from 1 to 4294967295, but is 15.5",
        ),
        (line(",\"size\":[480]"), "give height and width in pixels"),
        (
            line(",\"size\":[480,831]"),
            "\"size\" must be an even number",
        ),
        (
            line("").replace("\"s\"", "\"a/b\""),
            "the story id \"a/b\" has the character '/'",
        ),
        (
            format!("{0}\n{0}", line("")),
            "m.jsonl:2:39: the id \"s\" was already used on line 1",
        ),
        (shots("[]"), "\"shots\" is empty; write at least one shot"),
        (shots("3"), "\"shots\" must be a list, but is a number"),
        (
            shots("[\"A man.\"]"),
            "the shot must be an object, but is a text",
        ),
        (
            shots("[{\"caption\":\"A man.\"}]"),
            "the shot has no \"i\"; number the shots",
        ),
        (
            shots("[{\"i\":1}]"),
            "the shot has no \"caption\"; describe what the shot shows",
        ),
        (
            shots("[{\"i\":1,\"caption\":\"A man.\",\"cut\":true}]"),
            "the shot has the unknown key \"cut\"",
        ),
        (
            shots("[{\"i\":1,\"caption\":\"A man.\",\"characters\":\"man_a\"}]"),
            "\"characters\" must be a list",
        ),
        (
            shots("[{\"i\":1,\"caption\":\"A man.\",\"characters\":[\"a\",\"a\"]}]"),
            "\"characters\" has \"a\" twice",
        ),
        (
            shots("[{\"i\":1,\"caption\":\"A man.\",\"environment\":\" \"}]"),
            "\"environment\" has an empty name",
        ),
    ] {
        expect(&text, wanted);
    }
}

#[test]
fn shots_count_from_one_without_gaps() {
    let numbered = |numbers: &[i64]| {
        let each = numbers
            .iter()
            .map(|i| format!("{{\"i\":{i},\"caption\":\"A man.\"}}"));
        shots(&format!("[{}]", each.collect::<Vec<_>>().join(",")))
    };
    expect(&numbered(&[1, 2, 3]), "1 stories");
    expect(
        &numbered(&[2, 3]),
        "\"i\" is 2 where 1 must stand; number the shots",
    );
    expect(&numbered(&[0, 1]), "\"i\" is 0 where 1 must stand");
    expect(&numbered(&[1, 3]), "\"i\" is 3 where 2 must stand");
    expect(&numbered(&[1, 2, 2]), "two shots have \"i\" 2");
    expect(
        &numbered(&[-1]),
        "\"i\" must be a whole number from 1, but is -1",
    );
}

#[test]
fn captions_that_nothing_is_left_of_name_story_and_shot() {
    for blank in [
        "",
        " ",
        "<b></b>",
        "&nbsp;",
        "\\u200b",
        "\\u0007",
        "&lt;br&gt;",
    ] {
        let text = shots(&format!(
            "[{{\"i\":1,\"caption\":\"A man.\"}},{{\"i\":2,\"caption\":\"{blank}\"}}]"
        ));
        expect(
            &text,
            "the caption of shot 2 is empty without tags and invisible characters (story s); describe",
        );
    }
    // What is left is taken as it is written.
    let text = shots("[{\"i\":1,\"caption\":\"A <b>man</b> &amp; a dog.\"}]");
    let found = story(&text);
    let shot = found.script.shots().next().unwrap().1;
    assert_eq!(shot.prompt, "A <b>man</b> &amp; a dog.");
}

/// Where OneStory has no networks the line is refused at its place.
#[test]
fn a_line_needs_the_method_that_makes_it() {
    struct StoryMemOnly;
    impl InputFiles for StoryMemOnly {
        fn script(&self, _path: &str) -> Result<String, String> {
            Err("no such file".to_owned())
        }
        fn method(&self, method: Method) -> Result<(), String> {
            match method {
                Method::StoryMem => Ok(()),
                _ => Err("its models are not loaded".to_owned()),
            }
        }
        fn reference_image(&self, _path: &str) -> Result<(), String> {
            Ok(())
        }
    }
    let problems = parse_manifest("m.jsonl", SAMPLE, &StoryMemOnly).unwrap_err();
    let told = problems[0].to_string();
    assert!(
        told.starts_with(
            "m.jsonl:1:11: the story cannot be made by the method \"onestory\": its models"
        ),
        "{told}"
    );
}

#[test]
fn a_file_of_one_script_says_where_such_a_script_goes() {
    let told = parse_script("s.json", SAMPLE).unwrap_err()[0].to_string();
    assert!(told.contains("a file whose name ends in .jsonl"), "{told}");
}

fn script(scenes: &[&[(&str, bool)]]) -> StoryScript {
    let shot = |(prompt, cut): &(&str, bool)| ShotScript {
        prompt: (*prompt).to_owned(),
        first_frame_prompt: Some("a first frame".to_owned()),
        cut: *cut,
    };
    let scenes = scenes.iter().zip(1..).map(|(shots, number)| Scene {
        number,
        shots: shots.iter().map(shot).collect(),
    });
    StoryScript {
        name: Some("A title".to_owned()),
        overview: None,
        scenes: scenes.collect(),
    }
}

#[test]
fn a_script_of_scenes_becomes_one_story_of_shots() {
    let scenes = [
        &[("A man.", true), ("He sits.", false)][..],
        &[("A dog.", true)],
    ];
    let mut entry = StoryEntry::new(StoryId::new("s").unwrap(), script(&scenes));
    entry.method = Some(Method::StoryMem);
    entry.reference_images = vec!["man.png".to_owned()];
    let written = onestory_line(&entry).unwrap();
    assert_eq!(
        written,
        "{\"schema\":\"storyloom.os.story/1\",\"id\":\"s\",\"setting\":\"i2msv\",\"first_image\":\"man.png\",\
         \"shots\":[{\"i\":1,\"caption\":\"A man.\"},{\"i\":2,\"caption\":\"He sits.\"},{\"i\":3,\"caption\":\"A dog.\"}]}"
    );
    let found = story(&written);
    let prompts: Vec<_> = found
        .script
        .shots()
        .map(|(_, shot)| shot.prompt.clone())
        .collect();
    assert_eq!(prompts, ["A man.", "He sits.", "A dog."]);
    assert_eq!(found.reference_images, ["man.png"]);
    entry.reference_images.push("dog.png".to_owned());
    let told = onestory_line(&entry).unwrap_err().to_string();
    assert!(
        told.starts_with("the story s has 2 reference images"),
        "{told}"
    );
    let blank = [&[("A man.", true)][..], &[("<p></p>", true)]];
    let entry = StoryEntry::new(StoryId::new("s").unwrap(), script(&blank));
    let told = onestory_line(&entry).unwrap_err().to_string();
    assert!(
        told.starts_with("the story s, shot 02_01: nothing is left"),
        "{told}"
    );
}

fn notes() -> impl Strategy<Value = ShotNotes> {
    let names = proptest::collection::btree_set("[a-z_]{1,6}", 0..3);
    let place = proptest::option::of("[a-z é]{0,5}[a-z]");
    (names, place).prop_map(|(characters, environment)| ShotNotes {
        characters: characters.into_iter().collect(),
        environment,
    })
}

prop_compose! {
    /// A story as a script of OneStory can say it.
    fn entry()(
        id in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        shots in proptest::collection::vec(("[ -~äß\u{4e00}🎁\n\t\"\\\\]{0,30}[a-z]", notes()), 1..7),
        (seed, priority, tenant) in (any::<Option<u64>>(), any::<i64>(), proptest::option::of("\\PC{0,8}")),
        (pattern, frames, fps) in (
            proptest::option::of(proptest::sample::select(StoryPattern::ALL.to_vec())),
            proptest::option::of(1..u32::MAX),
            proptest::option::of(1..u32::MAX),
        ),
        size in proptest::option::of((32..2048u32, 32..2048u32)),
        has_image in any::<bool>(),
    ) -> StoryEntry {
        let (captions, notes): (Vec<String>, Vec<ShotNotes>) = shots.into_iter().unzip();
        let shots = captions.into_iter().map(|prompt| ShotScript {
            prompt,
            first_frame_prompt: None,
            cut: true,
        });
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: vec![Scene { number: 1, shots: shots.collect() }],
        };
        let is_said = notes.iter().any(|notes| *notes != ShotNotes::default());
        let shots = if is_said { notes } else { Vec::new() };
        let notes = StoryNotes { pattern, frames, fps, shots };
        StoryEntry {
            method: Some(Method::OneStory),
            seed,
            tenant,
            priority,
            size: size.map(|(width, height)| Resolution { width: width * 2, height: height * 2 }),
            reference_images: if has_image { vec!["man.png".to_owned()] } else { Vec::new() },
            notes: (!notes.is_empty()).then_some(notes),
            ..StoryEntry::new(StoryId::new(id).unwrap(), script)
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(entry in entry()) {
        // Markup may be all that a caption has.
        if let Ok(written) = onestory_line(&entry) {
            prop_assert_eq!(written.lines().count(), 1);
            let (lines, problems) = parse_lines("m.jsonl", &written, &Folder);
            prop_assert!(problems.is_empty(), "{:?}", problems);
            prop_assert_eq!(&lines, &[Line::Story(entry)]);
        }
    }

    #[test]
    fn no_line_makes_the_reader_panic(
        text in "(\\{|\\}|\\[|\\]|,|:|\"shots\"|\"i\"|\"caption\"|\"schema\"|\"storyloom.os.story/1\"|\"t2msv\"|\"setting\"|[0-9]|null|\"é|\n){0,40}",
    ) {
        let (lines, problems) = parse_lines("m.jsonl", &text, &Folder);
        prop_assert!(!lines.is_empty() || !problems.is_empty());
    }

    /// One byte more, less or other: a story that is read has shots that say something.
    #[test]
    fn no_change_of_a_byte_makes_an_empty_story(at in 0..SAMPLE.len(), byte in " -~", mode in 0..3u8) {
        let (before, after) = SAMPLE.split_at(at);
        let text = match mode {
            0 => format!("{before}{byte}{after}"),
            1 => format!("{before}{}", &after[1..]),
            _ => format!("{before}{byte}{}", &after[1..]),
        };
        let (lines, problems) = parse_lines("m.jsonl", &text, &Folder);
        for line in &lines {
            let Line::Story(story) = line else {
                return Err(TestCaseError::fail("it is no brief"));
            };
            prop_assert!(problems.is_empty());
            prop_assert_eq!(story.method, Some(Method::OneStory));
            prop_assert!(story.script.shots().all(|(_, shot)| !shot.prompt.trim().is_empty()));
            let again = onestory_line(story).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let (read, _) = parse_lines("m.jsonl", &again, &Folder);
            prop_assert_eq!(&read, &lines);
        }
    }
}
