//! From a line of a manifest that has no script to a checked [`Brief`].
//!
//! Two layouts are read: one flat object, and the sample of Narrative Weaver (specification,
//! section 1.2) as far as it is given before a plan exists.

use std::borrow::Cow;

use jsonc_parser::ast::Value;

use crate::brief::{Brief, BriefKind, Language};
use crate::clean::plain_text;
use crate::escape::is_control;
use crate::ids::StoryId;
use crate::json::{self, Fields, kind, span};
use crate::manifest_reader::InputFiles;
use crate::narrative_weaver::SCHEMA;
use crate::problem::{Problems, Span};
use crate::video::Resolution;

/// Keys of a brief that a line with a script cannot have.
pub(crate) const BRIEF_KEYS: [&str; 15] = [
    "title",
    "selling_points",
    "promo",
    "instruction",
    "product_image",
    "product_image_sha256",
    "idea",
    "shots",
    "style",
    "language",
    "schema",
    "use",
    "lang",
    "condition_images",
    "product",
];

/// The keys of every line, script or brief.
pub(crate) const LINE_KEYS: [&str; 8] = [
    "id", "method", "seed", "tenant", "priority", "size", "fit", "ground",
];

/// What speaks for the product, and its picture, from whichever layout has them.
#[derive(Default)]
struct Product {
    title: Option<String>,
    selling_points: Vec<String>,
    promo: Option<String>,
    image: Option<String>,
    sha256: Option<String>,
}

/// Reads what only briefs have, also of one whose `story` has no usable name. `None` only if a problem
/// was noted.
pub(crate) fn read_brief(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    files: &dyn InputFiles,
    story: Option<&StoryId>,
) -> Option<Brief> {
    let before = problems.len();
    let stand_in = || StoryId::new("brief").ok();
    let id = story.cloned().or_else(stand_in)?;
    check_sample_keys(problems, fields);
    let product = read_product(problems, fields, files, story);
    let idea = bounded_text(problems, fields, "idea", 8000);
    let brief = Brief {
        title: product.title,
        selling_points: product.selling_points,
        promo: product.promo,
        instruction: bounded_text(problems, fields, "instruction", 4000),
        product_image: product.image,
        product_image_sha256: product.sha256,
        idea,
        shots: read_shots(problems, fields),
        style: bounded_text(problems, fields, "style", 500),
        language: read_language(problems, fields),
        ..Brief::new(id)
    };
    // What is missing cannot be told from what is wrong.
    if problems.len() == before && !fields.is_misspelt() {
        check_subject(problems, fields, &brief);
    }
    (problems.len() == before).then_some(brief)
}

fn check_sample_keys(problems: &mut Problems<'_>, fields: &Fields<'_, '_>) {
    if let Some(value) = fields.get("schema")
        && let Some(schema) = json::text(problems, value, "schema")
        && schema != SCHEMA
    {
        let message = format!("there is no schema {schema:?}");
        let help = format!("write \"{SCHEMA}\", or leave it out");
        problems.add(span(value), message, help);
    }
    if let Some(value) = fields.get("use")
        && let Some(use_) = json::text(problems, value, "use")
        && !["q2", "q3"].contains(&use_.as_str())
    {
        let message = format!("samples of use {use_:?} are not planned");
        let help = "\"q2\" is a story and \"q3\" an advertisement; give any other a script";
        problems.add(span(value), message, help);
    }
}

fn read_product(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    files: &dyn InputFiles,
    story: Option<&StoryId>,
) -> Product {
    let mut product = read_texts(problems, fields);
    if let Some(value) = fields.get("product")
        && let Some(inner) = Fields::new(
            problems,
            value,
            "the product",
            &["title", "selling_points", "promo"],
        )
    {
        for name in ["title", "selling_points", "promo"] {
            note_twice(problems, fields, name, inner.get(name));
        }
        let nested = read_texts(problems, &inner);
        product.title = product.title.or(nested.title);
        product.selling_points.extend(nested.selling_points);
        product.promo = product.promo.or(nested.promo);
    }
    read_images(problems, fields, &mut product);
    check_title(problems, fields, files, &product);
    check_image(problems, fields, files, (&product, story));
    product
}

