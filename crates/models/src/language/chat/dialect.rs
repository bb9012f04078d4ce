//! Jinja as transformers sets it up for chat templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use time::OffsetDateTime;
use time::format_description::parse_strftime_owned;

use super::json::to_json;

/// Block trimming, the methods of Python's strings and the functions that templates may call.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    // Only other delimiters than the usual ones can be wrong.
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_unknown_method_callback(method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", to_json);
    environment
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The function `strftime_now`.
pub(super) fn clock(now: Option<OffsetDateTime>) -> Value {
    Value::from_function(move |format: &str| -> Result<String, Error> {
        let bad = |error: String| {
            let message = format!("strftime_now({format:?}): {error}");
            Error::new(ErrorKind::InvalidOperation, message)
        };
        let items = parse_strftime_owned(format).map_err(|error| bad(error.to_string()))?;
        let now = now.unwrap_or_else(OffsetDateTime::now_utc);
        now.format(&items).map_err(|error| bad(error.to_string()))
    })
}

/// Methods of Python's strings, lists and dicts.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = text_method(text, name, args)
    {
        return result;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Those of strings that minijinja does not know.
fn text_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let of_one: fn(&str, &str) -> Result<Value, Error> = match name {
        "removeprefix" => |text, it| Ok(text.strip_prefix(it).unwrap_or(text).into()),
        "removesuffix" => |text, it| Ok(text.strip_suffix(it).unwrap_or(text).into()),
        "partition" => |text, it| {
            let (before, after) = text.split_once(it).unwrap_or((text, ""));
            let it = if before.len() < text.len() { it } else { "" };
            Ok(list([before, it, after]))
        },
        "rpartition" => |text, it| {
            let (before, after) = text.rsplit_once(it).unwrap_or(("", text));
            let it = if after.len() < text.len() { it } else { "" };
            Ok(list([before, it, after]))
        },
        "index" => |text, it| match text.find(it) {
            Some(at) => Ok(Value::from(text[..at].chars().count())),
            None => Err(Error::new(
                ErrorKind::InvalidOperation,
                "substring not found",
            )),
        },
        "rsplit" => {
            let args = from_args::<(&str, Option<i64>)>(args);
            return Some(args.map(|(separator, most)| from_the_end(text, separator, most)));
        }
        _ => return None,
    };
    Some(from_args::<(&str,)>(args).and_then(|(it,)| of_one(text, it)))
}

fn list<'a>(entries: impl IntoIterator<Item = &'a str>) -> Value {
    entries.into_iter().map(Value::from).collect()
}

/// At most `most` cuts, from the end on; all that there are if it is negative or not given.
fn from_the_end(text: &str, separator: &str, most: Option<i64>) -> Value {
    let cuts = most.and_then(|most| usize::try_from(most).ok());
    let mut pieces: Vec<&str> = match cuts {
        Some(cuts) => text.rsplitn(cuts.saturating_add(1), separator).collect(),
        None => text.rsplit(separator).collect(),
    };
    pieces.reverse();
    list(pieces)
}

/// The template with `{% generation %}` and `{% endgeneration %}` turned into a block that does
/// nothing. They mark the words that training counts.
///
/// Only the name in the tag changes, so that what trims white space stays what it was. Names set
/// inside are not seen outside, in both.
pub(super) fn without_marks(source: &str) -> String {
    let mut written = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        written.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => 2 + expression(&tag[2..], "}}"),
            Some(b'%') => 2 + expression(&tag[2..], "%}"),
            _ => 1,
        };
        let (tag, after) = tag.split_at(length);
        rest = after;
        match name_of(tag) {
            Some("generation") => written.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => written.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            Some("raw") => {
                let end = end_of_raw(after);
                written.push_str(tag);
                written.push_str(&after[..end]);
                rest = &after[end..];
            }
            _ => written.push_str(tag),
        }
    }
    written.push_str(rest);
    written
}

/// The one word inside a block tag.
fn name_of(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    let inside = inside.strip_suffix(['-', '+']).unwrap_or(inside);
    Some(inside.trim())
}

/// Length of an expression with the bracket that closes it, which does not count in a string.
fn expression(text: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if letter == '\\' => escaped = true,
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            None if text[at..].starts_with(close) => return at + close.len(),
            None => {}
        }
    }
    text.len()
}

/// Where the tag starts that ends a raw block.
fn end_of_raw(text: &str) -> usize {
    let mut tags = text.match_indices("{%").map(|(at, _)| at);
    let ends = |&at: &usize| {
        let tag = &text[at..];
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        name_of(&tag[..end]) == Some("endraw")
    };
    tags.find(ends).unwrap_or(text.len())
}
