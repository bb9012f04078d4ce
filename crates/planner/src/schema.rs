//! What a model is asked to write, as a JSON schema and as the type that reads it.
//!
//! The bounds are stated once, in [`Bounds`]; the schema goes into prompts, into the
//! `response_format` of a served model, and into the grammar of a native one.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storyloom_story::{Brief, BriefKind, Scene, ShotScript, StoryScript};

/// Bounds of a script, in shots and in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Exact number of shots.
    pub shots: u32,
    /// Most characters of the prompt of a shot.
    pub prompt: u32,
    /// Whether it is a script for a product.
    pub product: bool,
}

impl Bounds {
    /// Fewest characters of a prompt.
    pub const LEAST_PROMPT: u32 = 16;
    /// Most characters of a title, and of the product's name.
    pub const TITLE: u32 = 120;

    /// The bounds of a brief's script.
    pub fn of(brief: &Brief, prompt: u32) -> Self {
        Self {
            shots: brief.shots,
            prompt,
            product: brief.kind() == BriefKind::Ad,
        }
    }
}

/// A script as a model writes it: shots in a row, each with the number of its scene.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// Title of the story.
    pub title: String,
    /// What it is about, in a few sentences.
    pub overview: String,
    /// What the prompts call the product; scripts of ideas have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The shots in order.
    pub shots: Vec<DraftShot>,
}

/// One shot as a model writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftShot {
    /// Number of the scene; another number than that of the shot before begins a scene.
    pub scene: u32,
    /// Whether the shot opens with a hard cut.
    pub cut: bool,
    /// What the video shows.
    pub prompt: String,
    /// What its first frame shows.
    pub keyframe: String,
}

/// What is shown first: the answer to the first question of the staged way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What all prompts call the product or the main character.
    pub subject: String,
    /// Prompt of a picture that shows it.
    pub prompt: String,
}

/// Scenarios for the shots: the answer to the second question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// Title of the story.
    pub title: String,
    /// What it is about, in a few sentences.
    pub overview: String,
    /// One per shot.
    pub shots: Vec<Scenario>,
}

/// What happens in a shot, in note form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Number of the scene.
    pub scene: u32,
    /// Whether the shot opens with a hard cut.
    pub cut: bool,
    /// Where it is, what happens, how the camera moves, where the light comes from.
    pub idea: String,
}

/// The prompts of one shot: the answer to each further question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caption {
    /// What the video shows.
    pub prompt: String,
    /// What its first frame shows.
    pub keyframe: String,
}

/// A schema and the name it is asked for by.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// Its name, a plain word.
    pub name: &'static str,
    /// The schema.
    pub value: Value,
}

impl Schema {
    /// The schema without bounds on the length of texts. Grammars of some servers (xgrammar) forbid
    /// every escape, and with it quotation marks, in a text that has such bounds, and some servers
    /// refuse the keywords. Scripts are checked for their lengths afterwards.
    pub fn without_lengths(&self) -> Value {
        without(&self.value, &["minLength", "maxLength"])
    }

    /// The schema with nothing but types, names and what is required, which the strictest servers
    /// follow.
    pub fn without_bounds(&self) -> Value {
        let bounds = [
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minimum",
            "maximum",
        ];
        without(&self.value, &bounds)
    }
}

/// A schema without some keywords. Properties may have any names.
fn without(schema: &Value, keywords: &[&str]) -> Value {
    let Value::Object(members) = schema else {
        return schema.clone();
    };
    let kept = members
        .iter()
        .filter(|(key, _)| !keywords.contains(&key.as_str()));
    let kept = kept.map(|(key, value)| {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, schema)| (name.clone(), without(schema, keywords)))
                .collect(),
            ("items", schema) => without(schema, keywords),
            _ => value.clone(),
        };
        (key.clone(), value)
    });
    Value::Object(kept.collect())
}

fn text(least: u32, most: u32) -> Value {
    json!({"type": "string", "minLength": least, "maxLength": most})
}

fn scene() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 99})
}

/// An object with all of `properties` and no other.
fn object(properties: &[(&str, Value)]) -> Value {
    let names: Vec<_> = properties.iter().map(|(name, _)| *name).collect();
    let properties: serde_json::Map<String, Value> = properties
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": false,
    })
}

fn list(items: Value, count: u32) -> Value {
    json!({"type": "array", "items": items, "minItems": count, "maxItems": count})
}

