//! From the text of a manifest to a checked [`Manifest`].

mod line;
mod onestory;

use std::collections::BTreeMap;

use jsonc_parser::ast::Value;

use crate::brief::Brief;
use crate::brief_reader::{BRIEF_KEYS, LINE_KEYS};
use crate::ids::StoryId;
use crate::json::{self, Fields, span};
use crate::manifest::{LeftOut, Line, Manifest};
use crate::method::Method;
use crate::onestory_script::{self, is_onestory_script};
use crate::problem::{Findings, Problem, Problems, SourceLocation, nearest};
use crate::script::StoryScript;
use crate::script_reader::skip_byte_order_mark;
use crate::table::{Separator, Table};

const KEYS: [&str; 11] = [
    "id",
    "script",
    "method",
    "seed",
    "tenant",
    "priority",
    "size",
    "fit",
    "ground",
    "reference_images",
    "first_shot",
];

/// The files that a manifest names, by their paths relative to it. This crate opens nothing.
pub trait InputFiles {
    /// The text of a script, or why it cannot be read.
    fn script(&self, path: &str) -> Result<String, String>;

    /// Whether a story whose script is missing or broken is [left out](Findings::left_out), and no
    /// problem of the manifest.
    fn may_lack_scripts(&self) -> bool {
        false
    }

    /// Whether the models of a method are loaded, or why not. Where nobody says otherwise, those are that
    /// this version [can run](Method::WITH_NETWORKS).
    fn method(&self, method: Method) -> Result<(), String> {
        match Method::WITH_NETWORKS.contains(&method) {
            true => Ok(()),
            false => Err("this version has no models for it".to_owned()),
        }
    }

    /// Whether a reference image is there, or why it cannot be used.
    fn reference_image(&self, path: &str) -> Result<(), String>;

    /// Whether a ready-made first shot is there, or why it cannot be used. Taken as given where nobody says
    /// otherwise.
    fn first_shot(&self, _path: &str) -> Result<(), String> {
        Ok(())
    }

    /// Whether the picture of a product is there, is safe to open, and has the digest that its
    /// brief names, or why it cannot be used. Taken as given where nobody says otherwise.
    fn product_image(&self, _path: &str, _sha256: Option<&str>) -> Result<(), String> {
        Ok(())
    }

    /// Whether the title of a product is a name that prompts can say, or why not. Taken as given
    /// where nobody says otherwise.
    fn product_title(&self, _title: &str) -> Result<(), String> {
        Ok(())
    }
}

/// How the stories and briefs of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One JSON object a line.
    JsonLines,
    /// A table whose first line names the keys.
    Table(Separator),
}

impl Layout {
    /// The layout of a file by the ending of its name, in any case: `csv`, `tsv` and `tab` are
    /// tables.
    pub fn of_ending(ending: &str) -> Self {
        match ending.to_ascii_lowercase().as_str() {
            "csv" => Self::Table(Separator::Guessed),
            "tsv" | "tab" => Self::Table(Separator::Tab),
            _ => Self::JsonLines,
        }
    }
}

/// A function that reads scripts; reference images are taken as given.
impl<F: Fn(&str) -> Result<String, String>> InputFiles for F {
    fn script(&self, path: &str) -> Result<String, String> {
        self(path)
    }

    fn reference_image(&self, _path: &str) -> Result<(), String> {
        Ok(())
    }
}

/// Reads a manifest: one JSON object a line (design, section 7). Blank lines are skipped.
///
/// A script that several lines name is read once, and its problems are listed once.
///
/// # Errors
/// All problems of the manifest and of the scripts it names. A brief is one of them.
pub fn parse_manifest(
    file: &str,
    text: &str,
    files: &dyn InputFiles,
) -> Result<Manifest, Vec<Problem>> {
    let layout = Layout::JsonLines;
    let (lines, Findings { problems, .. }) =
        Reader::read(file, text, layout, files, Accepted::Stories);
    let stories = lines.into_iter().filter_map(|line| match line {
        Line::Story(entry) => Some(entry),
        Line::Brief(_) => None,
    });
    if problems.is_empty() {
        let stories = stories.collect();
        Ok(Manifest { stories })
    } else {
        Err(problems)
    }
}

