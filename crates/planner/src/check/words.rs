//! Words that rules are about.

/// Words that tell what somebody wears, or who it is by looks, age or descent. Plain English; each
/// stands for its plural, too.
const IDENTITY: [&str; 109] = [
    // Clothes.
    "apron",
    "blazer",
    "blouse",
    "boot",
    "cardigan",
    "clothes",
    "clothing",
    "coat",
    "costume",
    "denim",
    "dress",
    "gown",
    "hat",
    "heels",
    "hoodie",
    "jacket",
    "jeans",
    "jersey",
    "jumper",
    "jumpsuit",
    "kimono",
    "leggings",
    "miniskirt",
    "outfit",
    "overalls",
    "overcoat",
    "pants",
    "parka",
    "polo",
    "pullover",
    "raincoat",
    "robe",
    "sandal",
    "sari",
    "scarf",
    "shirt",
    "shoe",
    "shorts",
    "skirt",
    "sneaker",
    "socks",
    "stockings",
    "suit",
    "sunglasses",
    "sweater",
    "sweatshirt",
    "swimsuit",
    "t-shirt",
    "tie",
    "tracksuit",
    "trousers",
    "tunic",
    "turtleneck",
    "tuxedo",
    "uniform",
    "vest",
    "waistcoat",
    "wearing",
    "wears",
    "dressed",
    "clad",
    // Looks.
    "bald",
    "beard",
    "bearded",
    "blond",
    "blonde",
    "braid",
    "braided",
    "brunette",
    "curls",
    "dark-haired",
    "dark-skinned",
    "dreadlocks",
    "eyebrow",
    "fair-haired",
    "fair-skinned",
    "freckle",
    "freckled",
    "ginger-haired",
    "goatee",
    "grey-haired",
    "gray-haired",
    "hair",
    "haired",
    "hairstyle",
    "light-skinned",
    "long-haired",
    "moustache",
    "mustache",
    "pale-skinned",
    "ponytail",
    "red-haired",
    "redhead",
    "short-haired",
    "skinned",
    "stubble",
    "tattoo",
    "tattooed",
    "wrinkled",
    // Age and descent.
    "african",
    "asian",
    "caucasian",
    "elderly",
    "hispanic",
    "latina",
    "latino",
    "middle-aged",
    "teenage",
    "year-old",
];

/// Words of a product's name that name nothing.
const EMPTY: [&str; 24] = [
    "the", "and", "with", "for", "from", "your", "our", "new", "set", "kit", "pack", "pro", "plus",
    "max", "mini", "edition", "series", "model", "one", "all", "you", "own", "keep", "its",
];

/// The words of a text in lower case; apostrophes end a word, dashes do not.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric() && c != '-')
        .map(|word| word.trim_matches('-').to_lowercase())
        .filter(|word| !word.is_empty())
}

/// A word without the ending of its plural.
fn singular(word: &str) -> &str {
    if word.len() < 4 || word.ends_with("ss") {
        return word;
    }
    let plural = ["ches", "shes", "sses", "xes"];
    if plural.iter().any(|ending| word.ends_with(ending)) {
        return &word[..word.len() - 2];
    }
    word.strip_suffix('s').unwrap_or(word)
}

/// The words of `text` that tell clothes or identity, in order and once each. Words of `allowed`
/// are not among them.
pub(super) fn identity_details(text: &str, allowed: &str) -> Vec<String> {
    let allowed: Vec<_> = words(allowed)
        .map(|word| singular(&word).to_owned())
        .collect();
    let mut found: Vec<String> = Vec::new();
    for word in words(text) {
        let one = singular(&word);
        let listed = IDENTITY.iter().any(|known| *known == word || *known == one);
        if listed && !found.contains(&word) && !allowed.iter().any(|other| other == one) {
            found.push(word);
        }
    }
    found
}

/// The words by which prompts may name a product, the last of a name first: it is what the thing
/// is. A language without spaces has its names whole. A name of short or empty words only, as
/// "TV", is known by these.
pub(super) fn names_of(titles: &[&str]) -> Vec<String> {
    let telling = |word: &str| {
        let long = word.chars().count() >= 3 || !word.is_ascii();
        long && !EMPTY.contains(&word)
    };
    let names = names_among(titles, telling);
    match names.is_empty() {
        true => names_among(titles, |_| true),
        false => names,
    }
}

