//! The words that models are asked with: templates that ship with the program, and a folder that
//! may replace any of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};
use storyloom_story::{Brief, BriefKind, nearest};

use crate::check::Finding;
use crate::schema::{Bounds, Reference, Scenario, Schema};

/// Version of the shipped templates; a test holds it to their text.
pub const VERSION: u32 = 1;

/// The shipped templates by their file names.
const SHIPPED: [(&str, &str); 8] = [
    (
        "ad.jinja",
        include_str!("../../../configs/prompts/ad.jinja"),
    ),
    (
        "caption.jinja",
        include_str!("../../../configs/prompts/caption.jinja"),
    ),
    (
        "facts.jinja",
        include_str!("../../../configs/prompts/facts.jinja"),
    ),
    (
        "reference.jinja",
        include_str!("../../../configs/prompts/reference.jinja"),
    ),
    (
        "repair.jinja",
        include_str!("../../../configs/prompts/repair.jinja"),
    ),
    (
        "scenarios.jinja",
        include_str!("../../../configs/prompts/scenarios.jinja"),
    ),
    (
        "story.jinja",
        include_str!("../../../configs/prompts/story.jinja"),
    ),
    (
        "system.jinja",
        include_str!("../../../configs/prompts/system.jinja"),
    ),
];

/// Largest template that is read, in bytes.
const LARGEST: u64 = 256 << 10;

/// Which templates a script was asked for with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateVersion {
    /// [`VERSION`].
    pub version: u32,
    /// blake3 of the names and texts in use, in hexadecimal.
    pub digest: String,
    /// The templates that are not the shipped ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
}

/// Why templates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The folder or a file in it cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file in the folder replaces nothing.
    #[error("{path} replaces no template; {hint}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it may have meant.
        hint: String,
    },
    /// A template is too large.
    #[error("{path} is larger than {most} bytes")]
    Large {
        /// The file.
        path: PathBuf,
        /// The bound.
        most: u64,
    },
    /// A template is wrong.
    #[error("the template {name}: {error}")]
    Template {
        /// Its file name.
        name: String,
        /// Line and reason.
        error: minijinja::Error,
    },
}

/// Templates that are ready to be filled in.
#[derive(Debug)]
pub struct Prompts {
    environment: Environment<'static>,
    version: TemplateVersion,
}

