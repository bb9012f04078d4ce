//! Tables of briefs and stories: CSV and TSV with the keys of a line as the names of columns.
//!
//! A row becomes the same object that a line of JSON would be, so that one reader judges both and
//! every problem has its place in the table.

use std::borrow::Cow;
use std::ops::Range;

use jsonc_parser::ast::{Array, NumberLit, Object, ObjectProp, ObjectPropName, StringLit, Value};
use jsonc_parser::common::Range as JsonRange;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::problem::{Problems, nearest};

/// Keys whose cells are numbers.
const NUMBERS: [&str; 3] = ["shots", "seed", "priority"];
/// Keys whose cells are lists.
const LISTS: [&str; 3] = ["selling_points", "reference_images", "size"];
/// Keys whose cells may be JSON.
const JSON: [&str; 3] = ["script", "product", "condition_images"];

/// What separates the cells of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// A comma, a semicolon or a tab: whichever the first line has most known names with.
    Guessed,
    /// A tab.
    Tab,
}

/// A table whose columns are known.
pub(crate) struct Table<'t> {
    text: &'t str,
    /// Byte offset in the file of what follows a byte order mark and `sep=`.
    base: usize,
    delimiter: u8,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    /// Empty for a column without a name.
    name: String,
    place: Range<usize>,
}

impl<'t> Table<'t> {
    /// Reads the names of the columns. `text` begins at byte `base` of the file. `None` for a
    /// text without rows, or if the first is no list of known names (which is noted).
    pub(crate) fn open(
        problems: &mut Problems<'_>,
        text: &'t str,
        base: usize,
        separator: Separator,
        known: &[&'static str],
    ) -> Option<Self> {
        let (text, base, told) = skip_separator_line(text, base);
        let first = text.lines().find(|line| !line.trim().is_empty())?;
        if first.starts_with(['{', '[']) {
            let message = "the table has JSON in it";
            let help = "give the file a name that ends in .jsonl";
            problems.add((base, base + 1), message, help);
            return None;
        }
        let delimiter = match (told, separator) {
            (Some(told), _) => told,
            (None, Separator::Tab) => b'\t',
            (None, Separator::Guessed) => guess(first, known),
        };
        let mut table = Self {
            text,
            base,
            delimiter,
            columns: Vec::new(),
        };
        let names = table.records().next()?;
        if !names
            .cells
            .iter()
            .any(|cell| known.contains(&cell.text.trim()))
        {
            let message = "the first line of a table must name its columns";
            let help = format!("the names are {}", known.join(", "));
            problems.add((names.start, names.start + 1), message, help);
            return None;
        }
        table.columns = columns(problems, &names, known)?;
        Some(table)
    }

    /// A row as an object. `None` for a blank one, and for one with a problem.
    pub(crate) fn row<'r>(
        &self,
        problems: &mut Problems<'_>,
        record: &'r Record,
    ) -> Option<Value<'r>> {
        if record.cells.iter().all(|cell| cell.text.trim().is_empty()) {
            return None;
        }
        if let Some(at) = record.open_quote {
            let message = "a quote is opened and never closed";
            let help = "close it, or write \"\" for a quote in a cell";
            problems.add((at, at + 1), message, help);
            return None;
        }
        self.fits(problems, record).then(|| self.object(record))
    }

    /// Whether a row has a cell for each column and none beyond.
    fn fits(&self, problems: &mut Problems<'_>, record: &Record) -> bool {
        // Many programs write a separator behind the last name.
        let named = |column: &Column| !column.name.is_empty();
        let columns = self
            .columns
            .iter()
            .rposition(named)
            .map_or(0, |last| last + 1);
        let cells = record.cells.len();
        let nameless = |(position, cell): &(usize, &Cell)| {
            let column = self.columns.get(*position);
            column.is_none_or(|column| column.name.is_empty()) && !cell.text.trim().is_empty()
        };
        if let Some((_, cell)) = record.cells.iter().enumerate().find(nameless) {
            let message = format!("the cell has no column: the first line names {columns}");
            let help = "put cells that have the separator in them into double quotes";
            problems.add((cell.place.start, cell.place.end), message, help);
            return false;
        }
        if cells < columns {
            let message = format!("the row has {cells} cells, but there are {columns} columns");
            let help = "leave a cell empty rather than out";
            problems.add((record.start, record.start + 1), message, help);
            return false;
        }
        true
    }

    fn object<'r>(&self, record: &'r Record) -> Value<'r> {
        let filled = |(column, cell): (&Column, &'r Cell)| {
            let text = cell.text.trim();
            if column.name.is_empty() || text.is_empty() {
                return None;
            }
            let name = StringLit {
                range: place(&column.place),
                value: Cow::Owned(column.name.clone()),
            };
            Some(ObjectProp {
                range: place(&cell.place),
                name: ObjectPropName::String(name),
                value: value(&column.name, text, place(&cell.place)),
            })
        };
        let range = place(&(record.start..record.end));
        let properties = self.columns.iter().zip(&record.cells).filter_map(filled);
        let properties = properties.collect();
        Value::Object(Object { range, properties })
    }

    /// The rows, the first included. Blank lines are none.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + use<'t> {
        let (text, base, delimiter) = (self.text, self.base, self.delimiter);
        let reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        // Nothing but the text is read, and that is text: no record can fail.
        let records = reader.into_records().filter_map(Result::ok);
        records.map(move |record| Record::new(&record, text, base, delimiter))
    }
}