fn read_texts(problems: &mut Problems<'_>, fields: &Fields<'_, '_>) -> Product {
    Product {
        title: bounded_text(problems, fields, "title", 200),
        selling_points: read_selling_points(problems, fields),
        promo: bounded_text(problems, fields, "promo", 500),
        ..Product::default()
    }
}

/// Notes a value that stands in both layouts of one line.
fn note_twice(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    name: &str,
    other: Option<&Value<'_>>,
) {
    if let (Some(_), Some(other)) = (fields.get(name), other) {
        let message = format!("\"{name}\" is given twice, in two places");
        problems.add(span(other), message, "remove one of them");
    }
}

fn read_selling_points(problems: &mut Problems<'_>, fields: &Fields<'_, '_>) -> Vec<String> {
    const NAME: &str = "selling_points";
    let list = fields
        .get(NAME)
        .and_then(|value| json::list(problems, value, NAME));
    let Some(list) = list else {
        return Vec::new();
    };
    if let Some(beyond) = list.elements.get(Brief::MAX_SELLING_POINTS) {
        let message = format!(
            "\"{NAME}\" has {} entries, at most {} are read",
            list.elements.len(),
            Brief::MAX_SELLING_POINTS
        );
        problems.add(span(beyond), message, "keep the strongest");
    }
    let points = list.elements.iter().take(Brief::MAX_SELLING_POINTS);
    points
        .filter_map(|value| words(problems, value, NAME, 500))
        .collect()
}

fn read_images(problems: &mut Problems<'_>, fields: &Fields<'_, '_>, product: &mut Product) {
    product.image = fields
        .get("product_image")
        .and_then(|value| path(problems, value, "product_image"));
    product.sha256 = read_sha256(problems, fields, "product_image_sha256");
    const NAME: &str = "condition_images";
    let list = fields
        .get(NAME)
        .and_then(|value| json::list(problems, value, NAME));
    let Some(list) = list else {
        return;
    };
    note_twice(problems, fields, "product_image", list.elements.first());
    if let Some(second) = list.elements.get(1) {
        let message = "only one condition image is read";
        problems.add(span(second), message, "keep the picture of the product");
    }
    let keys = ["path", "sha256", "role"];
    if let Some(first) = list.elements.first()
        && let Some(image) = Fields::new(problems, first, "the condition image", &keys)
    {
        let help = "give the picture's path, relative to this file";
        let named = image.require(problems, "path", help);
        product.image = named.and_then(|value| path(problems, value, "path"));
        product.sha256 = read_sha256(problems, &image, "sha256");
        if let Some(value) = image.get("role")
            && let Some(role) = json::text(problems, value, "role")
            && role != "product"
        {
            let message = format!("there is no role {role:?}");
            problems.add(span(value), message, "the only role is \"product\"");
        }
    }
}

pub(crate) fn read_sha256(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    name: &'static str,
) -> Option<String> {
    let value = fields.get(name)?;
    let text = json::text(problems, value, name)?;
    let digest = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() == 64 && text.bytes().all(digest) {
        return Some(text);
    }
    let message = format!("\"{name}\" is no SHA-256");
    let help = "write what sha256sum prints: 64 digits and letters a to f";
    problems.add(span(value), message, help);
    None
}

fn check_image(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    files: &dyn InputFiles,
    (product, story): (&Product, Option<&StoryId>),
) {
    let place = fields
        .get("product_image")
        .or_else(|| fields.get("condition_images"));
    let Some(place) = place.map(span) else {
        if let Some(value) = fields.get("product_image_sha256") {
            let message = "there is a SHA-256 but no \"product_image\"";
            problems.add(span(value), message, "give the picture, too, or neither");
        }
        return;
    };
    if let Some(path) = &product.image
        && let Err(reason) = files.product_image(path, product.sha256.as_deref())
    {
        let named = Named {
            what: "product image",
            path,
            story,
        };
        note_path(problems, place, named, &reason);
    }
}

