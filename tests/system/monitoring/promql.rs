//! Which metrics an expression of PromQL names.

use std::collections::BTreeSet;

/// Words of the language that are not metrics, apart from functions.
const WORDS: [&str; 28] = [
    "and",
    "or",
    "unless",
    "offset",
    "bool",
    "atan2",
    "inf",
    "nan",
    "sum",
    "min",
    "max",
    "avg",
    "count",
    "group",
    "stddev",
    "stdvar",
    "quantile",
    "topk",
    "bottomk",
    "count_values",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "start",
    "end",
];
/// Words that a list of labels follows.
const LISTS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// The names of the metrics in `expression`.
pub fn metrics(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' | '`' => 2 + rest[1..].find(first).expect("an open text"),
            '{' => 1 + closing(rest, '{', '}'),
            '[' => 1 + closing(rest, '[', ']'),
            '0'..='9' | '.' => run(rest, |c| c.is_ascii_alphanumeric() || c == '.'),
            _ if names(first) => {
                let length = run(rest, |c| names(c) || c.is_ascii_digit());
                let (name, after) = rest.split_at(length);
                let after = after.trim_start();
                if LISTS.contains(&name) && after.starts_with('(') {
                    let list = 1 + closing(after, '(', ')');
                    rest.len() - after.len() + list
                } else {
                    if !WORDS.contains(&name) && !after.starts_with('(') {
                        found.insert(name.to_owned());
                    }
                    length
                }
            }
            _ => first.len_utf8(),
        };
        rest = rest[length..].trim_start();
    }
    found
}

fn names(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == ':'
}

fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// Where what `text` begins with is closed; brackets inside of texts count for nothing.
fn closing(text: &str, open: char, close: char) -> usize {
    let mut depth = 0;
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        quoted ^= c == '"';
        if !quoted {
            depth += i32::from(c == open) - i32::from(c == close);
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("{open} is never closed: {text}");
}

#[test]
fn metrics_of_expressions() {
    for (expression, expected) in [
        ("up == 0", &["up"][..]),
        (r#"rate(a_total{x=~"b}|c", y="d"}[5m]) / 2e3"#, &["a_total"]),
        (
            "sum by (x, y) (a:b:c) > on (z) group_left (w) e offset 1h",
            &["a:b:c", "e"],
        ),
        (
            r#"label_replace(a, "b", "$1", "c", "(.+)") or vector(0)"#,
            &["a"],
        ),
        (
            "quantile without (x) (0.5, a) unless ignoring (x) group_right () b",
            &["a", "b"],
        ),
        ("time() - a > 900 and b", &["a", "b"]),
    ] {
        let expected = expected.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(metrics(expression), expected, "{expression}");
    }
}