/// Excel says on a first line what separates cells: `sep=;`.
fn skip_separator_line(text: &str, base: usize) -> (&str, usize, Option<u8>) {
    let line = text.lines().next().unwrap_or_default();
    let told = line.trim().strip_prefix("sep=").map(str::as_bytes);
    let (Some([delimiter]), Some((first, rest))) = (told, text.split_once('\n')) else {
        return (text, base, None);
    };
    (rest, base + first.len() + 1, Some(*delimiter))
}

/// The separator with which a first line has most known names.
fn guess(first: &str, known: &[&str]) -> u8 {
    let names = |delimiter: &u8| {
        let cells = first.split(char::from(*delimiter));
        let bare = |cell: &str| cell.trim().trim_matches('"').trim().to_owned();
        let known = cells.filter(|cell| known.contains(&bare(cell).as_str()));
        (known.count(), first.matches(char::from(*delimiter)).count())
    };
    // The last of equals: a comma, as the name of the format says.
    [b'\t', b';', b',']
        .into_iter()
        .max_by_key(names)
        .unwrap_or(b',')
}

/// The columns; `None` if a name is wrong, which is noted.
fn columns(
    problems: &mut Problems<'_>,
    names: &Record,
    known: &[&'static str],
) -> Option<Vec<Column>> {
    let before = problems.len();
    let mut columns: Vec<Column> = Vec::with_capacity(names.cells.len());
    for cell in &names.cells {
        let name = cell.text.trim();
        let span = (cell.place.start, cell.place.end);
        if !known.contains(&name) && !name.is_empty() {
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the known columns are {}", known.join(", ")),
            };
            problems.add(span, format!("there is no column \"{name}\""), help);
        } else if !name.is_empty() && columns.iter().any(|column| column.name == name) {
            let message = format!("two columns are called \"{name}\"");
            problems.add(span, message, "remove one of them");
        }
        columns.push(Column {
            name: name.to_owned(),
            place: cell.place.clone(),
        });
    }
    (problems.len() == before).then_some(columns)
}

fn place(range: &Range<usize>) -> JsonRange {
    JsonRange {
        start: range.start,
        end: range.end,
    }
}

/// A cell as the value that its key has in JSON.
fn value<'r>(key: &str, text: &'r str, range: JsonRange) -> Value<'r> {
    if LISTS.contains(&key) || JSON.contains(&key) && text.starts_with(['{', '[']) {
        if text.starts_with(['{', '['])
            && let Some(value) = json_value(text, range)
        {
            return value;
        }
        if LISTS.contains(&key) {
            return list(key, text, range);
        }
    }
    if NUMBERS.contains(&key) && is_number(text) {
        return Value::NumberLit(NumberLit { range, value: text });
    }
    Value::StringLit(StringLit {
        range,
        value: Cow::Borrowed(text),
    })
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '-') && text.parse::<f64>().is_ok()
}