/// A product must have a name that prompts can say.
fn check_title(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    files: &dyn InputFiles,
    product: &Product,
) {
    let place = fields.get("title").or_else(|| fields.get("product"));
    if let (Some(title), Some(place)) = (&product.title, place)
        && fields.get("idea").is_none()
        && let Err(reason) = files.product_title(title)
    {
        let help = "write what the product is called, in a word of two letters or more";
        problems.add(span(place), format!("\"title\" {reason}"), help);
    }
}

/// A file that a line names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// What it is, as in "script".
    pub what: &'static str,
    /// Its path, as it is written.
    pub path: &'a str,
    /// The story of the line, if it has a usable name.
    pub story: Option<&'a StoryId>,
}

/// Notes that a file that is named cannot be used. Paths as Windows writes them are told from others.
pub(crate) fn note_path(
    problems: &mut Problems<'_>,
    place: Span,
    Named { what, path, story }: Named<'_>,
    reason: &str,
) {
    let story = story.map_or_else(String::new, |story| format!(" (story {story})"));
    let shown = shown(path);
    if path.contains('\\') {
        let message = format!("the {what} {shown} cannot be used: its path has backslashes{story}");
        let help = format!("write it with \"/\": {:?}", path.replace('\\', "/"));
        return problems.add(place, message, help);
    }
    let message = format!("the {what} {shown} cannot be used: {reason}{story}");
    let help = "put a plain file beside this one or below it and give its relative path, or set \
                inputs.folder to a folder that all files lie below";
    problems.add(place, message, help);
}

/// A path for messages: quoted, and not longer than a line.
fn shown(path: &str) -> String {
    const SHOWN: usize = 120;
    if path.chars().count() <= SHOWN {
        return format!("{path:?}");
    }
    let start: String = path.chars().take(SHOWN).collect();
    format!("{start:?}…")
}

fn read_shots(problems: &mut Problems<'_>, fields: &Fields<'_, '_>) -> u32 {
    let Some(value) = fields.get("shots") else {
        return Brief::DEFAULT_SHOTS;
    };
    let range = format!("a whole number from 1 to {}", Brief::MAX_SHOTS);
    let Some(shots) = json::integer::<u32>(problems, value, "shots", &range) else {
        return Brief::DEFAULT_SHOTS;
    };
    if !(1..=Brief::MAX_SHOTS).contains(&shots) {
        let message = format!("\"shots\" must be {range}, but is {shots}");
        problems.add(span(value), message, "split a longer film into stories");
    }
    shots
}

fn read_language(problems: &mut Problems<'_>, fields: &Fields<'_, '_>) -> Language {
    note_twice(problems, fields, "language", fields.get("lang"));
    let name = if fields.get("lang").is_some() {
        "lang"
    } else {
        "language"
    };
    let Some(value) = fields.get(name) else {
        return Language::default();
    };
    let Some(tag) = json::text(problems, value, name) else {
        return Language::default();
    };
    Language::new(tag).unwrap_or_else(|error| {
        let help = "write the tag of a language, such as \"en\", \"zh\" or \"pt-BR\"";
        problems.add(span(value), error.to_string(), help);
        Language::default()
    })
}

/// Reads `size`: width and height of a film in pixels.
pub(crate) fn read_size(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
) -> Option<Resolution> {
    let help = "write width and height in pixels: \"size\": [832, 480]";
    let [width, height] = read_sides(problems, fields, help)?;
    Some(Resolution { width, height })
}

/// Reads `size`: the two sides of a film in pixels, in the order in which they are written.
pub(crate) fn read_sides(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    help: &str,
) -> Option<[u32; 2]> {
    let value = fields.get("size")?;
    let Value::Array(list) = value else {
        let message = format!("\"size\" must be a list, but is {}", kind(value));
        problems.add(span(value), message, help);
        return None;
    };
    let [first, second] = list.elements.as_slice() else {
        let message = format!("\"size\" has {} entries", list.elements.len());
        problems.add(span(value), message, help);
        return None;
    };
    let (first, second) = (read_side(problems, first), read_side(problems, second));
    Some([first?, second?])
}

