//! Briefs: every way one can be wrong, both layouts, and files that hold stories, too.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use storyloom_story::{
    Brief, BriefKind, InputFiles, Language, Line, Method, Problem, Resolution, StoryId,
    parse_lines, parse_manifest, plain_text, read_briefs,
};

const SCRIPT: &str =
    r#"{"scenes": [{"scene_num": 1, "video_prompts": ["A dog."], "cut": [true]}]}"#;

/// A folder with `kettle.png` and the script `dog.json` in it.
struct Folder;

impl InputFiles for Folder {
    fn script(&self, path: &str) -> Result<String, String> {
        (path == "dog.json")
            .then(|| SCRIPT.to_owned())
            .ok_or_else(|| "no such file".to_owned())
    }

    fn reference_image(&self, _path: &str) -> Result<(), String> {
        Ok(())
    }

    fn product_image(&self, path: &str, _sha256: Option<&str>) -> Result<(), String> {
        (path == "kettle.png")
            .then_some(())
            .ok_or_else(|| "no such file".to_owned())
    }
}

fn shown(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[track_caller]
fn expect(line: &str, wanted: &str) {
    let (lines, problems) = parse_lines("b.jsonl", &format!("\n{line}\n"), &Folder);
    let found = shown(&problems);
    assert!(lines.is_empty(), "{line} was read as {lines:?}");
    assert!(
        found.contains(wanted),
        "{line}\ngives {found}\nnot   {wanted}"
    );
}

#[test]
fn a_full_brief_is_read() {
    let text = concat!(
        "\u{feff}\n",
        r#"{"id": "a", "title": "Ember", "selling_points": ["keeps warm", "no noise"], "#,
        r#""promo": "Half price", "instruction": "One slow morning.", "product_image": "kettle.png", "#,
        r#""shots": 5, "style": "warm", "language": "de", "size": [832, 480], "method": "storymem", "#,
        r#""seed": 7, "tenant": "x", "priority": -3}"#
    );
    let (lines, problems) = parse_lines("b.jsonl", text, &Folder);
    assert_eq!(shown(&problems), "");
    let expected = Brief {
        title: Some("Ember".to_owned()),
        selling_points: vec!["keeps warm".to_owned(), "no noise".to_owned()],
        promo: Some("Half price".to_owned()),
        instruction: Some("One slow morning.".to_owned()),
        product_image: Some("kettle.png".to_owned()),
        shots: 5,
        style: Some("warm".to_owned()),
        language: Language::new("de").unwrap(),
        size: Some(Resolution {
            width: 832,
            height: 480,
        }),
        method: Some(Method::StoryMem),
        seed: Some(7),
        tenant: Some("x".to_owned()),
        priority: -3,
        ..Brief::new(StoryId::new("a").unwrap())
    };
    assert_eq!(lines, [Line::Brief(expected)]);
}

/// Narrative Weaver specification, section 1.2.
#[test]
fn a_sample_of_narrative_weaver_without_a_plan_is_a_brief() {
    let digest = "0123456789abcdef".repeat(4);
    let text = format!(
        "{{\"schema\":\"storyloom.nw.sample/1\",\"id\":\"eavsd-1\",\"use\":\"q3\",\"lang\":\"en\",\
         \"size\":[512,512],\"instruction\":\"Plan it.\",\
         \"condition_images\":[{{\"path\":\"kettle.png\",\"sha256\":\"{digest}\",\"role\":\"product\"}}],\
         \"product\":{{\"title\":\"Ember\",\"selling_points\":[\"warm\"],\"promo\":\"now\"}},\"seed\":123}}"
    );
    let (lines, problems) = parse_lines("b.jsonl", &text, &Folder);
    assert_eq!(shown(&problems), "");
    let [Line::Brief(brief)] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(brief.title.as_deref(), Some("Ember"));
    assert_eq!(brief.product_image.as_deref(), Some("kettle.png"));
    assert_eq!(brief.product_image_sha256.as_deref(), Some(digest.as_str()));
    assert_eq!((brief.shots, brief.seed), (8, Some(123)));
    assert_eq!(brief.kind(), BriefKind::Ad);
}

#[test]
fn every_wrong_field_has_its_place() {
    let long = "x".repeat(8001);
    for (fields, wanted) in [
        (
            r#""title": 3"#.to_owned(),
            ":2:22: \"title\" must be a text, but is a number",
        ),
        (r#""title": " ""#.to_owned(), ":2:22: \"title\" is empty"),
        (
            format!("\"title\": \"{}\"", "x".repeat(201)),
            ":2:22: \"title\" has 201 characters, at most 200",
        ),
        (
            r#""title": "a\u0007b""#.to_owned(),
            ":2:22: \"title\" has a control character",
        ),
        (
            r#""title": "t", "selling_points": "warm""#.to_owned(),
            ":2:45: \"selling_points\" must be a list",
        ),
        (
            r#""title": "t", "selling_points": ["warm", 3]"#.to_owned(),
            ":2:54: \"selling_points\" must be a text, but is a number",
        ),
        (
            format!(
                "\"title\": \"t\", \"selling_points\": [{}\"a\"]",
                "\"a\",".repeat(16)
            ),
            "\"selling_points\" has 17 entries, at most 16",
        ),
        (
            r#""title": "t", "instruction": {}"#.to_owned(),
            "\"instruction\" must be a text, but is an object",
        ),
        (
            r#""title": "t", "promo": """#.to_owned(),
            "\"promo\" is empty",
        ),
        (
            r#""title": "t", "product_image": "cat.png""#.to_owned(),
            ":2:44: the product image \"cat.png\" cannot be used: no such file",
        ),
        (
            r#""title": "t", "product_image": "kettle.png", "product_image_sha256": "12""#
                .to_owned(),
            "\"product_image_sha256\" is no SHA-256",
        ),
        (
            format!(
                "\"title\": \"t\", \"product_image_sha256\": \"{}\"",
                "0".repeat(64)
            ),
            "there is a SHA-256 but no \"product_image\"",
        ),
        (
            format!("\"idea\": \"{long}\""),
            "\"idea\" has 8001 characters",
        ),
        (
            r#""idea": "a fox", "product_image": "kettle.png""#.to_owned(),
            ":2:1: the brief has an \"idea\" and a product",
        ),
        (
            r#""idea": "a fox", "selling_points": ["soft"]"#.to_owned(),
            "the brief has an \"idea\" and a product",
        ),
        (
            r#""instruction": "do it""#.to_owned(),
            ":2:1: the brief has no \"title\", no \"product_image\" and no \"idea\"",
        ),
        (
            r#""title": "t", "shots": 0"#.to_owned(),
            ":2:36: \"shots\" must be a whole number from 1 to 64, but is 0",
        ),
        (
            r#""title": "t", "shots": 65"#.to_owned(),
            "\"shots\" must be a whole number from 1 to 64, but is 65",
        ),
        (
            r#""title": "t", "shots": "8""#.to_owned(),
            "\"shots\" must be a whole number from 1 to 64, but is a text",
        ),
        (
            r#""title": "t", "shots": 2.5"#.to_owned(),
            "\"shots\" must be a whole number from 1 to 64, but is 2.5",
        ),
        (
            r#""title": "t", "style": []"#.to_owned(),
            "\"style\" must be a text",
        ),
        (
            r#""title": "t", "language": "english""#.to_owned(),
            "\"english\" is no language tag",
        ),
        (
            r#""title": "t", "language": "en", "lang": "de""#.to_owned(),
            "\"language\" is given twice",
        ),
        (
            r#""title": "t", "size": "832x480""#.to_owned(),
            "\"size\" must be a list, but is a text",
        ),
        (
            r#""title": "t", "size": [832]"#.to_owned(),
            "\"size\" has 1 entries",
        ),
        (
            r#""title": "t", "size": [831, 480]"#.to_owned(),
            "but is 831; the nearest is 832",
        ),
        (
            r#""title": "t", "size": [832, 100000]"#.to_owned(),
            "but is 100000; the nearest is 4096",
        ),
        (
            r#""title": "t", "priority": "high""#.to_owned(),
            "\"priority\" must be a whole number",
        ),
        (
            r#""title": "t", "seed": -1"#.to_owned(),
            "\"seed\" must be a whole number from 0",
        ),
        (
            r#""title": "t", "tenant": 5"#.to_owned(),
            "\"tenant\" must be a text",
        ),
        (
            r#""title": "t", "method": "story-mem""#.to_owned(),
            "there is no method \"story-mem\"; did you mean \"storymem\"?",
        ),
        (
            r#""title": "t", "titel": "u""#.to_owned(),
            "the brief has the unknown key \"titel\"; did you mean \"title\"?",
        ),
        (
            r#""title": "t", "title": "u""#.to_owned(),
            "the brief has the key \"title\" twice",
        ),
        (
            r#""title": "t", "product": {"title": "u"}"#.to_owned(),
            "\"title\" is given twice, in two places",
        ),
        (
            r#""product": {"titel": "u"}"#.to_owned(),
            "the product has the unknown key \"titel\"",
        ),
        (
            r#""title": "t", "schema": "other""#.to_owned(),
            "there is no schema \"other\"",
        ),
        (
            r#""title": "t", "use": "q1""#.to_owned(),
            "samples of use \"q1\" are not planned",
        ),
        (
            r#""title": "t", "condition_images": [{"sha256": ""}]"#.to_owned(),
            "the condition image has no \"path\"",
        ),
        (
            r#""title": "t", "condition_images": [{"path": "kettle.png"}, {"path": "x"}]"#
                .to_owned(),
            "only one condition image is read",
        ),
        (
            r#""title": "t", "condition_images": [{"path": "kettle.png", "role": "hero"}]"#
                .to_owned(),
            "there is no role \"hero\"",
        ),
        (
            r#""title": "t", "reference_images": ["x.png"]"#.to_owned(),
            "the brief has the unknown key \"reference_images\"",
        ),
    ] {
        expect(&format!("{{\"id\": \"a\", {fields}}}"), wanted);
    }
    expect(r#"{"title": "t"}"#, ":2:1: the brief has no \"id\"");
    expect(r#"{"id": "../a", "title": "t"}"#, ":2:8: ");
    expect(r#"{"id": "a"}"#, ":2:1: the story has no \"script\"");
}

#[test]
fn all_problems_of_a_line_are_told_at_once() {
    let (_, problems) = read_briefs(
        "{\"id\": \"a/b\", \"title\": 3, \"shots\": 0, \"language\": \"english\", \"x\": 1}\n",
        "b.jsonl",
    );
    assert_eq!(problems.len(), 5, "{}", shown(&problems));
}

#[test]
fn stories_and_briefs_share_a_file_and_its_names() {
    let text = format!(
        "{{\"id\": \"a\", \"script\": {SCRIPT}}}\n\
         {{\"id\": \"b\", \"idea\": \"a fox\"}}\n\
         {{\"id\": \"b\", \"script\": \"dog.json\"}}\n\
         {{\"id\": \"c\", \"script\": \"dog.json\", \"title\": \"t\"}}\n"
    );
    let (lines, problems) = parse_lines("b.jsonl", &text, &Folder);
    let ids: Vec<_> = lines.iter().map(|line| line.id().as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(matches!(lines[1], Line::Brief(_)));
    let found = shown(&problems);
    assert!(found.contains("3:8: the id \"b\" was already used on line 2"));
    assert!(found.contains("4:35: the story has the unknown key \"title\""));
}

#[test]
fn a_manifest_has_no_briefs_and_says_what_to_do() {
    let text = "{\"id\": \"b\", \"idea\": \"a fox\"}";
    let problems = parse_manifest("m.jsonl", text, &Folder).unwrap_err();
    let found = shown(&problems);
    assert_eq!(problems.len(), 1);
    assert!(
        found.contains("m.jsonl:1:1: the line is a brief"),
        "{found}"
    );
    assert!(found.contains("storyloom plan"), "{found}");
}

#[test]
fn a_file_of_briefs_has_no_scripts_and_is_not_empty() {
    let first = |text: &str| shown(&read_briefs(text, "b.jsonl").1);
    assert!(first("").contains("b.jsonl:1:1: there is no brief"));
    let found = first("{\"id\": \"a\", \"script\": \"dog.json\"}");
    assert!(found.contains("the brief has the unknown key \"script\""));
}

/// Words as a reader gives them: what has tags in it is read without them.
fn some_text() -> impl Strategy<Value = String> {
    "[ -~äßλ一\n]{0,20}[!-~é]"
        .prop_map(|text| plain_text(&text).into_owned())
        .prop_filter("nothing is left", |text| !text.trim().is_empty())
        // Entities may stand for characters that are refused.
        .prop_filter("a control character", |text| {
            !text.contains(|c: char| c.is_control() && c != '\n')
        })
}

prop_compose! {
    fn subject()(
        title in some_text(),
        points in prop::collection::vec(some_text(), 0..4),
        image in prop::option::of("[a-z]{1,8}\\.png"),
        idea in prop::option::of(some_text()),
    ) -> Brief {
        let brief = Brief { title: Some(title), ..Brief::new(StoryId::new("x").unwrap()) };
        match idea {
            Some(idea) => Brief { idea: Some(idea), ..brief },
            None => Brief { selling_points: points, product_image: image, ..brief },
        }
    }
}

prop_compose! {
    fn any_brief()(
        subject in subject(),
        id in "[a-z][a-z0-9._-]{0,12}",
        texts in prop::array::uniform3(prop::option::of(some_text())),
        shots in 1..=Brief::MAX_SHOTS,
        language in "[a-z]{2}(-[A-Z]{2})?",
        size in prop::option::of((4_u32..256, 4_u32..256)),
        seed in prop::option::of(any::<u64>()),
        priority in any::<i64>(),
    ) -> Brief {
        let [instruction, style, promo] = texts;
        Brief {
            id: StoryId::new(id).unwrap(),
            instruction,
            style,
            promo,
            shots,
            language: Language::new(language).unwrap(),
            size: size.map(|(width, height)| Resolution { width: width * 16, height: height * 16 }),
            seed,
            priority,
            ..subject
        }
    }
}

proptest! {
    #[test]
    fn a_brief_survives_the_way_to_its_line_and_back(brief in any_brief()) {
        let line = serde_json::to_string(&brief).unwrap();
        let (briefs, problems) = read_briefs(&line, "b.jsonl");
        prop_assert_eq!(shown(&problems), "");
        prop_assert_eq!(&briefs, &vec![brief.clone()]);
        prop_assert_eq!(serde_json::from_str::<Brief>(&line).unwrap(), brief);
    }

    #[test]
    fn a_planned_brief_is_a_line_of_a_manifest(brief in any_brief()) {
        let script = storyloom_story::parse_script("s.json", SCRIPT).unwrap();
        let story = brief.story(script);
        let line = serde_json::to_string(&story).unwrap();
        let manifest = parse_manifest("m.jsonl", &line, &Folder).unwrap();
        prop_assert_eq!(manifest.stories, vec![story]);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = read_briefs(&text, "b.jsonl");
        let _ = parse_lines("b.jsonl", &text, &Folder);
    }

    #[test]
    fn no_value_makes_the_reader_panic_or_passes_unseen(
        key in prop::sample::select(vec![
            "id", "title", "selling_points", "promo", "instruction", "product_image", "idea",
            "shots", "style", "language", "size", "method", "seed", "tenant", "priority",
            "product", "condition_images", "schema", "use", "lang", "product_image_sha256",
        ]),
        value in "(\\[|\\{|\"[a-z]{0,3}\"|-?[0-9]{1,30}(\\.5)?|true|,|:|\\]|\\}){1,4}",
    ) {
        let line = format!("{{\"id\": \"a\", \"{key}\": {value}}}");
        let (briefs, problems) = read_briefs(&line, "b.jsonl");
        prop_assert_eq!(briefs.is_empty(), !problems.is_empty());
        for problem in problems {
            prop_assert_eq!(problem.line, 1);
        }
    }

    /// A bad line neither hides nor changes the others, and is told by its number.
    #[test]
    fn a_bad_line_stands_alone(good in prop::collection::vec(any_brief(), 1..5), at in 0_usize..5) {
        let at = at.min(good.len());
        let mut lines = Vec::new();
        let mut wanted = Vec::new();
        for (number, brief) in good.into_iter().enumerate() {
            let id = StoryId::new(format!("story-{number}")).unwrap();
            let brief = Brief { id, ..brief };
            lines.push(serde_json::to_string(&brief).unwrap());
            wanted.push(brief);
        }
        lines.insert(at, "{\"id\": \"bad\", \"title\": \"t\", \"shots\": 0}".to_owned());
        let (briefs, problems) = read_briefs(&lines.join("\r\n"), "b.jsonl");
        prop_assert_eq!(briefs, wanted);
        prop_assert_eq!(problems.len(), 1);
        prop_assert_eq!(problems[0].line, at + 1);
    }
}
