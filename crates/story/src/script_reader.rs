//! From the text of an ST-Bench story to a checked [`StoryScript`].
//!
//! StoryMem specification, section 1.

use std::collections::BTreeSet;

use jsonc_parser::ast::{Array, Value};

use crate::json::{self, Fields, kind, span};
use crate::onestory_script::is_onestory_script;
use crate::problem::{Findings, Problem, Problems, Span};
use crate::script::{Scene, ShotScript, StoryScript};

/// More scenes, or shots in a scene, than this are refused: names of shots have three digits.
pub const MAX_PER_LEVEL: usize = 999;

const STORY_KEYS: [&str; 3] = ["story_name", "story_overview", "scenes"];
const SCENE_KEYS: [&str; 4] = ["scene_num", "video_prompts", "first_frame_prompt", "cut"];

/// Reads a story script. `file` is the name shown in problems; nothing is opened.
///
/// # Errors
/// All problems of the text, in the order in which they were met: not JSON, unknown or repeated
/// keys, wrong types, lists of unequal length, blank prompts, scene numbers that do not count
/// 1, 2, 3, …, `cut` values that are neither booleans nor the words true and false, and a first
/// shot that does not open with a cut.
pub fn parse_script(file: &str, text: &str) -> Result<StoryScript, Vec<Problem>> {
    let (script, findings) = check_script(file, text);
    script.ok_or(findings.problems)
}

/// As [`parse_script`], with the warnings: the script, if it has no problem, and what was found.
pub(crate) fn check_script(file: &str, text: &str) -> (Option<StoryScript>, Findings) {
    let mut problems = Problems::new(file, text);
    let text = skip_byte_order_mark(&mut problems, text);
    let script = match json::read(&mut problems, text) {
        Some(value) => read_story(&mut problems, &value),
        None => {
            if problems.is_empty() {
                problems.add((0, 1), "the file is empty", "write a story script into it");
            }
            None
        }
    };
    let script = script.filter(|_| problems.is_empty());
    (script, problems.into_findings())
}

/// Leaves out a byte order mark at the start of a file.
pub(crate) fn skip_byte_order_mark<'t>(problems: &mut Problems<'_>, text: &'t str) -> &'t str {
    let rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    problems.count_from(text.len() - rest.len());
    rest
}

/// Reads a script that is already parsed as JSON. `None` only if a problem was noted.
pub(crate) fn read_story(problems: &mut Problems<'_>, value: &Value<'_>) -> Option<StoryScript> {
    if is_onestory_script(value) {
        let message = "the story script is one of OneStory, which is a line of a manifest";
        let help = "put it on one line of a file whose name ends in .jsonl";
        problems.add(span(value), message, help);
        return None;
    }
    let fields = Fields::new(problems, value, "the story", &STORY_KEYS)?;
    let name = fields.text(problems, "story_name");
    let overview = fields.text(problems, "story_overview");
    let help = "list the scenes: \"scenes\": [{\"scene_num\": 1, \"video_prompts\": [...], \"cut\": [...]}]";
    let scenes = fields.require(problems, "scenes", help)?;
    let scenes = json::list(problems, scenes, "scenes")?;
    check_length(problems, scenes, "scenes", "scene");
    let drafts: Vec<SceneDraft> = read_scenes(problems, scenes);
    let numbers = drafts.iter().filter_map(|scene| scene.number);
    check_numbers(problems, ("scenes", "scene_num"), numbers);
    check_cuts(problems, &drafts);
    Some(StoryScript {
        name,
        overview,
        scenes: drafts.into_iter().map(SceneDraft::finish).collect(),
    })
}

/// A scene as far as it could be read.
struct SceneDraft {
    number: Option<(u32, Span)>,
    prompts: Vec<String>,
    first_frames: Vec<Option<String>>,
    /// The value and place of each cut flag; `None` if the scene has no `cut`.
    cuts: Option<Vec<(bool, Span)>>,
    span: Span,
}

impl SceneDraft {
    /// Only called for its result when no problem was noted, so the lengths are equal.
    fn finish(self) -> Scene {
        let cut_at = |position: usize| {
            let flags = self.cuts.as_ref();
            flags.is_none_or(|flags| flags.get(position).is_none_or(|&(cut, _)| cut))
        };
        let mut first_frames = self.first_frames.into_iter();
        let shot = |(position, prompt)| ShotScript {
            prompt,
            first_frame_prompt: first_frames.next().flatten(),
            cut: cut_at(position),
        };
        Scene {
            number: self.number.map_or(0, |(number, _)| number),
            shots: self.prompts.into_iter().enumerate().map(shot).collect(),
        }
    }
}

fn read_scenes(problems: &mut Problems<'_>, scenes: &Array<'_>) -> Vec<SceneDraft> {
    let elements = scenes.elements.iter();
    elements
        .filter_map(|scene| read_scene(problems, scene))
        .collect()
}

fn read_scene(problems: &mut Problems<'_>, value: &Value<'_>) -> Option<SceneDraft> {
    let fields = Fields::new(problems, value, "the scene", &SCENE_KEYS)?;
    let number = fields
        .require(problems, "scene_num", "number the scenes 1, 2, 3, …")
        .and_then(|value| {
            let number = json::integer(problems, value, "scene_num", "a whole number from 1")?;
            Some((number, span(value)))
        });
    let prompts = fields
        .require(problems, "video_prompts", "give one prompt per shot")
        .and_then(|value| json::list(problems, value, "video_prompts"));
    let texts = prompts.map(|prompts| {
        check_length(problems, prompts, "video_prompts", "shot");
        read_prompts(problems, prompts)
    });
    let shots = prompts.map(|prompts| prompts.elements.len());
    let first_frames = read_parallel(problems, &fields, "first_frame_prompt", shots)
        .map(|list| read_first_frames(problems, list));
    let cuts = read_parallel(problems, &fields, "cut", shots).map(|list| read_cuts(problems, list));
    Some(SceneDraft {
        number,
        prompts: texts.unwrap_or_default(),
        first_frames: first_frames.unwrap_or_default(),
        cuts,
        span: fields.span(),
    })
}

