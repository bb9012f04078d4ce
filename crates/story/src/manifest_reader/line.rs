//! The parts of one line of a manifest.

use std::str::FromStr;

use jsonc_parser::ast::Value;

use super::{Accepted, Reader};
use crate::brief::Brief;
use crate::brief_reader::{Named, note_path, read_brief, read_size};
use crate::fit::{Fit, Ground};
use crate::ids::{GIVE_ANOTHER_ID, StoryId, differ_in_case};
use crate::json::{self, Fields, kind, span};
use crate::manifest::{LeftOut, StoryEntry};
use crate::method::Method;
use crate::problem::{SourceLocation, Span, nearest};
use crate::script::StoryScript;
use crate::script_reader::{check_script, read_story};
use crate::video::Resolution;

/// What stories and briefs say alike.
struct Settings {
    method: Option<Method>,
    size: Option<Resolution>,
    common: Common,
}

/// What every line may say in the same way.
pub(super) struct Common {
    pub(super) seed: Option<u64>,
    pub(super) tenant: Option<String>,
    pub(super) priority: i64,
    pub(super) fit: Option<Fit>,
    pub(super) ground: Option<Ground>,
}

impl Reader<'_> {
    pub(super) fn story(
        &mut self,
        fields: &Fields<'_, '_>,
        location: SourceLocation,
    ) -> Option<StoryEntry> {
        let id = self.id(fields, location);
        let script = self.script(fields, id.as_ref());
        let settings = self.settings(fields);
        let reference_images = self.reference_images(fields, id.as_ref());
        let first_shot = self.first_shot(fields, id.as_ref(), !reference_images.is_empty());
        if settings.method != Some(Method::OneStory) {
            self.refuse_first_shot(fields, id.as_ref());
        }
        let (id, script) = (id?, script?);
        let script = match script {
            Ok(script) => script,
            Err(reason) => {
                let position = self.found.len() + self.left_out.len();
                self.left_out.push(LeftOut {
                    story: id,
                    reason,
                    position,
                });
                return None;
            }
        };
        Some(StoryEntry {
            method: settings.method,
            seed: settings.common.seed,
            tenant: settings.common.tenant,
            priority: settings.common.priority,
            size: settings.size,
            fit: settings.common.fit,
            ground: settings.common.ground,
            reference_images,
            first_shot,
            ..StoryEntry::new(id, script)
        })
    }

    pub(super) fn brief(
        &mut self,
        fields: &Fields<'_, '_>,
        location: SourceLocation,
    ) -> Option<Brief> {
        let id = self.id(fields, location);
        // The fields of a brief without a name are checked all the same.
        let settings = self.settings(fields);
        let brief = read_brief(&mut self.problems, fields, self.files, id.as_ref())?;
        id?;
        Some(Brief {
            method: settings.method,
            seed: settings.common.seed,
            tenant: settings.common.tenant,
            priority: settings.common.priority,
            size: settings.size,
            fit: settings.common.fit,
            ground: settings.common.ground,
            ..brief
        })
    }

    fn settings(&mut self, fields: &Fields<'_, '_>) -> Settings {
        Settings {
            method: self.method(fields),
            size: read_size(&mut self.problems, fields),
            common: self.common(fields),
        }
    }

    pub(super) fn common(&mut self, fields: &Fields<'_, '_>) -> Common {
        Common {
            seed: fields
                .get("seed")
                .and_then(|value| json::seed(&mut self.problems, value, "seed")),
            priority: self
                .integer(fields, "priority", "a whole number")
                .unwrap_or(0),
            tenant: fields.text(&mut self.problems, "tenant"),
            fit: self.word(fields, "fit", "write \"pad\", \"crop\" or \"stretch\""),
            ground: self.word(fields, "ground", "write a colour as \"#f4f4f0\""),
        }
    }

    /// A text that stands for a value.
    pub(super) fn word<T: FromStr<Err = String>>(
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

    pub(super) fn id(
        &mut self,
        fields: &Fields<'_, '_>,
        location: SourceLocation,
    ) -> Option<StoryId> {
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
        if let Some(SourceLocation { line, .. }) = self.locations.get(&id) {
            let message = format!("the id {:?} was already used on line {line}", id.as_str());
            self.problems
                .add(span(value), message, "give every story an id of its own");
            return None;
        }
        self.locations.insert(id.clone(), location);
        if let Some(other) = self.folded.insert(id.folded(), id.clone()) {
            let line = self
                .locations
                .get(&other)
                .map_or(1, |location| location.line);
            let message = differ_in_case(&id, &other, &format!(" of line {line}"));
            self.problems.warn(span(value), message, GIVE_ANOTHER_ID);
        }
        Some(id)
    }

    /// The script; the inner error is why a story is left out that may lack one.
    fn script(
        &mut self,
        fields: &Fields<'_, '_>,
        story: Option<&StoryId>,
    ) -> Option<Result<StoryScript, String>> {
        let help = match self.accepted {
            Accepted::Both => {
                "give a script (a path relative to this file, or the story itself), or a brief: \
                 \"title\", \"product_image\" or \"idea\""
            }
            _ => "give a script: a path relative to the manifest, or the story itself",
        };
        let value = fields.require(&mut self.problems, "script", help)?;
        match value {
            Value::StringLit(path) => {
                let named = Named {
                    what: "script",
                    path: &path.value,
                    story,
                };
                self.script_file(named, span(value))
            }
            Value::Object(_) => read_story(&mut self.problems, value).map(Ok),
            other => {
                let found = kind(other);
                let message = format!("\"script\" must be a path or an object, but is {found}");
                self.problems.add(span(value), message, help);
                None
            }
        }
    }

    fn script_file(
        &mut self,
        named: Named<'_>,
        place: Span,
    ) -> Option<Result<StoryScript, String>> {
        let script = match self.scripts.get(named.path) {
            Some(known) => known.clone(),
            None => {
                let script = self.open_script(named, place);
                self.scripts.insert(named.path.to_owned(), script.clone());
                script
            }
        };
        match script {
            Err(_) if !self.files.may_lack_scripts() => None,
            script => Some(script),
        }
    }

    /// A script that is looked at for the first time. What is wrong with it is noted, unless it may be.
    fn open_script(&mut self, named: Named<'_>, place: Span) -> Result<StoryScript, String> {
        let path = named.path;
        let is_noted = !self.files.may_lack_scripts();
        let text = self.files.script(path).map_err(|reason| {
            if is_noted {
                note_path(&mut self.problems, place, named, &reason);
            }
            format!("its script {path:?} cannot be used: {reason}")
        })?;
        let (script, findings) = check_script(path, &text);
        let first = findings.problems.first();
        let broken = first.map(|problem| format!("its script is broken: {problem}"));
        if is_noted || broken.is_none() {
            self.problems.append(findings);
        }
        // A script comes without problems only.
        script.ok_or_else(|| broken.unwrap_or_default())
    }

    fn method(&mut self, fields: &Fields<'_, '_>) -> Option<Method> {
        let value = fields.get("method")?;
        let name = json::text(&mut self.problems, value, "method")?;
        let names = Method::KNOWN.map(Method::name);
        let Some(method) = Method::KNOWN.into_iter().find(|known| known.name() == name) else {
            let help = match nearest(&name, names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the methods are {}", names.join(", ")),
            };
            let message = format!("there is no method {name:?}");
            self.problems.add(span(value), message, help);
            return None;
        };
        if let Err(reason) = self.files.method(method) {
            let way_out = "leave \"method\" away for the run's own";
            self.note_not_loaded(span(value), method, &reason, way_out);
        }
        Some(method)
    }

    /// Notes that the method of a line has no models.
    pub(super) fn note_not_loaded(
        &mut self,
        place: Span,
        method: Method,
        reason: &str,
        way_out: &str,
    ) {
        let is_loaded = |method: &Method| self.files.method(*method).is_ok();
        let loaded = Method::KNOWN
            .into_iter()
            .filter(is_loaded)
            .map(Method::name);
        let loaded: Vec<&str> = loaded.collect();
        let help = format!(
            "{way_out}, or write one that is loaded: {}",
            loaded.join(", ")
        );
        let name = method.name();
        let message = format!("the story cannot be made by the method {name:?}: {reason}");
        self.problems.add(place, message, help);
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

    fn reference_images(
        &mut self,
        fields: &Fields<'_, '_>,
        story: Option<&StoryId>,
    ) -> Vec<String> {
        const NAME: &str = "reference_images";
        let list = fields
            .get(NAME)
            .and_then(|value| json::list(&mut self.problems, value, NAME));
        let mut paths = Vec::new();
        for value in list.iter().flat_map(|list| &list.elements) {
            let Some(path) = json::text(&mut self.problems, value, NAME) else {
                continue;
            };
            self.check_image(("reference image", &path), span(value), story);
            paths.push(path);
        }
        paths
    }

    /// Notes a picture that the story is to begin with and that cannot be used.
    pub(super) fn check_image(
        &mut self,
        (what, path): (&'static str, &str),
        place: Span,
        story: Option<&StoryId>,
    ) {
        if let Err(reason) = self.files.reference_image(path) {
            let named = Named { what, path, story };
            note_path(&mut self.problems, place, named, &reason);
        }
    }
}