impl Prompts {
    /// The shipped templates, each replaced by the file of its name in `folder`, if there is one.
    ///
    /// # Errors
    /// Files that replace nothing, and templates that are wrong; each is tried once.
    pub fn load(folder: Option<&Path>) -> Result<Self, PromptError> {
        let mut texts: BTreeMap<String, String> = SHIPPED
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let mut replaced = Vec::new();
        for (name, text) in folder.map(read_folder).transpose()?.unwrap_or_default() {
            replaced.push(name.clone());
            texts.insert(name, text);
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let digest = digest(&texts);
        for (name, text) in texts {
            let added = environment.add_template_owned(name.clone(), text);
            added.map_err(|error| PromptError::Template { name, error })?;
        }
        let version = TemplateVersion {
            version: VERSION,
            digest,
            replaced,
        };
        let prompts = Self {
            environment,
            version,
        };
        prompts.try_all()?;
        Ok(prompts)
    }

    /// Which templates these are.
    pub fn version(&self) -> &TemplateVersion {
        &self.version
    }

    /// The rules of the conversation.
    pub fn system(&self, brief: &Brief, bounds: &Bounds) -> Result<String, PromptError> {
        self.fill("system.jinja", facts(brief, bounds), context! {})
    }

    /// The question for a whole script.
    pub fn script(&self, brief: &Brief, bounds: &Bounds) -> Result<String, PromptError> {
        let name = match brief.kind() {
            BriefKind::Ad => "ad.jinja",
            BriefKind::Story => "story.jinja",
        };
        let more = context! { schema => json(&bounds.script()) };
        self.fill(name, facts(brief, bounds), more)
    }

    /// The question for a reference picture.
    pub fn reference(&self, brief: &Brief, bounds: &Bounds) -> Result<String, PromptError> {
        let more = context! { schema => json(&bounds.reference()) };
        self.fill("reference.jinja", facts(brief, bounds), more)
    }

    /// The question for scenarios.
    pub fn scenarios(
        &self,
        brief: &Brief,
        bounds: &Bounds,
        reference: &Reference,
    ) -> Result<String, PromptError> {
        let more = context! {
            subject => &reference.subject,
            reference => &reference.prompt,
            schema => json(&bounds.scenarios()),
        };
        self.fill("scenarios.jinja", facts(brief, bounds), more)
    }

    /// The question for the prompts of shot `number`, from 1.
    pub fn caption(
        &self,
        brief: &Brief,
        bounds: &Bounds,
        subject: &str,
        number: usize,
        scenario: &Scenario,
    ) -> Result<String, PromptError> {
        let more = context! {
            subject => subject,
            number => number,
            cut => scenario.cut,
            shot_idea => &scenario.idea,
            schema => json(&bounds.caption()),
        };
        self.fill("caption.jinja", facts(brief, bounds), more)
    }

    /// What to say about an answer that cannot be used.
    pub fn repair(&self, findings: &[Finding], schema: &Schema) -> Result<String, PromptError> {
        let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
        let values = context! { findings => findings, schema => json(schema) };
        self.fill("repair.jinja", values, context! {})
    }

    fn fill(&self, name: &str, values: Value, more: Value) -> Result<String, PromptError> {
        let template = self.environment.get_template(name);
        let filled = template.and_then(|template| template.render(context! { ..more, ..values }));
        filled.map_err(|error| PromptError::Template {
            name: name.to_owned(),
            error,
        })
    }

    /// Fills in every template, so that a mistake is told before anything is asked.
    fn try_all(&self) -> Result<(), PromptError> {
        let id = storyloom_story::StoryId::new("example");
        let Ok(ad) = id.map(Brief::new) else {
            return Ok(());
        };
        let story = Brief {
            idea: Some("an idea".to_owned()),
            ..ad.clone()
        };
        let reference = Reference {
            subject: "a subject".to_owned(),
            prompt: "a picture".to_owned(),
        };
        let scenario = Scenario {
            scene: 1,
            cut: true,
            idea: "an idea".to_owned(),
        };
        for brief in [&ad, &story] {
            let bounds = Bounds::of(brief, 100);
            self.system(brief, &bounds)?;
            self.script(brief, &bounds)?;
            self.reference(brief, &bounds)?;
            self.scenarios(brief, &bounds, &reference)?;
            self.caption(brief, &bounds, "a subject", 1, &scenario)?;
        }
        self.repair(&[], &Bounds::of(&ad, 100).script()).map(drop)
    }
}

/// What every template may use of a brief.
fn facts(brief: &Brief, bounds: &Bounds) -> Value {
    context! {
        ad => brief.kind() == BriefKind::Ad,
        title => &brief.title,
        selling_points => &brief.selling_points,
        promo => &brief.promo,
        idea => &brief.idea,
        instruction => &brief.instruction,
        style => &brief.style,
        has_picture => brief.product_image.is_some(),
        language => language_name(brief),
        shots => bounds.shots,
        max_chars => bounds.prompt,
    }
}

/// The language in words where models know it better than its tag.
fn language_name(brief: &Brief) -> String {
    let tag = brief.language.tag();
    let name = match brief.language.primary().as_str() {
        "en" => "English",
        "zh" => "Chinese",
        "de" => "German",
        "fr" => "French",
        "es" => "Spanish",
        "it" => "Italian",
        "pt" => "Portuguese",
        "ja" => "Japanese",
        "ko" => "Korean",
        "ru" => "Russian",
        _ => return format!("the language with the tag {tag}"),
    };
    format!("{name} ({tag})")
}

fn json(schema: &Schema) -> String {
    schema.value.to_string()
}

fn digest(texts: &BTreeMap<String, String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, text) in texts {
        for part in [name, text] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// The templates in a folder, by file name.
fn read_folder(folder: &Path) -> Result<Vec<(String, String)>, PromptError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |error| PromptError::Io { path, error }
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Macs leave `._story.jinja`, which is no text.
        if name.starts_with('.') || !name.ends_with(".jinja") {
            continue;
        }
        let name = name.into_owned();
        if !SHIPPED.iter().any(|(known, _)| *known == name) {
            let names = SHIPPED.map(|(known, _)| known);
            let hint = match nearest(&name, names) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the templates are {}", names.join(", ")),
            };
            return Err(PromptError::Unknown { path, hint });
        }
        let metadata = std::fs::metadata(&path).map_err(failed(&path))?;
        if !metadata.is_file() {
            let error = std::io::Error::other("it is not a plain file");
            return Err(failed(&path)(error));
        }
        if metadata.len() > LARGEST {
            let most = LARGEST;
            return Err(PromptError::Large { path, most });
        }
        let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
        found.push((name, text));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use storyloom_story::{Language, StoryId};