impl Bounds {
    fn prompts(&self) -> [(&'static str, Value); 2] {
        [
            ("prompt", text(Self::LEAST_PROMPT, self.prompt)),
            ("keyframe", text(Self::LEAST_PROMPT, self.prompt)),
        ]
    }

    /// The schema of a [`Draft`].
    pub fn script(&self) -> Schema {
        let [prompt, keyframe] = self.prompts();
        let cut = ("cut", json!({"type": "boolean"}));
        let shot = object(&[("scene", scene()), cut, prompt, keyframe]);
        let mut properties = vec![
            ("title", text(1, Self::TITLE)),
            ("overview", text(1, self.prompt)),
        ];
        if self.product {
            properties.push(("product", text(2, Self::TITLE)));
        }
        properties.push(("shots", list(shot, self.shots)));
        Schema {
            name: "script",
            value: object(&properties),
        }
    }

    /// The schema of a [`Reference`].
    pub fn reference(&self) -> Schema {
        let [prompt, _] = self.prompts();
        Schema {
            name: "reference",
            value: object(&[("subject", text(2, Self::TITLE)), prompt]),
        }
    }

    /// The schema of [`Scenarios`].
    pub fn scenarios(&self) -> Schema {
        let cut = ("cut", json!({"type": "boolean"}));
        let idea = ("idea", text(Self::LEAST_PROMPT, self.prompt));
        let shot = object(&[("scene", scene()), cut, idea]);
        Schema {
            name: "scenarios",
            value: object(&[
                ("title", text(1, Self::TITLE)),
                ("overview", text(1, self.prompt)),
                ("shots", list(shot, self.shots)),
            ]),
        }
    }

    /// The schema of a [`Caption`].
    pub fn caption(&self) -> Schema {
        Schema {
            name: "caption",
            value: object(&self.prompts()),
        }
    }
}

impl Draft {
    /// The script in the form that runs read. Scenes are numbered anew.
    pub fn into_script(self) -> StoryScript {
        let mut scenes: Vec<Scene> = Vec::new();
        let mut last = None;
        for shot in self.shots {
            let number = scenes.len() as u32 + 1;
            if last != Some(shot.scene) {
                scenes.push(Scene {
                    number,
                    shots: Vec::new(),
                });
            }
            last = Some(shot.scene);
            if let Some(scene) = scenes.last_mut() {
                scene.shots.push(ShotScript {
                    prompt: shot.prompt,
                    first_frame_prompt: Some(shot.keyframe),
                    cut: shot.cut,
                });
            }
        }
        StoryScript {
            name: Some(self.title),
            overview: Some(self.overview),
            scenes,
        }
    }
}

/// Reads the answer of a model: the JSON object in it, whatever stands around. Where there are
/// several of the right form, the last is meant.
///
/// # Errors
/// Why there is none, in words that the model can act on.
pub fn read_answer<T: for<'de> Deserialize<'de>>(answer: &str) -> Result<T, String> {
    /// Beginnings of objects that are looked at; braces among other words are no objects.
    const MOST: usize = 200;
    // Models that think aloud do so before the answer.
    let answer = answer
        .rsplit_once("</think>")
        .map_or(answer, |(_, after)| after);
    let mut found = Err("there is no JSON object in it".to_owned());
    let mut at = 0;
    for _ in 0..MOST {
        let Some(start) = answer[at..].find('{') else {
            break;
        };
        at += start;
        let (read, length) = first_object(&answer[at..]);
        match read {
            Ok(value) => found = Ok(value),
            // The first reason is that of the outermost object.
            Err(Some(reason)) if found.as_ref().is_err_and(|old| old.contains("no JSON")) => {
                found = Err(reason);
            }
            Err(_) => {}
        }
        at += length;
    }
    found
}

/// The object that begins a text, or what is wrong with it if it is one, and where to look on.
fn first_object<T: for<'de> Deserialize<'de>>(text: &str) -> (Result<T, Option<String>>, usize) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(IgnoredAny)) => {}
        Some(Err(error)) if error.is_eof() => {
            let reason = "the JSON object does not end; be shorter".to_owned();
            return (Err(Some(reason)), 1);
        }
        Some(Err(error)) => return (Err(wrong_object(text, &error)), 1),
        None => return (Err(None), 1),
    }
    let length = values.byte_offset().max(1);
    // From the text again, which knows lines, columns and fields that are there twice.
    let read = serde_json::from_str(&text[..length]);
    let read = read.map_err(|error| Some(error.to_string()));
    (read, length)
}