/// Entries between bars; the two numbers of a size may also have a cross between them.
fn list<'r>(key: &str, text: &'r str, range: JsonRange) -> Value<'r> {
    let is_size = key == "size";
    let between = |c: char| c == '|' || is_size && matches!(c, 'x' | 'X' | '×' | '*');
    let entries = text.split(between).map(str::trim);
    let elements = entries.filter(|entry| !entry.is_empty()).map(|entry| {
        if is_size && is_number(entry) {
            return Value::NumberLit(NumberLit {
                range,
                value: entry,
            });
        }
        Value::StringLit(StringLit {
            range,
            value: Cow::Borrowed(entry),
        })
    });
    let elements = elements.collect();
    Value::Array(Array { range, elements })
}

/// A cell that is JSON, every part of it at the place of the cell.
fn json_value(text: &str, range: JsonRange) -> Option<Value<'_>> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default());
    let mut value = parsed.ok()?.value?;
    stand_at(&mut value, range);
    Some(value)
}

fn stand_at(value: &mut Value<'_>, range: JsonRange) {
    match value {
        Value::StringLit(literal) => literal.range = range,
        Value::NumberLit(literal) => literal.range = range,
        Value::BooleanLit(literal) => literal.range = range,
        Value::NullKeyword(literal) => literal.range = range,
        Value::Array(array) => {
            array.range = range;
            array
                .elements
                .iter_mut()
                .for_each(|value| stand_at(value, range));
        }
        Value::Object(object) => {
            object.range = range;
            for property in &mut object.properties {
                property.range = range;
                match &mut property.name {
                    ObjectPropName::String(name) => name.range = range,
                    ObjectPropName::Word(name) => name.range = range,
                }
                stand_at(&mut property.value, range);
            }
        }
    }
}

/// A row of cells, with places that count from the start of the file.
#[derive(Debug)]
pub(crate) struct Record {
    cells: Vec<Cell>,
    start: usize,
    end: usize,
    /// Where a quote was opened that nothing closes.
    open_quote: Option<usize>,
}

#[derive(Debug)]
struct Cell {
    text: String,
    place: Range<usize>,
}

impl Record {
    fn new(record: &csv::StringRecord, text: &str, base: usize, delimiter: u8) -> Self {
        let begun = record.position().map_or(0, |position| position.byte());
        let begun = usize::try_from(begun).unwrap_or(0).min(text.len());
        // The position is that before the blank lines that were skipped.
        let rest = &text[begun..];
        let raw = rest.trim_start_matches(['\r', '\n']);
        let start = begun + rest.len() - raw.len();
        let (places, open_quote) = cell_places(raw.as_bytes(), delimiter);
        let moved = |place: &Range<usize>| base + start + place.start..base + start + place.end;
        let end = places.last().map_or(0, |place| place.end);
        let whole = 0..end;
        let cells = record.iter().enumerate().map(|(position, cell)| Cell {
            text: cell.to_owned(),
            place: moved(places.get(position).unwrap_or(&whole)),
        });
        Self {
            cells: cells.collect(),
            start: base + start,
            end: base + start + end,
            open_quote: open_quote.map(|at| base + start + at),
        }
    }
}

/// Where the cells of the first row of `raw` lie, quotes included, and the quote that is not closed.
fn cell_places(raw: &[u8], delimiter: u8) -> (Vec<Range<usize>>, Option<usize>) {
    let mut places = Vec::new();
    let (mut start, mut at) = (0, 0);
    loop {
        if raw.get(at) == Some(&b'"') && at == start {
            let Some(after) = after_quotes(raw, at + 1) else {
                places.push(start..raw.len());
                return (places, Some(start));
            };
            at = after;
        }
        match raw.get(at) {
            Some(&byte) if byte == delimiter => {
                places.push(start..at);
                start = at + 1;
            }
            None | Some(b'\r' | b'\n') => {
                places.push(start..at);
                return (places, None);
            }
            Some(_) => {}
        }
        at += 1;
    }
}

/// What follows the closing quote; two quotes are one in the cell.
fn after_quotes(raw: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match (raw.get(at)?, raw.get(at + 1)) {
            (b'"', Some(b'"')) => at += 2,
            (b'"', _) => return Some(at + 1),
            _ => at += 1,
        }
    }
}