    use super::*;

    fn kettle() -> Brief {
        Brief {
            title: Some("Ember <Kettle>".to_owned()),
            selling_points: vec!["stays warm".to_owned(), "pours cleanly".to_owned()],
            product_image: Some("kettle.png".to_owned()),
            instruction: Some("One slow morning.".to_owned()),
            style: Some("warm film grain".to_owned()),
            language: Language::new("de").unwrap(),
            shots: 5,
            ..Brief::new(StoryId::new("a").unwrap())
        }
    }

    /// Who changes a shipped template counts [`VERSION`] up and writes the new digest here.
    #[test]
    fn the_version_is_that_of_the_texts() {
        let prompts = Prompts::load(None).unwrap();
        let digest = &prompts.version().digest[..16];
        assert_eq!((VERSION, digest), (1, "486daca7594b5288"));
        let folder = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../configs/prompts"
        ));
        assert_eq!(
            Prompts::load(Some(folder)).unwrap().version().digest,
            prompts.version().digest
        );
        assert_eq!(read_folder(folder).unwrap().len(), SHIPPED.len());
    }

    #[test]
    fn everything_of_a_brief_is_said() {
        let prompts = Prompts::load(None).unwrap();
        let brief = kettle();
        let bounds = Bounds::of(&brief, 700);
        let system = prompts.system(&brief, &bounds).unwrap();
        assert!(
            system.contains("German (de)") && system.contains("700"),
            "{system}"
        );
        assert!(system.contains("advertisement"), "{system}");
        let text = prompts.script(&brief, &bounds).unwrap();
        for wanted in [
            "exactly 5 shots",
            "Ember <Kettle>",
            "stays warm",
            "pours cleanly",
            "One slow morning.",
            "warm film grain",
            "\"maxLength\":700",
            "The picture shows the product",
        ] {
            assert!(text.contains(wanted), "no {wanted} in\n{text}");
        }
        let story = Brief {
            idea: Some("a fox finds a lamp".to_owned()),
            ..Brief::new(StoryId::new("b").unwrap())
        };
        let bounds = Bounds::of(&story, 700);
        let text = prompts.script(&story, &bounds).unwrap();
        assert!(
            text.contains("Idea: a fox finds a lamp") && !text.contains("\"product\""),
            "{text}"
        );
        assert!(
            !prompts
                .system(&story, &bounds)
                .unwrap()
                .contains("advertisement")
        );
    }

    #[test]
    fn a_folder_replaces_templates_and_changes_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ad.jinja"), "Sell {{ title }}!").unwrap();
        std::fs::write(folder.path().join("README.md"), "mine").unwrap();
        let prompts = Prompts::load(Some(folder.path())).unwrap();
        let bounds = Bounds::of(&kettle(), 100);
        assert_eq!(
            prompts.script(&kettle(), &bounds).unwrap(),
            "Sell Ember <Kettle>!"
        );
        assert_eq!(prompts.version().replaced, ["ad.jinja"]);
        assert_ne!(
            prompts.version().digest,
            Prompts::load(None).unwrap().version().digest
        );
    }

    #[test]
    fn wrong_templates_are_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ad.jinja");
        let load = || Prompts::load(Some(folder.path())).unwrap_err().to_string();
        std::fs::write(&path, "\n{{ titel }}").unwrap();
        assert!(load().contains("ad.jinja:2"), "{}", load());
        std::fs::write(&path, "{% if %}").unwrap();
        assert!(load().contains("the template ad.jinja"), "{}", load());
        std::fs::remove_file(path).unwrap();
        std::fs::write(folder.path().join("adverts.jinja"), "").unwrap();
        assert!(load().contains("replaces no template"), "{}", load());
        let missing = Prompts::load(Some(&folder.path().join("no"))).unwrap_err();
        assert!(matches!(missing, PromptError::Io { .. }));
    }
}