/// Reads a file whose lines are stories and briefs in any order: a line with `script` is a
/// story, one without `script` but with a key of a brief is a [`Brief`].
///
/// Gives the lines that are right, and all problems of those that are not.
pub fn parse_lines(file: &str, text: &str, files: &dyn InputFiles) -> (Vec<Line>, Vec<Problem>) {
    let (lines, findings) = read_lines(file, text, Layout::JsonLines, files);
    (lines, findings.problems)
}

/// Reads a file of stories and briefs in either layout: the lines that are right, the problems of
/// those that are not, and what the writer should know of the others.
pub fn read_lines(
    file: &str,
    text: &str,
    layout: Layout,
    files: &dyn InputFiles,
) -> (Vec<Line>, Findings) {
    Reader::read(file, text, layout, files, Accepted::Both)
}

/// Reads a file of briefs only, without a look at the pictures they name: the briefs that are
/// right, and all problems of those that are not.
pub fn read_briefs(text: &str, file: &str) -> (Vec<Brief>, Vec<Problem>) {
    let no_files = |_: &str| Err("there are no scripts beside briefs".to_owned());
    let layout = Layout::JsonLines;
    let (lines, findings) = Reader::read(file, text, layout, &no_files, Accepted::Briefs);
    let briefs = lines.into_iter().filter_map(|line| match line {
        Line::Brief(brief) => Some(brief),
        Line::Story(_) => None,
    });
    (briefs.collect(), findings.problems)
}

/// What the lines of a file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    Stories,
    Briefs,
    Both,
}

impl Accepted {
    /// What to write into a file that has nothing in it.
    fn example(self) -> &'static str {
        match self {
            Self::Stories => {
                "write one story a line: {\"id\": \"my-story\", \"script\": \"my-story.json\"}"
            }
            Self::Briefs | Self::Both => {
                "write one brief a line: {\"id\": \"my-ad\", \"title\": \"my product\"}"
            }
        }
    }
}

/// Whether a line has no script but a key that only briefs have, or one that was meant to be.
fn looks_like_a_brief(value: &Value<'_>) -> bool {
    let Value::Object(object) = value else {
        return false;
    };
    let names = || object.properties.iter().map(|p| p.name.as_str());
    let all = all_keys();
    let is_meant = |name| nearest(name, all.iter().copied());
    names().all(|name| is_meant(name) != Some("script"))
        && names().any(|name| is_meant(name).is_some_and(|name| BRIEF_KEYS.contains(&name)))
}

fn has_script(value: &Value<'_>) -> bool {
    matches!(value, Value::Object(object) if object.get("script").is_some())
}

/// Every key that some line may have.
fn all_keys() -> Vec<&'static str> {
    let stories = KEYS.into_iter().filter(|key| !LINE_KEYS.contains(key));
    LINE_KEYS
        .into_iter()
        .chain(stories)
        .chain(BRIEF_KEYS)
        .collect()
}

/// Whether a line that is no JSON names the columns of a table.
fn names_columns(line: &str) -> bool {
    let cells = line.split([',', ';', '\t']);
    !line.trim_start().starts_with('{')
        && cells
            .map(|cell| cell.trim().trim_matches('"'))
            .any(|cell| cell == "id")
}

/// What is known while a manifest is read.
struct Reader<'a> {
    problems: Problems<'a>,
    files: &'a dyn InputFiles,
    accepted: Accepted,
    /// Scripts by path, or why there is none.
    scripts: BTreeMap<String, Result<StoryScript, String>>,
    /// Where each id was first used.
    locations: BTreeMap<StoryId, SourceLocation>,
    /// The ids as storage sees them that does not tell cases apart.
    folded: BTreeMap<String, StoryId>,
    found: Vec<Line>,
    left_out: Vec<LeftOut>,
}

