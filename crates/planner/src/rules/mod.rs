//! A planner for advertisements without any model: fixed rules and a table of places.
//!
//! It makes concrete prompts from a product's name and selling points, always the same ones from
//! the same seed. It understands nothing: it neither reads the instruction nor looks at pictures,
//! and it cannot make anything of a story idea.

mod beats;
mod decks;
mod fields;
mod points;
mod product;
mod words;
mod writer;

use storyloom_story::{Brief, BriefKind, Seed};

use crate::capability::CannotWrite;
use crate::naming::name_of;
use crate::schema::{Bounds, Draft};
use beats::beats;
use writer::Writer;

/// Version of the rules; counted up when the same brief gets another script.
pub const VERSION: u32 = 2;

/// Whether the rules can make a script of a brief.
pub(crate) fn check(brief: &Brief) -> Result<(), CannotWrite> {
    if brief.kind() == BriefKind::Story {
        return Err(CannotWrite::Idea);
    }
    let title = brief.title.as_ref().ok_or(CannotWrite::NoTitle)?;
    if !name_of(title).chars().any(char::is_alphabetic) {
        let title = title.clone();
        return Err(CannotWrite::NoName { title });
    }
    if brief.language.primary() != "en" {
        let tag = brief.language.tag().to_owned();
        return Err(CannotWrite::Language { tag });
    }
    Ok(())
}

/// Makes a draft, and says what of the brief is not in it; the brief is one that [`check`] accepts.
pub(crate) fn draft(brief: &Brief, bounds: &Bounds, seed: Seed) -> (Draft, Vec<String>) {
    let mut writer = Writer::new(brief, bounds, seed);
    let (shots, notes) = writer.film(&beats(bounds.shots as usize));
    let draft = Draft {
        title: brief.title.clone().unwrap_or_default(),
        overview: writer.overview(),
        product: Some(writer.product.name.clone()),
        shots,
    };
    (draft, notes)
}

#[cfg(test)]
mod tests {
    use storyloom_story::{Language, StoryId};

    use super::fields::FIELDS;
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
                "Kitchen scissors".to_owned(),
                "Men's socks".to_owned(),
                "TV".to_owned(),
                "X".to_owned(),
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
                    let draft = draft(&brief, &bounds, Seed(seed)).0;
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
        let (draft, notes) = draft(&brief, &bounds, Seed(3));
        assert_eq!(notes, [""; 0]);
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

    /// Everything that is said in a film, and what is noted about it.
    fn told(brief: &Brief, seed: u64) -> (Vec<String>, String, Vec<String>) {
        let (draft, notes) = draft(brief, &Bounds::of(brief, 1200), Seed(seed));
        let prompts: Vec<_> = draft.shots.iter().map(|shot| shot.prompt.clone()).collect();
        let keyframes = draft.shots.iter().map(|shot| shot.keyframe.as_str());
        let all = prompts.iter().map(String::as_str).chain(keyframes);
        let all: Vec<_> = all.chain([draft.overview.as_str()]).collect();
        let all = all.join("\n");
        (prompts, all, notes)
    }

    #[test]
    fn the_product_is_there_from_the_first_shot_on() {
        for title in titles() {
            for shots in [1, 2, 3, 8] {
                let brief = brief(&title, shots);
                let name = super::product::Product::new(name_of(&title)).name;
                let (prompts, all, _) = told(&brief, 5);
                assert!(prompts[0].contains(&name), "{}", prompts[0]);
                assert!(!all.contains("empty.") && !all.contains("missing"), "{all}");
            }
        }
    }

    #[test]
    fn places_have_their_own_prepositions_and_products_their_number() {
        for title in titles() {
            for seed in 0..12 {
                let (_, all, _) = told(&brief(&title, 14), seed);
                for wrong in [
                    "in a wooden jetty",
                    "in a long table",
                    "in a lake shore",
                    "in a flat roof",
                    " in in ",
                    "scissors stands",
                    "socks stands",
                    "scissors lies",
                    "socks lies",
                    "scissors comes",
                    "two friends",
                    "{",
                ] {
                    assert!(!all.contains(wrong), "{wrong}: {all}");
                }
            }
        }
        let (_, scissors, _) = told(&brief("Kitchen scissors", 3), 1);
        assert!(
            scissors.contains("the Kitchen scissors stand alone"),
            "{scissors}"
        );
        assert!(scissors.contains("until they fill the frame"), "{scissors}");
    }

    #[test]
    fn no_selling_point_and_no_offer_is_lost_silently() {
        let points = [
            "hot",
            "vegan",
            "lasts 12 hours",
            "weighs less than an apple",
        ];
        for shots in 1..=9 {
            let brief = Brief {
                selling_points: points.map(str::to_owned).to_vec(),
                promo: Some("two for one until Sunday".to_owned()),
                ..brief("Ember kettle", shots)
            };
            let (prompts, all, notes) = told(&brief, 2);
            for point in points {
                assert!(
                    prompts.iter().any(|prompt| prompt.contains(point)),
                    "{point} in {shots} shots"
                );
            }
            assert!(!all.contains("makes one thing plain"));
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert!(notes[0].contains("two for one until Sunday"), "{notes:?}");
        }
        // Where there is no room in any prompt it is said.
        let long = Brief {
            selling_points: vec!["it is very long ".repeat(10).trim().to_owned()],
            ..brief("Ember kettle", 2)
        };
        let (_, notes) = draft(&long, &Bounds::of(&long, 260), Seed(1));
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("no shot shows"), "{notes:?}");
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
        assert!(
            super::check(&foreign)
                .unwrap_err()
                .to_string()
                .contains("English")
        );
        let unseen = Brief {
            title: None,
            product_image: Some("a.png".to_owned()),
            ..brief("Ember", 3)
        };
        assert!(
            super::check(&unseen)
                .unwrap_err()
                .to_string()
                .contains("title")
        );
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
    }
}
