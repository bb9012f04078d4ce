//! A planner for advertisements without any model: fixed rules and a table of places.
//!
//! It makes concrete prompts from a product's name and selling points, always the same ones from
//! the same seed. It understands nothing: it neither reads the instruction nor looks at pictures,
//! and it cannot make anything of a story idea.

mod fields;

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use storyloom_story::{Brief, BriefKind, Seed};

use crate::schema::{Bounds, Draft, DraftShot};
use fields::{FIELDS, Field, Place};

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

/// What a shot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    /// The place, and that something is missing there.
    Open,
    /// The product comes.
    Arrive,
    /// It is used, and a selling point shows.
    Benefit,
    /// It is seen from very near.
    Detail,
    /// Somebody is glad of it.
    Reaction,
    /// It alone, at the end.
    Payoff,
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

/// The order of the shots. Apart from the first two and the last, selling points and close looks
/// take turns, with somebody's reaction before the end of longer films.
fn beats(count: usize) -> Vec<Beat> {
    let mut beats = match count {
        0 | 1 => Vec::new(),
        2 => vec![Beat::Arrive],
        _ => vec![Beat::Open, Beat::Arrive],
    };
    let middle = count.saturating_sub(beats.len() + 1);
    for position in 0..middle {
        let last = position + 1 == middle;
        beats.push(match position % 3 {
            _ if last && middle >= 3 => Beat::Reaction,
            1 => Beat::Detail,
            _ => Beat::Benefit,
        });
    }
    beats.push(Beat::Payoff);
    beats
}

/// Things to choose from: every one is used once, in an order of its own, before any comes again.
struct Deck<T: 'static> {
    cards: Vec<T>,
    next: usize,
}

impl<T: Copy> Deck<T> {
    fn new(cards: &[T], random: &mut ChaCha8Rng) -> Self {
        let mut cards = cards.to_vec();
        for last in (1..cards.len()).rev() {
            let other = (random.next_u64() % (last as u64 + 1)) as usize;
            cards.swap(last, other);
        }
        Self { cards, next: 0 }
    }

    fn draw(&mut self) -> T {
        let card = self.cards[self.next % self.cards.len()];
        self.next += 1;
        card
    }
}

const WIDE: [&str; 4] = [
    "Wide shot at eye level",
    "Wide shot from a high corner",
    "Slow wide shot, low to the ground",
    "Wide symmetrical shot",
];
const MEDIUM: [&str; 5] = [
    "Medium shot",
    "Medium shot over the shoulder",
    "Medium shot from a low angle",
    "Medium shot in profile",
    "Medium shot through a doorway",
];
const CLOSE: [&str; 5] = [
    "Close-up",
    "Extreme close-up",
    "Close-up from above",
    "Close-up with a shallow focus",
    "Low close-up",
];
const MOVES: [&str; 7] = [
    "The camera pushes in slowly",
    "The camera drifts from left to right",
    "The camera circles by a quarter turn",
    "The camera stays still",
    "The camera rises a little",
    "The camera follows the movement by hand",
    "The camera pulls back gently",
];
const SURFACES: [&str; 5] = [
    "light runs along its edge while all behind it falls out of focus",
    "its material fills the frame, every fine mark of it in focus",
    "focus wanders from one end of it to the other",
    "a shadow passes over it and gives it back to the light",
    "a reflection of the place slides across it",
];
const REACTIONS: [&str; 4] = [
    "looks up from it and smiles at nobody in particular",
    "lets out a long breath and nods",
    "laughs quietly and shakes the head",
    "stands still for a moment and just looks",
];

/// What is chosen for one film, and what was used of it.
struct Writer<'a> {
    brief: &'a Brief,
    most: usize,
    /// What every prompt calls the product: "the Ember kettle".
    name: String,
    person: &'static str,
    places: Vec<&'static Place>,
    random: Decks,
    points: usize,
    used: BTreeSet<String>,
}

struct Decks {
    wide: Deck<&'static str>,
    medium: Deck<&'static str>,
    close: Deck<&'static str>,
    moves: Deck<&'static str>,
    surfaces: Deck<&'static str>,
    reactions: Deck<&'static str>,
    arrivals: Deck<&'static str>,
    uses: Deck<&'static str>,
    lights: Vec<Deck<&'static str>>,
}

/// A prompt in the making: sentences are added while there is room.
struct Prompt {
    text: String,
    most: usize,
}

impl Prompt {
    fn new(most: usize, first: String) -> Self {
        Self { text: first, most }
    }

    fn and(mut self, sentence: &str) -> Self {
        let length = self.text.chars().count() + 1 + sentence.chars().count();
        if !sentence.is_empty() && length <= self.most {
            self.text.push(' ');
            self.text.push_str(sentence);
        }
        self
    }
}