impl<'a> Reader<'a> {
    fn read(
        file: &'a str,
        text: &'a str,
        layout: Layout,
        files: &'a dyn InputFiles,
        accepted: Accepted,
    ) -> (Vec<Line>, Findings) {
        let mut reader = Self {
            problems: Problems::new(file, text),
            files,
            accepted,
            scripts: BTreeMap::new(),
            locations: BTreeMap::new(),
            folded: BTreeMap::new(),
            found: Vec::new(),
            left_out: Vec::new(),
        };
        let body = skip_byte_order_mark(&mut reader.problems, text);
        let offset = text.len() - body.len();
        match layout {
            Layout::JsonLines => reader.json_lines(body, offset),
            Layout::Table(separator) => reader.table(body, offset, separator),
        }
        reader.finish()
    }
}

impl Reader<'_> {
    fn json_lines(&mut self, body: &str, mut offset: usize) {
        let first = body.lines().find(|line| !line.trim().is_empty());
        if first.is_some_and(names_columns) {
            let message = "the file is a table and not JSON";
            let help = "give it a name that ends in .csv or .tsv";
            return self.problems.add((0, 1), message, help);
        }
        for line in body.split_inclusive('\n') {
            self.problems.count_from(offset);
            if let Some(value) = json::read(&mut self.problems, line) {
                self.line(&value);
            }
            offset += line.len();
        }
    }

    fn table(&mut self, body: &str, offset: usize, separator: Separator) {
        self.problems.count_from(0);
        let known = all_keys();
        let table = Table::open(&mut self.problems, body, offset, separator, &known);
        let Some(table) = table else {
            return;
        };
        for record in table.records().skip(1) {
            if let Some(row) = table.row(&mut self.problems, &record) {
                self.line(&row);
            }
        }
    }

    fn finish(mut self) -> (Vec<Line>, Findings) {
        if self.found.is_empty() && self.left_out.is_empty() && self.problems.is_empty() {
            self.problems.count_from(0);
            let message = match self.accepted {
                Accepted::Stories => "the manifest lists no story",
                Accepted::Briefs => "there is no brief",
                Accepted::Both => "the manifest lists no story and no brief",
            };
            self.problems.add((0, 1), message, self.accepted.example());
        }
        let findings = Findings {
            left_out: self.left_out,
            locations: self.locations,
            ..self.problems.into_findings()
        };
        (self.found, findings)
    }

    fn line(&mut self, value: &Value<'_>) {
        let form = self.form(value);
        if self.accepted == Accepted::Stories && form == Form::Brief {
            let help = "make a script of it: storyloom plan --briefs FILE --out MANIFEST";
            self.problems
                .add(span(value), "the line is a brief, not a story", help);
            return;
        }
        let keys = form.keys();
        let hints = match form {
            Form::Brief | Form::Story if !has_script(value) => all_keys(),
            _ => keys.clone(),
        };
        let before = self.problems.len();
        let fields = Fields::with_hints(&mut self.problems, value, form.name(), &keys, &hints);
        let Some(fields) = fields else {
            return;
        };
        let location = self.problems.location(span(value));
        let found = match form {
            Form::Brief => self.brief(&fields, location).map(Line::Brief),
            Form::Story => self.story(&fields, location).map(Line::Story),
            Form::OneStory => self.onestory_story(&fields, location).map(Line::Story),
        };
        // A line with a problem is left out even where enough of it could be read.
        if let Some(found) = found
            && self.problems.len() == before
        {
            self.found.push(found);
        }
    }

    /// What a line is to be read as.
    fn form(&self, value: &Value<'_>) -> Form {
        match self.accepted {
            Accepted::Briefs => Form::Brief,
            _ if is_onestory_script(value) => Form::OneStory,
            _ if looks_like_a_brief(value) => Form::Brief,
            _ => Form::Story,
        }
    }
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// With a `script`, or the path of one.
    Story,
    /// What a script is to be made of.
    Brief,
    /// As a whole story script of OneStory.
    OneStory,
}

impl Form {
    /// What it is, for messages.
    fn name(self) -> &'static str {
        match self {
            Self::Brief => "the brief",
            Self::Story | Self::OneStory => "the story",
        }
    }

    fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Brief => [LINE_KEYS.as_slice(), BRIEF_KEYS.as_slice()].concat(),
            Self::Story => KEYS.to_vec(),
            Self::OneStory => onestory_script::KEYS.to_vec(),
        }
    }
}
