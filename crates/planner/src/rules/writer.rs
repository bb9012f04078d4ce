//! The prompts of a film, beat by beat.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use storyloom_story::{Brief, Seed};

use super::beats::Beat;
use super::decks::{Deck, Decks};
use super::fields::Place;
use super::words::{Prompt, capital, field_of, with_article};
use crate::naming::{clipped, name_of};
use crate::schema::{Bounds, DraftShot};

/// What is chosen for one film, and what was used of it.
pub(super) struct Writer<'a> {
    brief: &'a Brief,
    most: usize,
    /// What every prompt calls the product: "the Ember kettle".
    pub(super) name: String,
    person: &'static str,
    places: Vec<&'static Place>,
    random: Decks,
    points: usize,
    used: BTreeSet<String>,
}

/// Where a shot is.
struct Stage {
    place: &'static Place,
    where_: String,
    light: &'static str,
}

impl<'a> Writer<'a> {
    pub(super) fn new(brief: &'a Brief, bounds: &Bounds, seed: Seed) -> Self {
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
            random: Decks::new(field, lights, random),
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

    pub(super) fn shot(&mut self, position: usize, beat: Beat, beats: &[Beat]) -> DraftShot {
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

    pub(super) fn overview(&self) -> String {
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
