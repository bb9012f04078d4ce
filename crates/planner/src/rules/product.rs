//! A product as sentences speak of it: one thing, or several.

/// The name of a product, with its article.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Product {
    /// "the Ember kettle", "the scissors".
    pub(super) name: String,
    plural: bool,
}

/// Words behind a name that do not say what the thing is.
const SUFFIXES: [&str; 7] = ["pro", "max", "mini", "plus", "lite", "ultra", "xl"];
/// What follows these words is not the thing itself.
const BOUNDARIES: [&str; 8] = [
    " for ",
    " with ",
    " without ",
    " of ",
    " in ",
    " from ",
    " by ",
    " to ",
];
/// Single things that end like several.
const SINGULAR: [&str; 16] = [
    "lens",
    "canvas",
    "atlas",
    "gas",
    "thermos",
    "series",
    "species",
    "chassis",
    "christmas",
    "news",
    "cosmos",
    "bias",
    "alias",
    "summons",
    "gallows",
    "molasses",
];
/// Several things that do not end like it.
const PLURAL: [&str; 11] = [
    "men", "women", "children", "people", "teeth", "feet", "mice", "dice", "skis", "bikinis",
    "kiwis",
];

impl Product {
    /// The product called `name`.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: with_article(name),
            plural: is_plural(name),
        }
    }

    /// A sentence about the product. `{}` stands for its name; `{s}` ends a verb of which it is the
    /// subject; `{it}`, `{them}` and `{its}` are words for it.
    pub(super) fn say(&self, sentence: &str) -> String {
        let [s, it, them, its] = match self.plural {
            true => ["", "they", "them", "their"],
            false => ["s", "it", "it", "its"],
        };
        sentence
            .replace("{s}", s)
            .replace("{it}", it)
            .replace("{them}", them)
            .replace("{its}", its)
            .replace("{}", &self.name)
    }
}

pub(super) fn with_article(name: &str) -> String {
    let lower = name.to_lowercase();
    match lower
        .strip_prefix("the ")
        .or_else(|| lower.strip_prefix("a "))
        .or_else(|| lower.strip_prefix("an "))
    {
        Some(rest) => format!("the {}", &name[name.len() - rest.len()..]),
        None => format!("the {name}"),
    }
}

/// Whether a name stands for several things, by its last word that says what they are.
fn is_plural(name: &str) -> bool {
    let lower = name.to_lowercase();
    let end = BOUNDARIES.iter().filter_map(|word| lower.find(word)).min();
    let head = &name[..end
        .filter(|end| name.is_char_boundary(*end))
        .unwrap_or(name.len())];
    let mut words = head.split_whitespace().rev().skip_while(|word| {
        let word = word.to_lowercase();
        let says_nothing = SUFFIXES.contains(&word.as_str()) || word.chars().count() == 1;
        says_nothing || word.contains(|c: char| c.is_ascii_digit())
    });
    let Some(word) = words.next() else {
        return false;
    };
    let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
    let acronym = word.len() <= 4 && word.chars().all(char::is_uppercase);
    let word = word.to_lowercase();
    if PLURAL.contains(&word.as_str()) {
        return true;
    }
    let single = ["ss", "us", "is", "'s", "’s"];
    let ends_single = single.iter().any(|ending| word.ends_with(ending));
    let known = SINGULAR.contains(&word.as_str());
    word.ends_with('s') && word.len() > 2 && !ends_single && !known && !acronym
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_things_are_told_from_one() {
        for name in [
            "Kitchen scissors",
            "Men's socks",
            "Headphones Pro 2",
            "The Harbour Glasses",
            "Jeans for men",
            "Socks with a stripe",
            "skis",
            "Women",
        ] {
            assert!(is_plural(name), "{name}");
        }
        for name in [
            "Ember kettle",
            "Set of knives",
            "Reading glass",
            "Thermos",
            "Camera lens",
            "GPS",
            "Cactus",
            "Levi's",
            "Mattress",
            "Box for socks",
            "Lamp 3",
            "X",
            "2 l",
            "",
            "Canvas",
            "Tennis",
        ] {
            assert!(!is_plural(name), "{name}");
        }
    }

    #[test]
    fn sentences_agree_with_the_product() {
        let sentence =
            "{} stand{s} there, {its} edge bright, until {it} fill{s} it: look at {them}";
        let one = Product::new("kettle").say(sentence);
        assert_eq!(
            one,
            "the kettle stands there, its edge bright, until it fills it: look at it"
        );
        let several = Product::new("The scissors").say(sentence);
        assert_eq!(
            several,
            "the scissors stand there, their edge bright, until they fill it: look at them"
        );
    }

    #[test]
    fn a_name_has_one_article() {
        assert_eq!(with_article("The Coat"), "the Coat");
        assert_eq!(with_article("Coat"), "the Coat");
    }
}
