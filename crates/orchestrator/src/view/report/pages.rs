//! The files of the report: templates filled in, rows of the table, style sheet and scripts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::json;
use storyloom_memory::Storage;
use storyloom_story::StoryId;

use super::files::write;
use super::overview::{Overview, PART};
use super::story::{Row, StoryView};
use super::text;
use crate::error::RunError;
use crate::folder::run_folder::{RunFile, RunFolder};

/// Characters of a reason that the table has; the story's page has all of it.
const REASON: usize = 160;

const TEMPLATES: [(&str, &str); 5] = [
    ("parts.html", include_str!("assets/parts.html")),
    ("frame.html", include_str!("assets/frame.html")),
    ("timeline.html", include_str!("assets/timeline.html")),
    ("overview.html", include_str!("assets/overview.html")),
    ("story.html", include_str!("assets/story.html")),
];
const ASSETS: [(&str, &str); 4] = [
    ("copy.js", include_str!("assets/copy.js")),
    ("style.css", include_str!("assets/style.css")),
    ("overview.js", include_str!("assets/overview.js")),
    ("story.js", include_str!("assets/story.js")),
];

/// The stories beside a story in the run.
pub(super) struct Neighbours<'a> {
    pub before: Option<&'a StoryId>,
    pub after: Option<&'a StoryId>,
}

/// Writes pages below `DIR/report/`.
pub(super) struct Pages {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    run: String,
    templates: Environment<'static>,
}

impl Pages {
    /// Reads the templates and writes what all pages share.
    pub(super) fn new(folder: &RunFolder) -> Result<Self, RunError> {
        let storage = folder.storage().clone();
        let root = folder.root().join("report");
        let whole = std::path::absolute(folder.root()).unwrap_or_default();
        let run = whole.file_name().unwrap_or_default();
        let mut templates = Environment::new();
        for (name, source) in TEMPLATES {
            // Names end in .html, which turns on escaping.
            let added = templates.add_template(name, source);
            added.map_err(|error| broken(&root, &error))?;
        }
        templates.add_filter("grouped", text::grouped);
        for (name, source) in ASSETS {
            let path = root.join("assets").join(name);
            write(storage.as_ref(), &path, source.as_bytes())?;
        }
        Ok(Self {
            storage,
            root,
            run: run.to_string_lossy().into_owned(),
            templates,
        })
    }

    pub(super) fn root(&self) -> &PathBuf {
        &self.root
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.html")
    }

    pub(super) fn story_path(&self, id: &StoryId) -> PathBuf {
        self.root.join("stories").join(format!("{id}.html"))
    }

    /// Changes when stories' pages look different though their records are the same.
    pub(super) fn form(&self, run: &RunFile) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [env!("CARGO_PKG_VERSION"), &self.run, run.version.as_str()] {
            hasher.update(part.as_bytes());
            hasher.update(b"\0");
        }
        for (_, source) in TEMPLATES {
            hasher.update(source.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    pub(super) fn write_overview(&self, overview: &Overview) -> Result<(), RunError> {
        let page = self.render("overview.html", overview)?;
        self.write(&self.index(), &page)
    }

    pub(super) fn write_story(&self, story: &StoryView, near: Neighbours) -> Result<(), RunError> {
        let page = self.render(
            "story.html",
            StoryPage {
                run: &self.run,
                before: near.before.map(StoryId::as_str),
                after: near.after.map(StoryId::as_str),
                story,
            },
        )?;
        let folder = self.root.join("stories");
        self.write(&folder.join(format!("{}.html", story.id)), &page)
    }

    /// Writes the rows of the table; a part whose stories did not change stays as it is.
    pub(super) fn write_rows(&self, rows: &[Row]) -> Result<(), RunError> {
        for (number, part) in rows.chunks(PART).enumerate() {
            let values: Vec<_> = part.iter().map(values).collect();
            let first = number * PART;
            let text = format!("storyloom.stories({first}, {});\n", json!(values));
            let path = self.root.join("data").join(format!("{number}.js"));
            self.write(&path, &text)?;
        }
        Ok(())
    }

    /// What the run is called: the name of its folder.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), RunError> {
        write(self.storage.as_ref(), path, text.as_bytes()).map(drop)
    }

    fn render(&self, name: &str, page: impl Serialize) -> Result<String, RunError> {
        let template = self.templates.get_template(name);
        template
            .and_then(|template| template.render(Serde(page)))
            .map_err(|error| broken(&self.root.join(name), &error))
    }
}

#[derive(Serialize)]
struct StoryPage<'a> {
    run: &'a str,
    before: Option<&'a str>,
    after: Option<&'a str>,
    story: &'a StoryView,
}

/// A row as `overview.js` reads it; 0 stands for what is not there.
fn values(row: &Row) -> serde_json::Value {
    let short = |text: &String| -> String { text.chars().take(REASON).collect() };
    let or_zero = |text: Option<String>| text.map_or(json!(0), serde_json::Value::String);
    json!([
        row.id,
        or_zero(row.name.clone()),
        row.looks,
        row.shots,
        row.done,
        tenths(row.film),
        tenths(row.useful),
        row.failed_attempts,
        row.pictures,
        or_zero(row.reason.as_ref().map(short)),
        or_zero(row.tenant.clone()),
    ])
}

fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn broken(path: &Path, error: &minijinja::Error) -> RunError {
    RunError::Folder {
        path: path.to_owned(),
        reason: format!("{error:#}"),
    }
}
