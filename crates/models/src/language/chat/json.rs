//! The filter `tojson`, as transformers gives it to templates: `json.dumps` of Python.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::Formatter;

/// JSON as Python writes it: a space after commas and colons, letters as they are, keys in the order
/// in which they were written, unless the options say otherwise.
pub(super) fn to_json(
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    };
    let indent = indent_of(&options)?;
    let separators: Option<(String, String)> = match options.get("separators")? {
        None => None,
        Some(pair) => Some(pair_of(&pair)?),
    };
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    // As Python: with an indent, no space stands at the end of a line.
    let comma = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or_else(|| (comma.to_owned(), ": ".to_owned()));
    let style = Python {
        ascii: ensure_ascii.or(ascii).unwrap_or(false),
        indent,
        item,
        key,
        depth: 0,
        has_entries: false,
    };
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, style);
    let written = match sort {
        Some(true) => sorted(value)?.serialize(&mut writer),
        _ => value.serialize(&mut writer),
    };
    written.map_err(failed)?;
    Ok(Value::from_safe_string(
        String::from_utf8_lossy(&bytes).into_owned(),
    ))
}

/// The value with the keys of all maps in the order of their letters.
fn sorted(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter()? {
                entries.push((key.to_string(), sorted(&value.get_item(&key)?)?));
            }
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Value::from_pairs(entries))
        }
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.map(|it| sorted(&it)).collect(),
        _ => Ok(value.clone()),
    }
}

/// What a line begins with per level: a number of spaces or a text.
fn indent_of(options: &Kwargs) -> Result<Option<String>, Error> {
    /// Far more than anybody means.
    const MOST: usize = 64;
    let value: Option<Value> = options.get("indent")?;
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let count = usize::try_from(value.clone())?;
    Ok(Some(" ".repeat(count.min(MOST))))
}

fn pair_of(value: &Value) -> Result<(String, String), Error> {
    let entries: Vec<Value> = value.try_iter()?.collect();
    match entries.as_slice() {
        [item, key] => Ok((item.to_string(), key.to_string())),
        _ => Err(Error::new(
            ErrorKind::InvalidOperation,
            "separators must be two texts",
        )),
    }
}

/// How `json.dumps` writes.
struct Python {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    depth: usize,
    /// Whether the list or object that ends next has something in it.
    has_entries: bool,
}

impl Python {
    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else {
            return Ok(());
        };
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_entries = false;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_entries {
            self.line(writer)?;
        }
        self.has_entries = true;
        writer.write_all(bracket)
    }

    /// What stands before an entry.
    fn entry<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.entry(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_entries = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.entry(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_entries = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for letter in fragment.chars() {
            // Python counts DEL among the letters that need no escape only where all are kept.
            if letter.is_ascii() && letter != '\x7f' {
                writer.write_all(&[letter as u8])?;
                continue;
            }
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}