fn read_side(problems: &mut Problems<'_>, value: &Value<'_>) -> Option<u32> {
    let (least, most) = Brief::SIDES;
    let range = format!("an even number from {least} to {most}");
    let side: u32 = json::integer(problems, value, "size", &range)?;
    if (least..=most).contains(&side) && side.is_multiple_of(2) {
        return Some(side);
    }
    let nearest = (side.saturating_add(1) / 2 * 2).clamp(least, most);
    let message = format!("\"size\" must be {range}, but is {side}");
    problems.add(span(value), message, format!("the nearest is {nearest}"));
    None
}

/// An optional text of at most `most` characters that is not blank.
fn bounded_text(
    problems: &mut Problems<'_>,
    fields: &Fields<'_, '_>,
    name: &str,
    most: usize,
) -> Option<String> {
    words(problems, fields.get(name)?, name, most)
}

/// A text in somebody's words, without the markup that shop systems leave in it.
fn words(
    problems: &mut Problems<'_>,
    value: &Value<'_>,
    name: &str,
    most: usize,
) -> Option<String> {
    /// Characters of markup for one that is read, beyond which a text is not looked at.
    const MARKUP: usize = 50;
    let text = json::text(problems, value, name)?;
    if text.chars().count() > most * MARKUP {
        return check_text(problems, span(value), name, text, most);
    }
    let cleaned = match plain_text(&text) {
        Cow::Borrowed(_) => return check_text(problems, span(value), name, text, most),
        Cow::Owned(cleaned) => cleaned,
    };
    if cleaned.is_empty() && !text.trim().is_empty() {
        let message = format!("\"{name}\" is empty without its tags and invisible characters");
        problems.add(span(value), message, "leave it out, or fill it in");
        return None;
    }
    let cleaned = check_text(problems, span(value), name, cleaned, most)?;
    let message = format!(
        "\"{name}\" has tags, entities or invisible characters in it; it is read as {}",
        shown(&cleaned)
    );
    problems.warn(
        span(value),
        message,
        "write plain text to be asked for exactly that",
    );
    Some(cleaned)
}

/// A path, as it is written.
pub(crate) fn path(problems: &mut Problems<'_>, value: &Value<'_>, name: &str) -> Option<String> {
    let text = json::text(problems, value, name)?;
    check_text(problems, span(value), name, text, 1000)
}

pub(crate) fn check_text(
    problems: &mut Problems<'_>,
    place: Span,
    name: &str,
    text: String,
    most: usize,
) -> Option<String> {
    let length = text.chars().count();
    let (message, help) = if text.trim().is_empty() {
        (
            format!("\"{name}\" is empty"),
            "leave it out, or fill it in",
        )
    } else if length > most {
        let message = format!("\"{name}\" has {length} characters, at most {most} are read");
        (message, "say it in fewer words")
    } else if text.contains(is_control) {
        let message = format!("\"{name}\" has a control character in it");
        (message, "write plain text")
    } else {
        return Some(text);
    };
    problems.add(place, message, help);
    None
}

/// A brief is about a product or about an idea, and says enough of it.
fn check_subject(problems: &mut Problems<'_>, fields: &Fields<'_, '_>, brief: &Brief) {
    let start = fields.span().0;
    let mut whole = |message: &str, help: &str| problems.add((start, start + 1), message, help);
    match brief.kind() {
        BriefKind::Ad if brief.title.is_none() && brief.product_image.is_none() => whole(
            "the brief has no \"title\", no \"product_image\" and no \"idea\"",
            "name the product, show it, or write what the story is about",
        ),
        BriefKind::Story if brief.product_image.is_some() || !brief.selling_points.is_empty() => {
            whole(
                "the brief has an \"idea\" and a product",
                "write what happens around a product into \"instruction\" instead of \"idea\"",
            );
        }
        _ => {}
    }
}