/// Notes a list of a story that is empty or too long.
pub(crate) fn check_length(problems: &mut Problems<'_>, list: &Array<'_>, name: &str, item: &str) {
    let length = list.elements.len();
    if length == 0 {
        let message = format!("\"{name}\" is empty");
        problems.add(span(list), message, format!("write at least one {item}"));
    } else if length > MAX_PER_LEVEL {
        let message =
            format!("\"{name}\" has {length} entries, at most {MAX_PER_LEVEL} are possible");
        problems.add(
            span(&list.elements[MAX_PER_LEVEL]),
            message,
            "split the story",
        );
    }
}

fn read_prompts(problems: &mut Problems<'_>, prompts: &Array<'_>) -> Vec<String> {
    let mut texts = Vec::with_capacity(prompts.elements.len());
    for (value, position) in prompts.elements.iter().zip(1..) {
        let text = json::text(problems, value, "video_prompts").unwrap_or_default();
        if text.trim().is_empty() && matches!(value, Value::StringLit(_)) {
            let message = format!("the prompt of shot {position} is empty");
            problems.add(span(value), message, "describe what the shot shows");
        }
        texts.push(text);
    }
    texts
}

/// A list that must be as long as the scene has shots.
fn read_parallel<'a, 't>(
    problems: &mut Problems<'_>,
    fields: &Fields<'a, 't>,
    name: &str,
    shots: Option<usize>,
) -> Option<&'a Array<'t>> {
    let list = json::list(problems, fields.get(name)?, name)?;
    let length = list.elements.len();
    if let Some(shots) = shots.filter(|&shots| shots != length) {
        let message = format!("\"{name}\" has {length} entries, but the scene has {shots} shots");
        let help = format!("give \"{name}\" exactly one entry per entry of \"video_prompts\"");
        problems.add(span(list), message, help);
    }
    Some(list)
}

/// Blank entries count as not given: methods that do not draw first frames never look at them.
fn read_first_frames(problems: &mut Problems<'_>, list: &Array<'_>) -> Vec<Option<String>> {
    let texts = list.elements.iter().map(|value| {
        json::text(problems, value, "first_frame_prompt").filter(|text| !text.trim().is_empty())
    });
    texts.collect()
}

fn read_cuts(problems: &mut Problems<'_>, list: &Array<'_>) -> Vec<(bool, Span)> {
    let flags = list.elements.iter().map(|value| {
        let flag = read_cut(value).unwrap_or_else(|found| {
            let message = format!("\"cut\" must be true or false, but is {found}");
            problems.add(
                span(value),
                message,
                "write true for a hard cut, false to continue the shot before",
            );
            true
        });
        (flag, span(value))
    });
    flags.collect()
}

/// A boolean, or the words true and false in any case: script writers were told to quote them.
fn read_cut(value: &Value<'_>) -> Result<bool, String> {
    match value {
        Value::BooleanLit(literal) => Ok(literal.value),
        Value::StringLit(literal) if literal.value.eq_ignore_ascii_case("true") => Ok(true),
        Value::StringLit(literal) if literal.value.eq_ignore_ascii_case("false") => Ok(false),
        Value::StringLit(literal) => Err(format!("the text {:?}", literal.value)),
        Value::NumberLit(literal) => Err(format!("the number {}", literal.value)),
        other => Err(kind(other).to_owned()),
    }
}

/// Notes numbers of `items`, under the key `name`, that do not count 1, 2, 3, ….
pub(crate) fn check_numbers(
    problems: &mut Problems<'_>,
    (items, name): (&str, &str),
    numbers: impl Iterator<Item = (u32, Span)>,
) {
    let mut seen: BTreeSet<u32> = BTreeSet::new();
    let mut expected = 1;
    for (number, place) in numbers {
        let is_new = seen.insert(number);
        let message = match is_new {
            false => format!("two {items} have \"{name}\" {number}"),
            true => format!("\"{name}\" is {number} where {expected} must stand"),
        };
        if !is_new || number != expected {
            let help = format!("number the {items} 1, 2, 3, … in their order");
            problems.add(place, message, help);
        }
        expected = number.saturating_add(1);
    }
}

/// A story without any `cut` has only hard cuts; one that has some must have all.
fn check_cuts(problems: &mut Problems<'_>, scenes: &[SceneDraft]) {
    if scenes.iter().all(|scene| scene.cuts.is_none()) {
        return;
    }
    for scene in scenes.iter().filter(|scene| scene.cuts.is_none()) {
        let start = scene.span.0;
        let help = "give every scene a \"cut\" list, or none of them";
        problems.add(
            (start, start + 1),
            "the scene has no \"cut\", but others have",
            help,
        );
    }
    let first = scenes.first().and_then(|scene| scene.cuts.as_deref());
    if let Some(&(false, place)) = first.and_then(|cuts| cuts.first()) {
        let message = "the first shot of a story cannot continue from a shot before it";
        problems.add(place, message, "make the first \"cut\" true");
    }
}
