//! From the text of a manifest, or from a folder of scripts, to a checked [`Manifest`].

use std::collections::BTreeMap;
use std::str::FromStr;

use jsonc_parser::ast::Value;

use crate::brief::Brief;
use crate::brief_reader::{BRIEF_KEYS, LINE_KEYS, read_brief, read_size};
use crate::fit::{Fit, Ground};
use crate::ids::StoryId;
use crate::json::{self, Fields, kind, span};
use crate::manifest::{Line, Manifest, StoryEntry};
use crate::method::Method;
use crate::problem::{Problem, Problems, Span, nearest};
use crate::script::StoryScript;
use crate::script_reader::{parse_script, read_story, skip_byte_order_mark};
use crate::video::Resolution;

const KEYS: [&str; 10] = [
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
];

/// The files that a manifest names, by their paths relative to it. This crate opens nothing.
pub trait InputFiles {
    /// The text of a script, or why it cannot be read.
    fn script(&self, path: &str) -> Result<String, String>;

    /// Whether a reference image is there, or why it cannot be used.
    fn reference_image(&self, path: &str) -> Result<(), String>;

    /// Whether the picture of a product is there, is safe to open, and has the digest that its
    /// brief names, or why it cannot be used. Taken as given where nobody says otherwise.
    fn product_image(&self, _path: &str, _sha256: Option<&str>) -> Result<(), String> {
        Ok(())
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
    let (lines, problems) = Reader::read(file, text, files, Accepted::Stories);
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
    Reader::read(file, text, files, Accepted::Both)
}

/// Reads a file of briefs only, without a look at the pictures they name: the briefs that are
/// right, and all problems of those that are not.
pub fn read_briefs(text: &str, file: &str) -> (Vec<Brief>, Vec<Problem>) {
    let no_files = |_: &str| Err("there are no scripts beside briefs".to_owned());
    let (lines, problems) = Reader::read(file, text, &no_files, Accepted::Briefs);
    let briefs = lines.into_iter().filter_map(|line| match line {
        Line::Brief(brief) => Some(brief),
        Line::Story(_) => None,
    });
    (briefs.collect(), problems)
}

/// Makes a manifest of script files, given as name and text; the id of a story is the name's
/// stem. The stories are sorted by id.
///
/// # Errors
/// All problems of the scripts, names that are no ids, two files of the same stem, and no files
/// at all (which is blamed on `folder`).
pub fn manifest_from_scripts<'f>(
    folder: &str,
    scripts: impl IntoIterator<Item = (&'f str, &'f str)>,
) -> Result<Manifest, Vec<Problem>> {
    let mut found = Vec::new();
    let mut stories: BTreeMap<StoryId, StoryEntry> = BTreeMap::new();
    for (file, text) in scripts {
        match script_entry(file, text) {
            Ok(entry) => {
                if let Some(twin) = stories.insert(entry.id.clone(), entry) {
                    let message = format!("two scripts give a story the id {:?}", twin.id.as_str());
                    found.extend(whole_file(file, &message, "rename one of the files"));
                }
            }
            Err(problems) => found.extend(problems),
        }
    }
    if stories.is_empty() && found.is_empty() {
        let help = "put story scripts with names ending in .json there";
        found.extend(whole_file(folder, "there is no story script", help));
    }
    if found.is_empty() {
        let stories = stories.into_values().collect();
        Ok(Manifest { stories })
    } else {
        Err(found)
    }
}

fn script_entry(file: &str, text: &str) -> Result<StoryEntry, Vec<Problem>> {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let script = parse_script(file, text);
    match (StoryId::new(stem), script) {
        (Ok(id), Ok(script)) => Ok(StoryEntry::new(id, script)),
        (Ok(_), Err(problems)) => Err(problems),
        (Err(error), script) => {
            let help = "rename the file: its name is the id of the story";
            let mut problems = whole_file(file, &error.to_string(), help);
            problems.extend(script.err().unwrap_or_default());
            Err(problems)
        }
    }
}

/// A problem of a file rather than of a place in it.
fn whole_file(file: &str, message: &str, help: &str) -> Vec<Problem> {
    let mut problems = Problems::new(file, "");
    problems.add((0, 0), message, help);
    problems.into_vec()
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

/// Whether a line has no script but a key that only briefs have.
fn looks_like_a_brief(value: &Value<'_>) -> bool {
    let Value::Object(object) = value else {
        return false;
    };
    let names = || object.properties.iter().map(|p| p.name.as_str());
    names().all(|name| name != "script") && names().any(|name| BRIEF_KEYS.contains(&name))
}

/// What stories and briefs say alike.
struct Settings {
    method: Option<Method>,
    seed: Option<u64>,
    tenant: Option<String>,
    priority: i64,
    size: Option<Resolution>,
    fit: Option<Fit>,
    ground: Option<Ground>,
}

/// What is known while a manifest is read.
struct Reader<'a> {
    problems: Problems<'a>,
    files: &'a dyn InputFiles,
    accepted: Accepted,
    /// Scripts by path; `None` for one that has problems.
    scripts: BTreeMap<String, Option<StoryScript>>,
    /// The line on which each id was first used.
    lines: BTreeMap<StoryId, usize>,
    found: Vec<Line>,
}

