//! From the lines of a file to checked [`Sample`]s (specification `narrative-weaver`, section 1.2).

use std::collections::BTreeMap;

use jsonc_parser::ast::Value;

use super::sample::{
    ConditionImage, FilterNotes, Reference, Role, RunNotes, SCHEMA, Sample, SamplePlan,
    SampleProduct, SampleShot, Use,
};
use crate::brief::{Brief, Language};
use crate::brief_reader::{Named, check_text, note_path, path, read_sha256, read_size};
use crate::ids::{GIVE_ANOTHER_ID, StoryId, differ_in_case};
use crate::json::{self, Fields, kind, span};
use crate::problem::{Findings, Problems, SourceLocation, Span};
use crate::script_reader::{check_length, check_numbers, skip_byte_order_mark};
use crate::video::Resolution;

const KEYS: [&str; 13] = [
    "schema",
    "id",
    "use",
    "lang",
    "size",
    "instruction",
    "condition_images",
    "product",
    "reference",
    "plan",
    "filter",
    "seed",
    "run",
];
const IMAGE_KEYS: [&str; 3] = ["path", "sha256", "role"];
const PRODUCT_KEYS: [&str; 3] = ["title", "selling_points", "promo"];
const REFERENCE_KEYS: [&str; 2] = ["prompt", "image"];
const PLAN_KEYS: [&str; 2] = ["overview", "shots"];
const SHOT_KEYS: [&str; 5] = ["n", "text", "camera", "scene", "image"];
const FILTER_KEYS: [&str; 4] = ["judge", "artifact_free", "entity_kept", "style_ok"];
const RUN_KEYS: [&str; 5] = [
    "config_hash",
    "seeds",
    "memory_lengths",
    "steps",
    "wall_seconds",
];

/// The longest text, in characters.
const LONGEST: usize = 8000;

/// The pictures that samples name, by their paths relative to the file. This crate opens nothing.
pub trait SampleFiles {
    /// Whether a picture is there and has the SHA-256 that the sample names, or why it cannot be used.
    fn picture(&self, path: &str, sha256: Option<&str>) -> Result<(), String>;
}

/// Takes all pictures as given.
impl SampleFiles for () {
    fn picture(&self, _path: &str, _sha256: Option<&str>) -> Result<(), String> {
        Ok(())
    }
}

/// Reads a file of samples, one JSON object a line; blank lines are skipped. `file` is the name shown in problems.
///
/// Gives the samples that are right, and all problems of those that are not: unknown, repeated and missing keys,
/// wrong types, numbers that do not count 1, 2, 3, …, pictures that cannot be used, two samples of one name, and
/// parts that do not go together. Texts are taken as they are written.
pub fn read_samples(file: &str, text: &str, files: &dyn SampleFiles) -> (Vec<Sample>, Findings) {
    let mut reader = Reader {
        problems: Problems::new(file, text),
        files,
        locations: BTreeMap::new(),
        folded: BTreeMap::new(),
        story: None,
    };
    let body = skip_byte_order_mark(&mut reader.problems, text);
    let mut offset = text.len() - body.len();
    let mut samples = Vec::new();
    for line in body.split_inclusive('\n') {
        reader.problems.count_from(offset);
        if let Some(value) = json::read(&mut reader.problems, line) {
            samples.extend(reader.line(&value));
        }
        offset += line.len();
    }
    if samples.is_empty() && reader.problems.is_empty() {
        reader.problems.count_from(0);
        let help = format!("write one sample a line: {{\"schema\": \"{SCHEMA}\", \"id\": …}}");
        reader.problems.add((0, 1), "there is no sample", help);
    }
    let findings = Findings {
        locations: reader.locations,
        ..reader.problems.into_findings()
    };
    (samples, findings)
}

/// What is known while a file is read.
struct Reader<'a> {
    problems: Problems<'a>,
    files: &'a dyn SampleFiles,
    /// Where each id was first used.
    locations: BTreeMap<StoryId, SourceLocation>,
    /// The ids as storage sees them that does not tell cases apart.
    folded: BTreeMap<String, StoryId>,
    /// The sample of the line, if it has a usable name.
    story: Option<StoryId>,
}

