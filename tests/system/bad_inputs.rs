//! Lines that nobody should write: each gets an answer with its place in the file, and nothing else
//! happens.

use std::time::{Duration, Instant};

use crate::harness::{Workshop, call};

/// Keys of a story's and of a brief's line, and what a sound line has there.
const KEYS: [(&str, &str); 20] = [
    ("id", r#""ad""#),
    (
        "script",
        r#"{"scenes": [{"scene_num": 1, "video_prompts": ["A mug."], "cut": [true]}]}"#,
    ),
    (
        "script.scenes",
        r#"[{"scene_num": 1, "video_prompts": ["A mug."], "cut": [true]}]"#,
    ),
    ("script.scenes.scene_num", "1"),
    ("script.scenes.video_prompts", r#"["A mug."]"#),
    ("script.scenes.cut", "[true]"),
    ("script.scenes.first_frame_prompt", r#"["A mug."]"#),
    ("seed", "7"),
    ("size", "[96, 64]"),
    ("fit", r#""pad""#),
    ("ground", r##""#102030""##),
    ("reference_images", "[]"),
    ("tenant", r#""north""#),
    ("priority", "3"),
    ("brief.title", r#""Mug""#),
    ("brief.shots", "2"),
    ("brief.product_image", "null"),
    ("brief.selling_points", r#"["hot"]"#),
    ("brief.brand", r#""North""#),
    ("brief.size", "[64, 64]"),
];

/// Values that fit almost nowhere.
fn values() -> Vec<(&'static str, String)> {
    let long = format!("\"{}\"", "x".repeat(200_000));
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let plain = [
        ("a fraction", "1.5"),
        ("less than nothing", "-1"),
        ("a huge number", "1e300"),
        ("a number of 30 digits", "123456789012345678901234567890"),
        ("yes", "true"),
        ("an empty text", r#""""#),
        ("blanks", r#""   ""#),
        ("control characters", r#""a\u0000\u001b[31mb\u0007""#),
        ("a path upwards", r#""../../outside""#),
        ("an absolute path", r#""/etc/hostname""#),
        ("a device", r#""/dev/zero""#),
        ("an empty list", "[]"),
        ("a list of nothing", "[null]"),
        ("a list of lists", "[[[]]]"),
        ("a list of huge numbers", "[4294967295, 4294967295]"),
        ("an object", r#"{"a": {"b": []}}"#),
    ];
    let plain = plain.map(|(what, value)| (what, value.to_owned()));
    plain
        .into_iter()
        .chain([("a long text", long), ("a deep list", deep)])
        .collect()
}

/// A line with `value` under `key`, everything else sound.
fn line(key: &str, value: &str) -> String {
    let of = |name: &str| match name == key {
        true => value.to_owned(),
        false => KEYS
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap()
            .1
            .to_owned(),
    };
    if key.starts_with("brief.") {
        let keys = [
            "title",
            "shots",
            "selling_points",
            "brand",
            "size",
            "product_image",
        ];
        let parts = keys.map(|name| format!("{name:?}: {}", of(&format!("brief.{name}"))));
        return format!("{{\"id\": \"ad\", {}}}", parts.join(", "));
    }
    let scene = ["scene_num", "video_prompts", "cut", "first_frame_prompt"].map(|name| {
        let name_in_full = format!("script.scenes.{name}");
        format!("{name:?}: {}", of(&name_in_full))
    });
    let script = match key {
        "script" => of("script"),
        "script.scenes" => format!("{{\"scenes\": {}}}", of(key)),
        key if key.starts_with("script.") => format!("{{\"scenes\": [{{{}}}]}}", scene.join(", ")),
        _ => of("script"),
    };
    let keys = [
        "id",
        "seed",
        "size",
        "fit",
        "ground",
        "reference_images",
        "tenant",
        "priority",
    ];
    let parts = keys.map(|name| format!("{name:?}: {}", of(name)));
    format!("{{\"script\": {script}, {}}}", parts.join(", "))
}

/// Texts that are no line of a manifest at all.
fn no_lines() -> Vec<Vec<u8>> {
    let sound = line("none", "");
    let mut texts: Vec<Vec<u8>> = (1..=12)
        .map(|part| sound.as_bytes()[..sound.len() * part / 13].to_vec())
        .collect();
    let others: [&[u8]; 10] = [
        b"",
        b"\n\n\n",
        b"null",
        b"[]",
        b"{}",
        b"\"text\"",
        b"\xff\xfe{\x00}\x00",
        b"\x80\x81\x82",
        b"{\"id\": \"a\", \"id\": \"b\"}",
        b"id,title\n\"open",
    ];
    texts.extend(others.map(<[u8]>::to_vec));
    texts.push([b"\x1b]0;title\x07", sound.as_bytes()].concat());
    texts
}

/// An answer is 0 where the value happens to be right there, or 65 with the file and the line; it comes
/// soon, and terminals show it as text.
#[test]
fn bad_lines_get_an_answer() {
    let shop = Workshop::new();
    shop.write("outside/secret.txt", "never shown");
    let sound = shop.write("in/sound.jsonl", line("none", ""));
    call(&["validate", &sound]).ended_with(0);
    let lines = KEYS.iter().flat_map(|(key, _)| {
        let values = values().into_iter();
        values.map(move |(what, value)| (format!("{key}: {what}"), line(key, &value).into_bytes()))
    });
    let texts = no_lines().into_iter().enumerate();
    let texts = texts.map(|(number, text)| (format!("text {number}"), text));
    let (mut tried, mut refused) = (0, 0);
    for (what, text) in lines.chain(texts) {
        let path = shop.write("in/bad.jsonl", &text);
        let begun = Instant::now();
        let answer = call(&["validate", &path]);
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        let all = answer.stdout.clone() + &answer.stderr;
        assert!(!all.contains("panicked"), "{what}: {all}");
        assert!(!all.contains(['\u{1b}', '\u{7}', '\0']), "{what}: {all:?}");
        assert!(
            matches!(answer.code, Some(0 | 65)),
            "{what}: {:?} {all}",
            answer.code
        );
        if answer.code == Some(65) {
            assert!(all.contains("bad.jsonl"), "{what}: {all}");
            refused += 1;
        }
        tried += 1;
    }
    println!("{refused} of {tried} bad inputs refused");
    assert!(tried >= 300 && refused >= 250, "{refused} of {tried}");
}