impl<'a> Writer<'a> {
    fn new(brief: &'a Brief, bounds: &Bounds, seed: Seed) -> Self {
        let field = field_of(brief);
        let mut random = ChaCha8Rng::seed_from_u64(seed.0);
        let random = &mut random;
        let all: Vec<&'static Place> = field.places.iter().collect();
        let mut order = Deck::new(&all, random);
        let places: Vec<_> = all.iter().map(|_| order.draw()).collect();
        let lights = places
            .iter()
            .map(|place| Deck::new(&place.lights, random))
            .collect();
        Self {
            brief,
            most: bounds.prompt as usize,
            name: with_article(name_of(brief.title.as_deref().unwrap_or_default())),
            person: Deck::new(&field.people, random).draw(),
            places,
            random: Decks {
                wide: Deck::new(&WIDE, random),
                medium: Deck::new(&MEDIUM, random),
                close: Deck::new(&CLOSE, random),
                moves: Deck::new(&MOVES, random),
                surfaces: Deck::new(&SURFACES, random),
                reactions: Deck::new(&REACTIONS, random),
                arrivals: Deck::new(&field.arrivals, random),
                uses: Deck::new(&field.uses, random),
                lights,
            },
            points: 0,
            used: BTreeSet::new(),
        }
    }

    /// Shots of a scene stay at one place; there are as many scenes as there is room for, of three
    /// shots or more each.
    fn scene_of(position: usize, count: usize) -> usize {
        let scenes = (count / 3).clamp(1, 12);
        position * scenes / count.max(1)
    }

    fn shot(&mut self, position: usize, beat: Beat, beats: &[Beat]) -> DraftShot {
        let scene = Self::scene_of(position, beats.len());
        let before = position.checked_sub(1);
        let begins = before.is_none_or(|before| Self::scene_of(before, beats.len()) != scene);
        let place = self.places[scene % self.places.len()];
        // Every third visit to the places has another light than the ones before.
        let visit = scene / self.places.len();
        let deck = &self.random.lights[scene % self.places.len()];
        let light = deck.cards[visit % deck.cards.len()];
        let known = if begins {
            format!("in {}", place.full).replacen("in a quiet square", "on a quiet square", 1)
        } else {
            place.known.to_owned()
        };
        let stage = Stage {
            place,
            where_: known,
            light,
        };
        let (prompt, keyframe) = self.new_prompts(beat, &stage);
        DraftShot {
            scene: scene as u32 + 1,
            // A close look follows on from what was being done.
            cut: begins || beat != Beat::Detail,
            prompt,
            keyframe,
        }
    }

    /// Prompts that this film does not have yet: in a long one, choices come together again.
    fn new_prompts(&mut self, beat: Beat, stage: &Stage) -> (String, String) {
        const TRIES: usize = 50;
        let mut found = self.prompts(beat, stage);
        for _ in 0..TRIES {
            if self.used.insert(found.0.clone()) {
                break;
            }
            found = self.prompts(beat, stage);
        }
        found
    }

    fn prompts(&mut self, beat: Beat, stage: &Stage) -> (String, String) {
        match beat {
            Beat::Open => self.open(stage),
            Beat::Arrive => self.arrive(stage),
            Beat::Benefit => self.benefit(stage),
            Beat::Detail => self.detail(stage),
            Beat::Reaction => self.reaction(stage),
            Beat::Payoff => self.payoff(stage),
        }
    }

    /// The style is the last thing that is said, as far as there is room for it.
    fn finish(&mut self, prompt: Prompt, camera: bool) -> String {
        let movement = self.random.moves.draw();
        let prompt = if camera {
            prompt.and(&format!("{movement}."))
        } else {
            prompt
        };
        let style = self.brief.style.as_deref().map(|style| clipped(style, 160));
        let style = style.map_or(String::new(), |style| {
            format!("Style: {}.", style.trim_end_matches('.'))
        });
        prompt.and(&style).text
    }