impl Reader<'_> {
    /// The sample of a line; `None` if it has a problem.
    fn line(&mut self, value: &Value<'_>) -> Option<Sample> {
        let before = self.problems.len();
        let fields = Fields::new(&mut self.problems, value, "the sample", &KEYS)?;
        let place = self.problems.location(fields.span());
        self.schema(&fields);
        self.story = None;
        self.story = self.id(&fields, place);
        let use_ = self.use_(&fields);
        let lang = self.lang(&fields);
        let size = self.size(&fields);
        let help = "say what is asked for";
        let instruction = self.text(&fields, "instruction", help);
        let condition_images = self.condition_images(&fields);
        let product = self.product(&fields);
        let reference = self.reference(&fields);
        let plan = self.plan(&fields);
        let filter = self.filter(&fields);
        let seed = self.seed(&fields);
        let run = self.run(&fields);
        if self.problems.len() > before {
            return None;
        }
        let sample = Sample {
            id: self.story.clone()?,
            use_: use_?,
            lang: lang?,
            size: size?,
            instruction: instruction?,
            condition_images,
            product,
            reference,
            plan,
            filter,
            seed: seed?,
            run,
        };
        self.check(&fields, &sample).then_some(sample)
    }

    /// Whether the parts of a sample go together, each of which is right; notes it where they do not.
    fn check(&mut self, fields: &Fields<'_, '_>, sample: &Sample) -> bool {
        let Err(error) = sample.check() else {
            return true;
        };
        let place = fields.get(error.key()).map_or(fields.span(), span);
        self.problems.add(place, error.to_string(), error.help());
        false
    }

    fn schema(&mut self, fields: &Fields<'_, '_>) {
        let help = format!("write \"schema\": \"{SCHEMA}\"");
        if let Some(value) = fields.require(&mut self.problems, "schema", &help)
            && let Some(schema) = json::text(&mut self.problems, value, "schema")
            && schema != SCHEMA
        {
            let message = format!("there is no schema {schema:?}");
            self.problems.add(span(value), message, help);
        }
    }

    fn id(&mut self, fields: &Fields<'_, '_>, place: SourceLocation) -> Option<StoryId> {
        let help = "give the sample a short name of its own";
        let value = fields.require(&mut self.problems, "id", help)?;
        let text = json::text(&mut self.problems, value, "id")?;
        let id = match StoryId::new(text) {
            Ok(id) => id,
            Err(error) => {
                let help = "the id names a folder, so it is one plain word";
                self.problems.add(span(value), error.to_string(), help);
                return None;
            }
        };
        if let Some(SourceLocation { line, .. }) = self.locations.get(&id) {
            let message = format!("the id {:?} was already used on line {line}", id.as_str());
            let help = "give every sample an id of its own";
            self.problems.add(span(value), message, help);
            return None;
        }
        self.locations.insert(id.clone(), place);
        if let Some(other) = self.folded.insert(id.folded(), id.clone()) {
            let line = self.locations.get(&other).map_or(1, |place| place.line);
            let message = differ_in_case(&id, &other, &format!(" of line {line}"));
            self.problems.warn(span(value), message, GIVE_ANOTHER_ID);
        }
        Some(id)
    }

    fn use_(&mut self, fields: &Fields<'_, '_>) -> Option<Use> {
        let help = "\"q1\" has given captions, \"q2\" is a story and \"q3\" an advertisement";
        let value = fields.require(&mut self.problems, "use", help)?;
        self.one_of(value, "use", &Use::ALL, help)
    }

    /// A text that names one of a few values.
    fn one_of<T: Copy>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        known: &[(&str, T)],
        help: &str,
    ) -> Option<T> {
        let text = json::text(&mut self.problems, value, name)?;
        let found = known.iter().find(|(known, _)| *known == text);
        if found.is_none() {
            let message = format!("there is no {name} {text:?}");
            self.problems.add(span(value), message, help);
        }
        found.map(|(_, found)| *found)
    }

    fn lang(&mut self, fields: &Fields<'_, '_>) -> Option<Language> {
        let help = "write the tag of a language, such as \"en\", \"zh\" or \"pt-BR\"";
        let value = fields.require(&mut self.problems, "lang", help)?;
        let tag = json::text(&mut self.problems, value, "lang")?;
        let lang = Language::new(tag);
        lang.map_err(|error| self.problems.add(span(value), error.to_string(), help))
            .ok()
    }

    fn size(&mut self, fields: &Fields<'_, '_>) -> Option<Resolution> {
        let help = "write width and height in pixels: \"size\": [512, 512]";
        fields.require(&mut self.problems, "size", help)?;
        read_size(&mut self.problems, fields)
    }

    fn seed(&mut self, fields: &Fields<'_, '_>) -> Option<u64> {
        let help = "write the seed of its noise, a whole number";
        let value = fields.require(&mut self.problems, "seed", help)?;
        json::seed(&mut self.problems, value, "seed")
    }

    /// A text that must be there.
    fn text(&mut self, fields: &Fields<'_, '_>, name: &str, help: &str) -> Option<String> {
        let value = fields.require(&mut self.problems, name, help)?;
        self.words(value, name)
    }

    /// A text that may be there.
    fn optional(&mut self, fields: &Fields<'_, '_>, name: &str) -> Option<String> {
        self.words(fields.get(name)?, name)
    }

    fn words(&mut self, value: &Value<'_>, name: &str) -> Option<String> {
        let text = json::text(&mut self.problems, value, name)?;
        check_text(&mut self.problems, span(value), name, text, LONGEST)
    }

    fn list<'a, 't>(&mut self, fields: &Fields<'a, 't>, name: &str) -> Option<&'a [Value<'t>]> {
        let list = json::list(&mut self.problems, fields.get(name)?, name)?;
        Some(&list.elements)
    }

    fn condition_images(&mut self, fields: &Fields<'_, '_>) -> Vec<ConditionImage> {
        const NAME: &str = "condition_images";
        let help = "name the picture that the story is to keep to: [{\"path\": \"…\"}]";
        if fields.require(&mut self.problems, NAME, help).is_none() {
            return Vec::new();
        }
        let list = self.list(fields, NAME).unwrap_or_default();
        list.iter()
            .filter_map(|value| self.condition_image(value))
            .collect()
    }

    fn condition_image(&mut self, value: &Value<'_>) -> Option<ConditionImage> {
        let what = "the condition image";
        let fields = Fields::new(&mut self.problems, value, what, &IMAGE_KEYS)?;
        let help = "give the picture's path, relative to this file";
        let place = fields.require(&mut self.problems, "path", help)?;
        let path = path(&mut self.problems, place, "path")?;
        let sha256 = read_sha256(&mut self.problems, &fields, "sha256");
        let role = fields.get("role").and_then(|value| {
            let known = [("product", Role::Product)];
            self.one_of(value, "role", &known, "the only role is \"product\"")
        });
        self.picture(("condition image", &path), span(place), sha256.as_deref());
        Some(ConditionImage { path, sha256, role })
    }

    /// Notes a picture that cannot be used.
    fn picture(&mut self, (what, path): (&'static str, &str), place: Span, sha256: Option<&str>) {
        if let Err(reason) = self.files.picture(path, sha256) {
            let named = Named {
                what,
                path,
                story: self.story.as_ref(),
            };
            note_path(&mut self.problems, place, named, &reason);
        }
    }

    fn image(&mut self, value: &Value<'_>, what: &'static str) -> Option<String> {
        let image = path(&mut self.problems, value, "image")?;
        self.picture((what, &image), span(value), None);
        Some(image)
    }

    fn product(&mut self, fields: &Fields<'_, '_>) -> Option<SampleProduct> {
        let value = fields.get("product")?;
        let fields = Fields::new(&mut self.problems, value, "the product", &PRODUCT_KEYS)?;
        let points = self.list(&fields, "selling_points").unwrap_or_default();
        if let Some(beyond) = points.get(Brief::MAX_SELLING_POINTS) {
            let message = format!(
                "\"selling_points\" has {} entries, at most {} are read",
                points.len(),
                Brief::MAX_SELLING_POINTS
            );
            self.problems
                .add(span(beyond), message, "keep the strongest");
        }
        Some(SampleProduct {
            title: self.optional(&fields, "title"),
            selling_points: points
                .iter()
                .filter_map(|value| self.words(value, "selling_points"))
                .collect(),
            promo: self.optional(&fields, "promo"),
        })
    }

    fn reference(&mut self, fields: &Fields<'_, '_>) -> Option<Reference> {
        let value = fields.get("reference")?;
        let fields = Fields::new(&mut self.problems, value, "the reference", &REFERENCE_KEYS)?;
        let prompt = self.text(&fields, "prompt", "say what the picture was asked for with");
        let help = "give the picture's path, relative to this file";
        let image = fields
            .require(&mut self.problems, "image", help)
            .and_then(|value| self.image(value, "reference image"));
        Some(Reference {
            prompt: prompt?,
            image: image?,
        })
    }

    fn plan(&mut self, fields: &Fields<'_, '_>) -> Option<SamplePlan> {
        let value = fields.get("plan")?;
        let fields = Fields::new(&mut self.problems, value, "the plan", &PLAN_KEYS)?;
        let overview = self.optional(&fields, "overview");
        let help = "list the shots: \"shots\": [{\"n\": 1, \"text\": \"…\"}]";
        let value = fields.require(&mut self.problems, "shots", help)?;
        let list = json::list(&mut self.problems, value, "shots")?;
        check_length(&mut self.problems, list, "shots", "shot");
        let shots = list.elements.iter().filter_map(|value| self.shot(value));
        let (numbers, shots): (Vec<_>, Vec<_>) = shots.unzip();
        let numbers = numbers.into_iter().flatten();
        check_numbers(&mut self.problems, ("shots", "n"), numbers);
        Some(SamplePlan { overview, shots })
    }

    /// A shot with its number, as far as they can be read.
    fn shot(&mut self, value: &Value<'_>) -> Option<(Option<(u32, Span)>, SampleShot)> {
        let fields = Fields::new(&mut self.problems, value, "the shot", &SHOT_KEYS)?;
        let number = fields.require(&mut self.problems, "n", "number the shots 1, 2, 3, …");
        let number = number.and_then(|value| {
            let number = self.whole(value, "n", "a whole number from 1")?;
            Some((number, span(value)))
        });
        let text = self.text(&fields, "text", "describe what the picture shows");
        let image = fields.get("image");
        let shot = SampleShot {
            text: text.unwrap_or_default(),
            camera: self.optional(&fields, "camera"),
            scene: self.optional(&fields, "scene"),
            image: image.and_then(|value| self.image(value, "image of a shot")),
        };
        Some((number, shot))
    }

    fn whole<T: std::str::FromStr>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        range: &str,
    ) -> Option<T> {
        json::integer(&mut self.problems, value, name, range)
    }

    fn filter(&mut self, fields: &Fields<'_, '_>) -> Option<FilterNotes> {
        let value = fields.get("filter")?;
        let fields = Fields::new(&mut self.problems, value, "the filter", &FILTER_KEYS)?;
        let judge = self.text(&fields, "judge", "name who judged");
        let [artifact_free, entity_kept, style_ok] =
            ["artifact_free", "entity_kept", "style_ok"].map(|name| self.flag(&fields, name));
        Some(FilterNotes {
            judge: judge?,
            artifact_free: artifact_free?,
            entity_kept: entity_kept?,
            style_ok: style_ok?,
        })
    }

    fn flag(&mut self, fields: &Fields<'_, '_>, name: &str) -> Option<bool> {
        let value = fields.require(&mut self.problems, name, "write true or false")?;
        if let Value::BooleanLit(literal) = value {
            return Some(literal.value);
        }
        let message = format!("\"{name}\" must be true or false, but is {}", kind(value));
        let help = "write it without quotes";
        self.problems.add(span(value), message, help);
        None
    }

    fn run(&mut self, fields: &Fields<'_, '_>) -> Option<RunNotes> {
        let value = fields.get("run")?;
        let fields = Fields::new(&mut self.problems, value, "the run", &RUN_KEYS)?;
        let config_hash = self.text(&fields, "config_hash", "name the digest of the settings");
        let seeds = self.numbers(&fields, "seeds");
        let memory_lengths = self.numbers(&fields, "memory_lengths");
        let range = "a whole number from 0";
        let help = "say how many steps each picture took";
        let steps = fields
            .require(&mut self.problems, "steps", help)
            .and_then(|value| self.whole(value, "steps", range));
        let wall_seconds = self.seconds(&fields, "wall_seconds");
        Some(RunNotes {
            config_hash: config_hash?,
            seeds: seeds?,
            memory_lengths: memory_lengths?,
            steps: steps?,
            wall_seconds: wall_seconds?,
        })
    }

    /// A list of whole numbers, one for each shot.
    fn numbers(&mut self, fields: &Fields<'_, '_>, name: &'static str) -> Option<Vec<u64>> {
        fields.require(&mut self.problems, name, "give one number for each shot")?;
        let list = self.list(fields, name)?;
        list.iter()
            .map(|value| json::seed(&mut self.problems, value, name))
            .collect()
    }

    fn seconds(&mut self, fields: &Fields<'_, '_>, name: &'static str) -> Option<f64> {
        let help = "write how many seconds it took, as in 12.5";
        let value = fields.require(&mut self.problems, name, help)?;
        let found = match value {
            Value::NumberLit(literal) => match literal.value.parse() {
                Ok(seconds) => return Some(seconds),
                Err(_) => literal.value,
            },
            other => kind(other),
        };
        let message = format!("\"{name}\" must be a number of seconds, but is {found}");
        self.problems.add(span(value), message, help);
        None
    }
}