/// What is wrong with what looks like an object; nothing where a brace is only a brace.
fn wrong_object(text: &str, error: &serde_json::Error) -> Option<String> {
    let inside = text[1..].trim_start();
    inside.starts_with('"').then(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(scene: u32, cut: bool) -> DraftShot {
        DraftShot {
            scene,
            cut,
            prompt: format!("A dog in scene {scene} runs."),
            keyframe: "A dog stands on grass.".to_owned(),
        }
    }

    fn draft(shots: Vec<DraftShot>) -> Draft {
        Draft {
            title: "Dog".to_owned(),
            overview: "A dog.".to_owned(),
            product: None,
            shots,
        }
    }

    #[test]
    fn a_draft_becomes_scenes_whatever_their_numbers() {
        let shots = vec![shot(7, true), shot(7, false), shot(3, true), shot(7, true)];
        let script = draft(shots).into_script();
        let scenes: Vec<_> = script
            .scenes
            .iter()
            .map(|scene| (scene.number, scene.shots.len()))
            .collect();
        assert_eq!(scenes, [(1, 2), (2, 1), (3, 1)]);
        let text = serde_json::to_string(&script).unwrap();
        let read = storyloom_story::parse_script("s.json", &text).unwrap();
        assert_eq!(read, script);
    }

    #[test]
    fn answers_are_found_among_other_words() {
        let json = serde_json::to_string(&draft(vec![shot(1, true)])).unwrap();
        for answer in [
            json.clone(),
            format!("Here you are:\n```json\n{json}\n```\nEnjoy!"),
            format!("<think>{{\"title\": 3}} no</think>\n{json}"),
            format!("{json}\nI kept {{to}} the rules; say so if {{\"more\": 1}} is wanted."),
            format!("With {{braces}} and {{\"title\": \"old\"}}:\n{json}"),
            format!("{json}\n{json}"),
        ] {
            assert_eq!(read_answer(&answer), Ok(draft(vec![shot(1, true)])));
        }
        let read = |text| read_answer::<Draft>(text).unwrap_err();
        assert!(read("no").contains("no JSON object"));
        assert!(read("{\"title\": \"x").contains("does not end"));
        assert!(read("{\"titel\": \"x\"}").contains("unknown field"));
    }

    #[test]
    fn keywords_are_left_out_and_names_are_not() {
        let bounds = Bounds {
            shots: 3,
            prompt: 200,
            product: true,
        };
        let schema = bounds.script();
        let loose = schema.without_lengths().to_string();
        assert!(
            !loose.contains("Length") && loose.contains("minItems"),
            "{loose}"
        );
        let plain = schema.without_bounds();
        let text = plain.to_string();
        assert!(!text.contains("minI") && !text.contains("maxi"), "{text}");
        assert_eq!(plain["required"], schema.value["required"]);
        assert_eq!(plain["additionalProperties"], false);
        let named = json!({"type": "object", "properties": {"minLength": {"type": "string", "minLength": 1}}});
        let kept = without(&named, &["minLength"]);
        assert_eq!(kept["properties"]["minLength"], json!({"type": "string"}));
    }

    proptest::proptest! {
        /// Whatever a model says, reading it ends, and a script in it is found.
        #[test]
        fn any_words_may_stand_around_an_answer(before in "[a-z{}\\[\\]\":, \n]{0,40}", after in "[a-z{}\":, \n]{0,40}") {
            let json = serde_json::to_string(&draft(vec![shot(1, true)])).unwrap();
            let _ = read_answer::<Draft>(&format!("{before}{after}"));
            proptest::prop_assert_eq!(read_answer(&format!("{json}{after}")), Ok(draft(vec![shot(1, true)])));
        }
    }

    /// The schema and the type name the same fields.
    #[test]
    fn the_schema_is_that_of_the_type() {
        let bounds = Bounds {
            shots: 1,
            prompt: 200,
            product: true,
        };
        let names = |schema: &Value| -> Vec<String> {
            let properties = schema["properties"].as_object().unwrap();
            properties.keys().cloned().collect()
        };
        let keys = |value: Value| -> Vec<String> {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let mut full = draft(vec![shot(1, true)]);
        full.product = Some("dog".to_owned());
        let script = bounds.script().value;
        let item = script["properties"]["shots"]["items"].clone();
        assert_eq!(
            sorted(names(&script)),
            keys(serde_json::to_value(&full).unwrap())
        );
        assert_eq!(
            sorted(names(&item)),
            keys(serde_json::to_value(shot(1, true)).unwrap())
        );
        let caption = Caption {
            prompt: String::new(),
            keyframe: String::new(),
        };
        assert_eq!(
            sorted(names(&bounds.caption().value)),
            keys(serde_json::to_value(caption).unwrap())
        );
    }
}