    fn open(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.wide.draw();
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.person;
        let prompt = Prompt::new(self.most, format!("{framing} {where_}, {light}."))
            .and(&format!(
                "{} comes in and stops: the place {} is empty.",
                capital(person),
                place.ground
            ))
            .and("Everything is still, as if it were waiting for something.");
        let keyframe = format!(
            "{framing} {where_}; {person} in the entrance, nothing {}; {light}.",
            place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn arrive(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.medium.draw();
        let arrival = self.random.arrivals.draw().replace("{}", &self.name);
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.the_person(stage);
        let prompt = Prompt::new(
            self.most,
            format!("{framing}, {where_}: {person} {arrival}."),
        )
        .and(&format!(
            "{}; its outline stands out clearly from the background.",
            capital(light)
        ));
        let keyframe = format!(
            "{framing}, {where_}: {} {}, hands near it; {light}.",
            self.name, place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn benefit(&mut self, stage: &Stage) -> (String, String) {
        let framing = if self.points.is_multiple_of(2) {
            self.random.medium.draw()
        } else {
            self.random.close.draw()
        };
        let action = self.random.uses.draw().replace("{}", &self.name);
        let points = &self.brief.selling_points;
        let point = points.get(self.points % points.len().max(1));
        let point = point.map(|point| clipped(point, 160));
        let point = point.map_or(String::new(), |point| {
            format!(
                "What is to be seen makes one thing plain: {}.",
                point.trim_end_matches('.')
            )
        });
        self.points += 1;
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.the_person(stage);
        let prompt = Prompt::new(
            self.most,
            format!("{framing}, {where_}: {person} {action}."),
        )
        .and(&point)
        .and(&format!("{}.", capital(light)));
        let keyframe = format!(
            "{framing}, {where_}: hands on {}, {}; {light}.",
            self.name, place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn detail(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.close.draw();
        let surface = self.random.surfaces.draw();
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let prompt = Prompt::new(
            self.most,
            format!(
                "{framing}, {where_}: {} {}; {surface}.",
                self.name, place.ground
            ),
        )
        .and(&format!("{}.", capital(light)));
        let keyframe = format!(
            "{framing} of {} {}, {where_}; {light}.",
            self.name, place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn reaction(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.medium.draw();
        let reaction = self.random.reactions.draw();
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.the_person(stage);
        let first = format!(
            "{framing}, {where_}: {person} has {} close by, {reaction}.",
            self.name
        );
        let prompt = Prompt::new(self.most, first).and(&format!("{}.", capital(light)));
        let keyframe = format!(
            "{framing}, {where_}: {person}, with {} {}; {light}.",
            self.name, place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn payoff(&mut self, stage: &Stage) -> (String, String) {
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let room = if self.brief.promo.is_some() {
            "The upper third of the picture stays calm and empty."
        } else {
            "Nothing else moves."
        };
        let first = format!(
            "Final shot, {where_}: {} stands alone {}, in the middle of the picture.",
            self.name, place.ground
        );
        let prompt = Prompt::new(self.most, first)
            .and(&format!(
                "{}; its shape is clear and its surface glows.",
                capital(light)
            ))
            .and("The camera pushes in until it fills the frame, then rests.")
            .and(room);
        let keyframe = format!(
            "{} alone {}, centred, {where_}; {light}.",
            capital(&self.name),
            place.ground
        );
        (self.finish(prompt, false), keyframe)
    }

    /// "A cook" where a place is new, "the cook" after that.
    fn the_person(&self, stage: &Stage) -> String {
        if stage.where_ != stage.place.known {
            return self.person.to_owned();
        }
        let bare = self
            .person
            .trim_start_matches("an ")
            .trim_start_matches("a ");
        format!("the {bare}")
    }

    fn overview(&self) -> String {
        let place = self.places[0].full;
        let points: Vec<_> = self
            .brief
            .selling_points
            .iter()
            .take(3)
            .map(|point| clipped(point, 160))
            .collect();
        let points = if points.is_empty() {
            String::new()
        } else {
            format!(" It shows: {}.", points.join("; "))
        };
        format!(
            "A short film about {}: {} finds it missing in {place}, then it comes and changes the day.{points}",
            self.name, self.person
        )
    }
}

/// Where a shot is.
struct Stage {
    place: &'static Place,
    where_: String,
    light: &'static str,
}

/// The kind of product, by the words of the brief; those of the title count most.
fn field_of(brief: &Brief) -> &'static Field {
    let title = brief.title.as_deref().unwrap_or_default().to_lowercase();
    let mut rest = brief.selling_points.join(" ");
    rest.push(' ');
    rest.push_str(brief.instruction.as_deref().unwrap_or_default());
    let rest = rest.to_lowercase();
    let count = |text: &str, field: &Field| {
        let words = text.split(|c: char| !c.is_alphanumeric());
        words
            .filter(|word| {
                field.words.contains(word) || field.words.contains(&word.trim_end_matches('s'))
            })
            .count()
    };
    let score = |field: &Field| 4 * count(&title, field) + count(&rest, field);
    let mut best = &FIELDS[FIELDS.len() - 1];
    for field in &FIELDS {
        if score(field) > score(best) {
            best = field;
        }
    }
    best
}

/// The part of a title that names the product: what stands before a colon, a dash or a bar, and of
/// that not more than eight words.
fn name_of(title: &str) -> &str {
    let end = [": ", " - ", " – ", " — ", " | ", ", "]
        .iter()
        .filter_map(|mark| title.find(mark))
        .min();
    let name = title[..end.unwrap_or(title.len())].trim();
    let words = name.split_whitespace().take(8);
    let last = words.last().map_or(0, |word| {
        word.as_ptr() as usize - name.as_ptr() as usize + word.len()
    });
    clipped(&name[..last], 80)
}

fn with_article(name: &str) -> String {
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

/// The first characters of a text, up to the end of a word.
fn clipped(text: &str, most: usize) -> &str {
    let text = text.trim();
    let Some((end, _)) = text.char_indices().nth(most) else {
        return text;
    };
    let kept = &text[..end];
    kept.rfind(char::is_whitespace)
        .map_or(kept, |space| &kept[..space])
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use storyloom_story::{Language, StoryId};

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