fn names_among(titles: &[&str], tells: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for title in titles {
        let mut all: Vec<_> = words(title)
            .filter(|word| tells(word))
            .filter(|word| word.chars().any(char::is_alphabetic))
            .collect();
        all.reverse();
        for name in all {
            let name = singular(&name).to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Whether a text has one of `names` in it.
pub(super) fn mentions(text: &str, names: &[String]) -> bool {
    let lower = text.to_lowercase();
    names.iter().any(|name| {
        if name.is_ascii() {
            words(text).any(|word| {
                singular(&word) == name || word.split('-').any(|part| singular(part) == name)
            })
        } else {
            lower.contains(name)
        }
    })
}

/// Whether most letters of a text are of the script that `language` is written in.
pub(super) fn is_written_in(text: &str, language: &str) -> bool {
    let own: fn(char) -> bool = match language {
        "zh" | "yue" => is_han,
        "ja" => |c| is_han(c) || ('\u{3040}'..='\u{30ff}').contains(&c),
        "ko" => {
            |c| ('\u{ac00}'..='\u{d7a3}').contains(&c) || ('\u{1100}'..='\u{11ff}').contains(&c)
        }
        "ru" | "uk" | "be" | "bg" | "mk" | "kk" | "mn" => |c| ('\u{400}'..='\u{52f}').contains(&c),
        "el" => |c| ('\u{370}'..='\u{3ff}').contains(&c) || ('\u{1f00}'..='\u{1fff}').contains(&c),
        "ar" | "fa" | "ur" => |c| ('\u{600}'..='\u{6ff}').contains(&c),
        "he" => |c| ('\u{590}'..='\u{5ff}').contains(&c),
        "hi" | "mr" | "ne" => |c| ('\u{900}'..='\u{97f}').contains(&c),
        "th" => |c| ('\u{e00}'..='\u{e7f}').contains(&c),
        // Written in more than one script, or unknown here.
        "sr" | "bn" | "ta" | "te" | "ka" | "hy" | "am" | "my" | "km" | "lo" | "pa" | "gu"
        | "kn" | "ml" | "si" => return true,
        _ => |c| {
            c.is_ascii_alphabetic()
                || ('\u{c0}'..='\u{24f}').contains(&c)
                || ('\u{1e00}'..='\u{1eff}').contains(&c)
        },
    };
    let letters = text.chars().filter(|c| c.is_alphabetic());
    let (mut all, mut fitting) = (0_usize, 0);
    for letter in letters {
        all += 1;
        fitting += usize::from(own(letter));
    }
    // Names of products stay as they are in any language.
    2 * fitting >= all
}

fn is_han(c: char) -> bool {
    ('\u{3400}'..='\u{9fff}').contains(&c) || ('\u{20000}'..='\u{323af}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_found_as_words() {
        let found = |text| identity_details(text, "");
        assert_eq!(found("A woman's hands in the rain"), [""; 0]);
        assert_eq!(
            found("Blue JEANS and a 30-year-old shirt"),
            ["jeans", "shirt"]
        );
        assert_eq!(found("a grey-haired man"), ["grey-haired"]);
        assert_eq!(
            found("that suits the chair, a vestibule, hatched light"),
            ["suits"]
        );
        assert_eq!(
            identity_details("two boots and a hat", "Trail Boots"),
            ["hat"]
        );
    }

    #[test]
    fn products_are_known_by_their_words() {
        let names = names_of(&["The Ember Kettles 2", "Tidewater: Keep Your Own Time"]);
        assert_eq!(names, ["kettle", "ember", "time", "tidewater"]);
        assert!(mentions("Two kettles stand there", &names));
        assert!(mentions("an Ember-branded box", &names));
        assert!(!mentions("a kettledrum in sunlight", &names));
        assert!(mentions("一只茶壶在桌上", &names_of(&["茶壶"])));
        for (title, prompt) in [
            ("X", "The X stands there."),
            ("TV", "a TV glows"),
            ("Go 2", "the Go 2 rolls"),
        ] {
            assert!(mentions(prompt, &names_of(&[title])), "{title}");
        }
        assert_eq!(names_of(&["123"]), [""; 0]);
    }

    #[test]
    fn languages_are_known_by_their_letters() {
        for (text, language, expected) in [
            ("A dog runs.", "en", true),
            ("Ein Hund läuft über die Wiese.", "de", true),
            ("一只狗在草地上奔跑 Ember", "zh", true),
            ("A dog runs.", "zh", false),
            ("Собака бежит по траве.", "ru", true),
            ("Собака бежит по траве.", "en", false),
            ("12 + 3", "en", true),
        ] {
            assert_eq!(is_written_in(text, language), expected, "{text} {language}");
        }
    }
}
