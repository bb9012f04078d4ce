//! What shops and spreadsheets write: tables, markup in titles, JSON that is none.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use storyloom_story::{Brief, InputFiles, Layout, Line, Problem, Separator, StoryId, read_lines};

const SCRIPT: &str =
    r#"{"scenes": [{"scene_num": 1, "video_prompts": ["A dog."], "cut": [true]}]}"#;

/// A folder with the script `dog.json` and any picture below it.
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
        match path.contains('\\') {
            true => Err("its path leaves the folder of the briefs".to_owned()),
            false => Ok(()),
        }
    }
}

const COMMA: Layout = Layout::Table(Separator::Guessed);

fn shown(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[track_caller]
fn good(text: &str, layout: Layout) -> Vec<Line> {
    let (lines, findings) = read_lines("t.csv", text, layout, &Folder);
    assert!(
        findings.problems.is_empty(),
        "{}",
        shown(&findings.problems)
    );
    lines
}

#[track_caller]
fn wrong(text: &str, layout: Layout, wanted: &str) {
    let (_, findings) = read_lines("t.csv", text, layout, &Folder);
    let found = shown(&findings.problems);
    assert!(
        found.contains(wanted),
        "{text}\ngives {found}\nnot   {wanted}"
    );
}

fn brief(line: &Line) -> &Brief {
    match line {
        Line::Brief(brief) => brief,
        Line::Story(story) => panic!("{} is a story", story.id),
    }
}

/// The same brief in JSON and as every spreadsheet may write it.
#[test]
fn ids_that_differ_only_in_case_are_told() {
    let brief = |id: &str| format!("{{\"id\": \"{id}\", \"title\": \"Mug\"}}\n");
    let text = [brief("Story"), brief("other"), brief("story")].concat();
    let (lines, findings) = read_lines("m.jsonl", &text, Layout::JsonLines, &Folder);
    assert_eq!((lines.len(), findings.problems.len()), (3, 0));
    let found = shown(&findings.warnings);
    assert_eq!(findings.warnings.len(), 1, "{found}");
    assert!(
        found.contains("m.jsonl:3") && found.contains("\"Story\" of line 1"),
        "{found}"
    );
    let script = r#"{"scenes": [{"scene_num": 1, "video_prompts": ["a dog"]}]}"#;
    let scripts = [("f/A.json", script), ("f/a.json", script)];
    let (manifest, warnings) = storyloom_story::manifest_from_scripts("f", scripts).unwrap();
    assert_eq!(manifest.stories.len(), 2);
    assert!(
        shown(&warnings).contains("differ only in case"),
        "{}",
        shown(&warnings)
    );
}

#[test]
fn a_row_is_what_its_line_of_json_would_be() {
    let json = r#"{"id":"a","title":"Lamp, \"Noor\"","selling_points":["soft light","no\nflicker"],"shots":3,"seed":18446744073709551615,"size":[832,480]}"#;
    let wanted = good(json, Layout::JsonLines);
    let rows = [
        "id,title,selling_points,shots,seed,size\na,\"Lamp, \"\"Noor\"\"\",\"soft light|no\nflicker\",3,18446744073709551615,832x480\n",
        "\u{feff}id;title;selling_points;shots;seed;size;\r\n\r\na;\"Lamp, \"\"Noor\"\"\";\"soft light | no\nflicker\";3;18446744073709551615;[832,480];\r\n;;;;;;\r\n",
        "sep=;\nid;title;selling_points;shots;seed;size\na;\"Lamp, \"\"Noor\"\"\";\"[\"\"soft light\"\",\"\"no\\nflicker\"\"]\";3;18446744073709551615;832|480",
        "title\tid\tselling_points\tsize\tseed\tshots\n\"Lamp, \"\"Noor\"\"\"\ta\t\"soft light|no\nflicker\"\t832 × 480\t18446744073709551615\t3\n",
    ];
    for text in rows {
        assert_eq!(good(text, COMMA), wanted, "of {text}");
    }
}

#[test]
fn rows_are_stories_as_well() {
    let text = "id,script,reference_images,title\ns,dog.json,a.png|b.png,\nt,,,Kettle\n";
    let lines = good(text, COMMA);
    let Line::Story(story) = &lines[0] else {
        panic!("{lines:?}");
    };
    assert_eq!(story.reference_images, ["a.png", "b.png"]);
    assert_eq!(brief(&lines[1]).title.as_deref(), Some("Kettle"));
}

#[test]
fn wrong_tables_are_shown_with_their_place() {
    for (text, wanted) in [
        (
            "id,titel\na,Mug",
            "t.csv:1:4: there is no column \"titel\"; did you mean \"title\"?",
        ),
        (
            "id,title,id\na,Mug,b",
            "t.csv:1:10: two columns are called \"id\"",
        ),
        (
            "a,b\nc,d",
            "t.csv:1:1: the first line of a table must name its columns",
        ),
        (
            "id,title\n\na,Mug\nb,Kettle, black",
            "t.csv:4:10: the cell has no column",
        ),
        (
            "id,title,shots\na,Mug,3\n\nb,Kettle",
            "t.csv:4:1: the row has 2 cells, but there are 3",
        ),
        (
            "id,title,shots\na,\"Mug\nred\",3\nb,Cup,many",
            "t.csv:4:7: \"shots\" must be a whole number",
        ),
        (
            "id,title\na,Mug\na,Cup",
            "t.csv:3:1: the id \"a\" was already used on line 2",
        ),
        (
            "id,title\na,\"Mug\nb,Cup\n",
            "t.csv:2:3: a quote is opened and never closed",
        ),
        (
            "{\"id\":\"a\",\"title\":\"Mug\"}",
            "t.csv:1:1: the table has JSON in it",
        ),
        ("id,title\n", "the manifest lists no story and no brief"),
    ] {
        wrong(text, COMMA, wanted);
    }
    wrong(
        "id;title\na;Mug",
        Layout::JsonLines,
        "the file is a table and not JSON; give it a name that ends in .csv",
    );
}

#[test]
fn layouts_are_told_by_endings_in_any_case() {
    assert_eq!(Layout::of_ending("CSV"), COMMA);
    assert_eq!(Layout::of_ending("Tsv"), Layout::Table(Separator::Tab));
    assert_eq!(Layout::of_ending("JsonL"), Layout::JsonLines);
}

#[test]
fn words_are_cleaned_where_they_enter() {
    let text = concat!(
        "{\"id\":\"a\",\"title\":\"Lamp &amp; Shade\",\"selling_points\":[\"<li>soft</li>\"],\"promo\":\"2 &lt; 3\",",
        "\"instruction\":\"<p>One</p><p>room</p>\",\"style\":\"warm\u{200b}\",\"product_image\":\"a&amp;b.png\"}\n",
        "{\"id\":\"b\",\"idea\":\"A <i>dog</i> &amp; a cat\",\"title\":\"<b>Rex</b>\"}\n",
        "{\"id\":\"c\",\"product\":{\"title\":\"&quot;Noor&quot;\"}}\n",
    );
    let (lines, findings) = read_lines("b.jsonl", text, Layout::JsonLines, &Folder);
    assert!(
        findings.problems.is_empty(),
        "{}",
        shown(&findings.problems)
    );
    assert_eq!(findings.warnings.len(), 8, "{}", shown(&findings.warnings));
    let first = brief(&lines[0]);
    assert_eq!(first.title.as_deref(), Some("Lamp & Shade"));
    assert_eq!(first.selling_points, ["soft"]);
    assert_eq!(first.promo.as_deref(), Some("2 < 3"));
    assert_eq!(first.instruction.as_deref(), Some("One room"));
    assert_eq!(first.style.as_deref(), Some("warm"));
    assert_eq!(
        first.product_image.as_deref(),
        Some("a&amp;b.png"),
        "a path is no text"
    );
    let second = brief(&lines[1]);
    assert_eq!(second.idea.as_deref(), Some("A dog & a cat"));
    assert_eq!(brief(&lines[2]).title.as_deref(), Some("\"Noor\""));
    wrong(
        "\n{\"id\":\"a\",\"title\":\"<br/>&nbsp;\"}",
        Layout::JsonLines,
        "t.csv:2:19: \"title\" is empty without its tags",
    );
}

#[test]
fn misspelt_keys_are_recognised_on_every_line() {
    for (line, wanted) in [
        (
            r#"{"id":"x","titel":"y"}"#,
            "the brief has the unknown key \"titel\"; did you mean \"title\"?",
        ),
        (
            r#"{"id":"x","scripts":"dog.json"}"#,
            "did you mean \"script\"?",
        ),
        (
            r#"{"id":"x","sellingPoints":["y"]}"#,
            "did you mean \"selling_points\"?",
        ),
        (
            r#"{"id":"x","colour":"y"}"#,
            "the story has the unknown key \"colour\"",
        ),
    ] {
        wrong(line, Layout::JsonLines, wanted);
    }
    let (_, findings) = read_lines("t", r#"{"id":"x","titel":"y"}"#, Layout::JsonLines, &Folder);
    assert_eq!(findings.problems.len(), 1, "{}", shown(&findings.problems));
}

#[test]
fn paths_of_windows_are_told_how_to_be_written() {
    let line = r#"{"id":"x","title":"Mug","product_image":"pics\\a.png"}"#;
    wrong(
        line,
        Layout::JsonLines,
        "write it with \"/\": \"pics/a.png\"",
    );
    let line = r#"{"id":"x","script":"tales\\a.json"}"#;
    wrong(
        line,
        Layout::JsonLines,
        "write it with \"/\": \"tales/a.json\"",
    );
}

#[test]
fn forms_of_json5_are_read_and_told() {
    for (line, wanted) in [
        (
            "{\"id\":\"x\",\"title\":'Mug'}",
            "t.csv:2:19: a text in single quotes",
        ),
        (
            "{\"id\":\"x\",\"title\":\"Mug\",}",
            "t.csv:2:24: a comma behind the last value",
        ),
        (
            "{id:\"x\",\"title\":\"Mug\"}",
            "t.csv:2:2: a key without quotes",
        ),
        (
            "{\"id\":\"x\",\"title\":\"Mug\"} // mug",
            "t.csv:2:26: a comment",
        ),
        (
            "{\"id\":\"x\",\"title\":\"Mug\",\"shots\":+3}",
            "t.csv:2:33: a number or an escape",
        ),
    ] {
        let text = format!("\n{line}\n{{\"id\":\"y\",\"title\":\"Cup\"}}\n");
        let (_, findings) = read_lines("t.csv", &text, Layout::JsonLines, &Folder);
        let found = shown(&findings.warnings);
        assert_eq!(findings.warnings.len(), 1, "{line} {found}");
        assert!(
            found.starts_with(wanted),
            "{line}\ngives {found}\nnot   {wanted}"
        );
    }
}

#[test]
fn seeds_may_be_texts() {
    let line = r#"{"id":"x","title":"Mug","seed":"18446744073709551615"}"#;
    assert_eq!(
        brief(&good(line, Layout::JsonLines)[0]).seed,
        Some(u64::MAX)
    );
    for seed in ["\"\"", "\"-1\"", "\"18446744073709551616\"", "\"1e3\""] {
        let line = format!("{{\"id\":\"x\",\"title\":\"Mug\",\"seed\":{seed}}}");
        wrong(&line, Layout::JsonLines, "\"seed\" must be a whole number");
    }
}

/// A cell as a program writes it that puts everything into quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

proptest! {
    #[test]
    fn what_is_written_into_a_table_comes_out_of_it(
        texts in proptest::collection::vec("[a-zäß,;\t\"|'<> \n🎁]{0,12}[a-z]", 1..6),
        separator in prop_oneof![Just(','), Just(';'), Just('\t')],
        end in prop_oneof![Just("\n"), Just("\r\n")],
    ) {
        let mut text = format!("id{separator}idea{separator}style{end}");
        for (number, idea) in texts.iter().enumerate() {
            text.push_str(&format!("b{number}{separator}{}{separator}warm{end}", quoted(idea)));
        }
        let (lines, findings) = read_lines("t.csv", &text, COMMA, &Folder);
        prop_assert!(findings.problems.is_empty(), "{}", shown(&findings.problems));
        prop_assert_eq!(lines.len(), texts.len());
        for ((number, wanted), line) in texts.iter().enumerate().zip(&lines) {
            let found = brief(line);
            prop_assert_eq!(&found.id, &StoryId::new(format!("b{number}")).unwrap());
            let wanted = storyloom_story::plain_text(wanted.trim());
            prop_assert_eq!(found.idea.as_deref(), Some(wanted.as_ref()));
        }
    }

    #[test]
    fn no_table_makes_the_reader_panic(text in "(id|title|shots|[,;\t\"\n\r|{x]|é){0,30}") {
        for layout in [COMMA, Layout::Table(Separator::Tab)] {
            let (lines, findings) = read_lines("t", &text, layout, &Folder);
            prop_assert!(!lines.is_empty() || !findings.problems.is_empty());
        }
    }
}