impl<'a> Reader<'a> {
    fn read(
        file: &'a str,
        text: &'a str,
        files: &'a dyn InputFiles,
        accepted: Accepted,
    ) -> (Vec<Line>, Vec<Problem>) {
        let mut reader = Self {
            problems: Problems::new(file, text),
            files,
            accepted,
            scripts: BTreeMap::new(),
            lines: BTreeMap::new(),
            found: Vec::new(),
        };
        let body = skip_byte_order_mark(&mut reader.problems, text);
        let mut offset = text.len() - body.len();
        for line in body.split_inclusive('\n') {
            reader.problems.count_from(offset);
            reader.line(line, offset);
            offset += line.len();
        }
        reader.finish()
    }
}

impl Reader<'_> {
    fn finish(mut self) -> (Vec<Line>, Vec<Problem>) {
        if self.found.is_empty() && self.problems.is_empty() {
            self.problems.count_from(0);
            let message = match self.accepted {
                Accepted::Stories => "the manifest lists no story",
                Accepted::Briefs => "there is no brief",
                Accepted::Both => "the manifest lists no story and no brief",
            };
            self.problems.add((0, 1), message, self.accepted.example());
        }
        (self.found, self.problems.into_vec())
    }

    fn line(&mut self, line: &str, offset: usize) {
        let Some(value) = json::read(&mut self.problems, line) else {
            return;
        };
        if self.accepted == Accepted::Stories && looks_like_a_brief(&value) {
            let help = "make a script of it: storyloom plan --briefs FILE --out MANIFEST";
            self.problems
                .add(span(&value), "the line is a brief, not a story", help);
            return;
        }
        let brief = self.is_brief(&value);
        let keys = self.keys(brief);
        let what = if brief { "the brief" } else { "the story" };
        let before = self.problems.len();
        let Some(fields) = Fields::new(&mut self.problems, &value, what, &keys) else {
            return;
        };
        let found = if brief {
            self.brief(&fields, offset).map(Line::Brief)
        } else {
            self.story(&fields, offset).map(Line::Story)
        };
        // A line with a problem is left out even where enough of it could be read.
        if let Some(found) = found
            && self.problems.len() == before
        {
            self.found.push(found);
        }
    }

    /// Whether a line is to be read as a brief.
    fn is_brief(&self, value: &Value<'_>) -> bool {
        match self.accepted {
            Accepted::Stories => false,
            Accepted::Briefs => true,
            Accepted::Both => looks_like_a_brief(value),
        }
    }

    fn keys(&self, brief: bool) -> Vec<&'static str> {
        if brief {
            [LINE_KEYS.as_slice(), BRIEF_KEYS.as_slice()].concat()
        } else {
            KEYS.to_vec()
        }
    }

    fn story(&mut self, fields: &Fields<'_, '_>, offset: usize) -> Option<StoryEntry> {
        let id = self.id(fields, offset);
        let script = self.script(fields);
        let settings = self.settings(fields);
        let reference_images = self.reference_images(fields);
        Some(StoryEntry {
            method: settings.method,
            seed: settings.seed,
            tenant: settings.tenant,
            priority: settings.priority,
            size: settings.size,
            fit: settings.fit,
            ground: settings.ground,
            reference_images,
            ..StoryEntry::new(id?, script?)
        })
    }

    fn brief(&mut self, fields: &Fields<'_, '_>, offset: usize) -> Option<Brief> {
        let id = self.id(fields, offset);
        // The fields of a brief without a name are checked all the same.
        let stand_in = || StoryId::new("brief").ok();
        let settings = self.settings(fields);
        let named = id.clone().or_else(stand_in)?;
        let brief = read_brief(&mut self.problems, fields, self.files, named)?;
        id?;
        Some(Brief {
            method: settings.method,
            seed: settings.seed,
            tenant: settings.tenant,
            priority: settings.priority,
            size: settings.size,
            fit: settings.fit,
            ground: settings.ground,
            ..brief
        })
    }

    fn settings(&mut self, fields: &Fields<'_, '_>) -> Settings {
        Settings {
            method: self.method(fields),
            seed: self.integer(fields, "seed", "a whole number from 0 to 2^64 - 1"),
            priority: self
                .integer(fields, "priority", "a whole number")
                .unwrap_or(0),
            tenant: fields.text(&mut self.problems, "tenant"),
            size: read_size(&mut self.problems, fields),
            fit: self.word(fields, "fit", "write \"pad\", \"crop\" or \"stretch\""),
            ground: self.word(fields, "ground", "write a colour as \"#f4f4f0\""),
        }
    }

    /// A text that stands for a value.
    fn word<T: FromStr<Err = String>>(
        &mut self,
        fields: &Fields<'_, '_>,
        name: &'static str,
        help: &str,
    ) -> Option<T> {
        let value = fields.get(name)?;
        let text = json::text(&mut self.problems, value, name)?;
        let found = text.parse();
        found
            .map_err(|error: String| {
                let message = format!("{name:?} does not fit: {error}");
                self.problems.add(span(value), message, help);
            })
            .ok()
    }

    fn id(&mut self, fields: &Fields<'_, '_>, offset: usize) -> Option<StoryId> {
        let help = "give the story a short name of its own";
        let value = fields.require(&mut self.problems, "id", help)?;
        let text = json::text(&mut self.problems, value, "id")?;
        let id = match StoryId::new(text) {
            Ok(id) => id,
            Err(error) => {
                let help = "the id names the story's folder, so it is one plain word";
                self.problems.add(span(value), error.to_string(), help);
                return None;
            }
        };
        let line = self.problems.line_of(offset);
        if let Some(first) = self.lines.get(&id) {
            let message = format!("the id {:?} was already used on line {first}", id.as_str());
            self.problems
                .add(span(value), message, "give every story an id of its own");
            return None;
        }
        self.lines.insert(id.clone(), line);
        Some(id)
    }

    fn script(&mut self, fields: &Fields<'_, '_>) -> Option<StoryScript> {
        let help = match self.accepted {
            Accepted::Both => {
                "give a script (a path relative to this file, or the story itself), or a brief: \
                 \"title\", \"product_image\" or \"idea\""
            }
            _ => "give a script: a path relative to the manifest, or the story itself",
        };
        let value = fields.require(&mut self.problems, "script", help)?;
        match value {
            Value::StringLit(path) => self.script_file(&path.value, span(value)),
            Value::Object(_) => read_story(&mut self.problems, value),
            other => {
                let found = kind(other);
                let message = format!("\"script\" must be a path or an object, but is {found}");
                self.problems.add(span(value), message, help);
                None
            }
        }
    }

    fn script_file(&mut self, path: &str, place: Span) -> Option<StoryScript> {
        if let Some(known) = self.scripts.get(path) {
            return known.clone();
        }
        let script = match self.files.script(path) {
            Ok(text) => match parse_script(path, &text) {
                Ok(script) => Some(script),
                Err(problems) => {
                    self.problems.append(problems);
                    None
                }
            },
            Err(reason) => {
                let message = format!("the script {path:?} cannot be read: {reason}");
                let help = "paths of scripts are relative to the manifest";
                self.problems.add(place, message, help);
                None
            }
        };
        self.scripts.insert(path.to_owned(), script.clone());
        script
    }

    fn method(&mut self, fields: &Fields<'_, '_>) -> Option<Method> {
        let value = fields.get("method")?;
        let name = json::text(&mut self.problems, value, "method")?;
        let names = Method::ALL.map(Method::name);
        let method = Method::ALL.into_iter().find(|known| known.name() == name);
        if method.is_none() {
            let help = match nearest(&name, names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the methods are {}", names.join(", ")),
            };
            let message = format!("there is no method {name:?}");
            self.problems.add(span(value), message, help);
        }
        method
    }

    fn integer<T: std::str::FromStr>(
        &mut self,
        fields: &Fields<'_, '_>,
        name: &str,
        range: &str,
    ) -> Option<T> {
        let value = fields.get(name)?;
        json::integer(&mut self.problems, value, name, range)
    }

    fn reference_images(&mut self, fields: &Fields<'_, '_>) -> Vec<String> {
        const NAME: &str = "reference_images";
        let list = fields
            .get(NAME)
            .and_then(|value| json::list(&mut self.problems, value, NAME));
        let mut paths = Vec::new();
        for value in list.iter().flat_map(|list| &list.elements) {
            let Some(path) = json::text(&mut self.problems, value, NAME) else {
                continue;
            };
            if let Err(reason) = self.files.reference_image(&path) {
                let message = format!("the reference image {path:?} cannot be used: {reason}");
                let help = "paths of reference images are relative to the manifest";
                self.problems.add(span(value), message, help);
            }
            paths.push(path);
        }
        paths
    }
}
