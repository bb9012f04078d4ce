//! A planner for advertisements without any model: fixed rules and a table of places.
//!
//! It makes concrete prompts from a product's name and selling points, always the same ones from
//! the same seed. It understands nothing: it neither reads the instruction nor looks at pictures,
//! and it cannot make anything of a story idea.

mod beats;
mod decks;
mod fields;
mod words;
mod writer;

use storyloom_story::{Brief, BriefKind, Seed};

use crate::naming::name_of;
use crate::schema::{Bounds, Draft};
use beats::beats;
use writer::Writer;

/// Version of the rules; counted up when the same brief gets another script.
pub const VERSION: u32 = 1;

/// Whether the rules can make a script of a brief.
///
/// # Errors
/// Why they cannot, with what to do.
pub fn check(brief: &Brief) -> Result<(), String> {
    const HELP: &str =
        "choose a planner with a language model: planner.backend = \"served\" or \"native\"";
    if brief.kind() == BriefKind::Story {
        return Err(format!(
            "the rules plan advertisements and no story ideas; {HELP}"
        ));
    }
    let Some(title) = &brief.title else {
        return Err(format!(
            "the rules cannot see, so the product needs a \"title\"; or {HELP}"
        ));
    };
    if !name_of(title).chars().any(char::is_alphabetic) {
        return Err(format!(
            "the title {title:?} has no word that names the product"
        ));
    }
    if brief.language.primary() != "en" {
        let tag = brief.language.tag();
        return Err(format!("the rules write English and not {tag:?}; {HELP}"));
    }
    Ok(())
}

/// Makes a draft; the brief is one that [`check`] accepts.
pub(crate) fn draft(brief: &Brief, bounds: &Bounds, seed: Seed) -> Draft {
    let mut writer = Writer::new(brief, bounds, seed);
    let beats = beats(bounds.shots as usize);
    let shots = beats
        .iter()
        .enumerate()
        .map(|(position, beat)| writer.shot(position, *beat, &beats));
    let shots = shots.collect();
    Draft {
        title: brief.title.clone().unwrap_or_default(),
        overview: writer.overview(),
        product: Some(writer.name.clone()),
        shots,
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::{Language, StoryId};

    use super::fields::FIELDS;
    use super::words::with_article;
    use super::*;
    use crate::check;

    fn brief(title: &str, shots: u32) -> Brief {
        Brief {
            title: Some(title.to_owned()),
            selling_points: vec![
                "keeps water hot for two hours".to_owned(),
                "the handle stays cool".to_owned(),
            ],
            shots,
            style: Some("quiet documentary, 35 mm film grain".to_owned()),
            ..Brief::new(StoryId::new("a").unwrap())
        }
    }

    fn titles() -> Vec<String> {
        let of_fields = FIELDS
            .iter()
            .map(|field| format!("Ember {}", field.words.first().unwrap_or(&"thing")));
        of_fields
            .chain([
                "Tidewater: Keep Your Own Time".to_owned(),
                "The Northwind Rain Coat".to_owned(),
            ])
            .collect()
    }

    #[test]
    fn every_script_of_the_rules_keeps_the_rules() {
        for title in titles() {
            for shots in (1..=Brief::MAX_SHOTS).step_by(3).chain([2, 8, 64]) {
                for (seed, most) in [(0, 1200), (1, 400), (2, 260)] {
                    let brief = brief(&title, shots);
                    let bounds = Bounds::of(&brief, most);
                    let draft = draft(&brief, &bounds, Seed(seed));
                    let found = check::check(&draft, &brief, &bounds);
                    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                    assert_eq!(found, [""; 0], "{title} with {shots} shots, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_script_says_what_the_brief_says() {
        let brief = brief("Ember stovetop kettle: hot for hours", 8);
        let bounds = Bounds::of(&brief, 1200);
        let draft = draft(&brief, &bounds, Seed(3));
        let all: Vec<_> = draft
            .shots
            .iter()
            .map(|shot| shot.prompt.as_str())
            .collect();
        let all = all.join("\n");
        assert!(
            all.contains("keeps water hot for two hours") && all.contains("the handle stays cool"),
            "{all}"
        );
        assert!(
            all.contains("the Ember stovetop kettle") && !all.contains("hot for hours."),
            "{all}"
        );
        assert!(all.contains("Style: quiet documentary"), "{all}");
        assert!(
            all.contains("kitchen") || all.contains("courtyard"),
            "{all}"
        );
        assert!(!all.contains("{}"), "{all}");
        assert!(draft.shots[0].cut);
        assert!(draft.shots.iter().any(|shot| !shot.cut));
    }

    #[test]
    fn seeds_decide() {
        let brief = brief("Ember kettle", 6);
        let bounds = Bounds::of(&brief, 1200);
        assert_eq!(
            draft(&brief, &bounds, Seed(1)),
            draft(&brief, &bounds, Seed(1))
        );
        assert_ne!(
            draft(&brief, &bounds, Seed(1)),
            draft(&brief, &bounds, Seed(2))
        );
    }

    #[test]
    fn what_rules_cannot_do_is_said() {
        let foreign = Brief {
            language: Language::new("de").unwrap(),
            ..brief("Ember", 3)
        };
        assert!(super::check(&foreign).unwrap_err().contains("English"));
        let unseen = Brief {
            title: None,
            product_image: Some("a.png".to_owned()),
            ..brief("Ember", 3)
        };
        assert!(super::check(&unseen).unwrap_err().contains("title"));
        assert!(super::check(&brief("123", 3)).is_err());
    }

    #[test]
    fn names_are_the_part_of_a_title_that_names() {
        assert_eq!(name_of("Tidewater: Keep Your Own Time"), "Tidewater");
        assert_eq!(name_of("Ember - the kettle"), "Ember");
        assert_eq!(
            name_of("one two three four five six seven eight nine"),
            "one two three four five six seven eight"
        );
        assert_eq!(with_article("The Coat"), "the Coat");
        assert_eq!(with_article("Coat"), "the Coat");
    }
}
