//! The prompts of a film, beat by beat.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use storyloom_story::{Brief, Seed};

use super::beats::Beat;
use super::decks::{Deck, Decks};
use super::fields::FilmSetting;
use super::points::{sentence, share_out};
use super::product::Product;
use super::words::{Prompt, capital, field_of};
use crate::naming::{clipped, name_of};
use crate::schema::{Bounds, DraftShot};

/// What is chosen for one film, and what was used of it.
pub(super) struct Writer<'a> {
    brief: &'a Brief,
    most: usize,
    pub(super) product: Product,
    person: &'static str,
    places: Vec<&'static FilmSetting>,
    random: Decks,
    /// Number of shots so far that are there for a selling point.
    benefits: usize,
    /// Selling points of the shot at hand and of earlier ones that had no room for them, as
    /// positions in the brief.
    due: Vec<usize>,
    used: BTreeSet<String>,
}

/// Where a shot is.
struct Stage {
    place: &'static FilmSetting,
    where_: String,
    light: &'static str,
}

impl<'a> Writer<'a> {
    pub(super) fn new(brief: &'a Brief, bounds: &Bounds, seed: Seed) -> Self {
        let field = field_of(brief);
        let mut random = ChaCha8Rng::seed_from_u64(seed.0);
        let random = &mut random;
        let all: Vec<&'static FilmSetting> = field.places.iter().collect();
        let mut order = Deck::new(&all, random);
        let places: Vec<_> = all.iter().map(|_| order.draw()).collect();
        let lights = places
            .iter()
            .map(|place| Deck::new(&place.lights, random))
            .collect();
        Self {
            brief,
            most: bounds.prompt as usize,
            product: Product::new(name_of(brief.title.as_deref().unwrap_or_default())),
            person: Deck::new(&field.people, random).draw(),
            places,
            random: Decks::new(field, lights, random),
            benefits: 0,
            due: Vec::new(),
            used: BTreeSet::new(),
        }
    }

    /// Shots of a scene stay at one place; there are as many scenes as there is room for, of three
    /// shots or more each.
    fn scene_of(position: usize, count: usize) -> usize {
        let scenes = (count / 3).clamp(1, 12);
        position * scenes / count.max(1)
    }

    /// The shots of a film, and what of the brief is not in them.
    pub(super) fn film(&mut self, beats: &[Beat]) -> (Vec<DraftShot>, Vec<String>) {
        let shares = share_out(self.brief.selling_points.len(), beats);
        let mut shots = Vec::with_capacity(beats.len());
        for ((position, beat), share) in beats.iter().enumerate().zip(shares) {
            self.due.extend(share);
            let shot = self.shot(position, *beat, beats);
            let shown = |point: &usize| shot.prompt.contains(self.point(*point));
            self.due = self
                .due
                .iter()
                .filter(|point| !shown(point))
                .copied()
                .collect();
            shots.push(shot);
        }
        let all: Vec<_> = shots.iter().map(|shot| shot.prompt.as_str()).collect();
        let notes = self.notes(&all.join("\n"));
        (shots, notes)
    }

    /// A selling point as prompts have it.
    fn point(&self, position: usize) -> &'a str {
        let points = &self.brief.selling_points;
        let point = points.get(position).map_or("", String::as_str);
        clipped(point, 160).trim_end_matches('.')
    }

    /// What of the brief is not in the prompts.
    fn notes(&self, prompts: &str) -> Vec<String> {
        let mut notes = Vec::new();
        for position in 0..self.brief.selling_points.len() {
            let point = self.point(position);
            if !prompts.contains(point) {
                notes.push(format!(
                    "no shot shows the selling point {point:?}: there is no room for it in the prompts \
                     (planner.prompt_chars)"
                ));
            }
        }
        if let Some(promo) = &self.brief.promo {
            notes.push(format!(
                "the offer {promo:?} is not drawn: the last shot leaves the upper third of the picture \
                 free for it"
            ));
        }
        if self.brief.instruction.is_some() {
            notes.push("the instruction was not read: the rules have no language model".to_owned());
        }
        notes
    }

    /// Says as many of the points that are due as there is room for.
    fn with_points(&self, prompt: Prompt) -> Prompt {
        let due: Vec<_> = self.due.iter().map(|point| self.point(*point)).collect();
        let fitting = (1..=due.len()).rev().map(|count| sentence(&due[..count]));
        match fitting
            .into_iter()
            .find(|sentence| prompt.has_room_for(sentence))
        {
            Some(sentence) => prompt.and(&sentence),
            None => prompt,
        }
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
            place.full.to_owned()
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

    /// The product is there from the first second on.
    fn open(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.wide.draw();
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let product = &self.product.name;
        let person = capital(self.person);
        let first = format!(
            "{framing} {where_}: {product} {}, in the middle.",
            place.ground
        );
        let comes = format!("{person} comes in and stops in front of {{them}}.");
        let prompt = self
            .with_points(Prompt::new(self.most, first))
            .and(&format!("{}.", capital(light)))
            .and(&self.product.say(&comes));
        let keyframe = Prompt::new(
            self.most,
            format!("{framing} {where_}: {product} {}.", place.ground),
        )
        .and(&format!("{}.", capital(light)))
        .and(&format!("{person} is in the entrance."));
        (self.finish(prompt, true), keyframe.text)
    }

    fn arrive(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.medium.draw();
        let arrival = self.product.say(self.random.arrivals.draw());
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.the_person(stage);
        let first = format!("{framing}, {where_}: {person} {arrival}.");
        let outline = format!(
            "{}; {{its}} outline stands out clearly from the background.",
            capital(light)
        );
        let prompt = self
            .with_points(Prompt::new(self.most, first))
            .and(&self.product.say(&outline));
        let keyframe = format!(
            "{framing}, {where_}: {} {}, hands near {{them}}; {light}.",
            self.product.name, place.ground
        );
        (self.finish(prompt, true), self.product.say(&keyframe))
    }

    fn benefit(&mut self, stage: &Stage) -> (String, String) {
        let framing = if self.benefits.is_multiple_of(2) {
            self.random.medium.draw()
        } else {
            self.random.close.draw()
        };
        self.benefits += 1;
        let action = self.product.say(self.random.uses.draw());
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.the_person(stage);
        let first = format!("{framing}, {where_}: {person} {action}.");
        let prompt = self
            .with_points(Prompt::new(self.most, first))
            .and(&format!("{}.", capital(light)));
        let keyframe = format!(
            "{framing}, {where_}: hands on {}, {}; {light}.",
            self.product.name, place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn detail(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.close.draw();
        let surface = self.product.say(self.random.surfaces.draw());
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let product = &self.product.name;
        let first = format!(
            "{framing}, {where_}: {product} {}; {surface}.",
            place.ground
        );
        let prompt = self
            .with_points(Prompt::new(self.most, first))
            .and(&format!("{}.", capital(light)));
        let keyframe = format!(
            "{framing} of {product} {}, {where_}; {light}.",
            place.ground
        );
        (self.finish(prompt, true), keyframe)
    }

    fn reaction(&mut self, stage: &Stage) -> (String, String) {
        let framing = self.random.medium.draw();
        let reaction = self.product.say(self.random.reactions.draw());
        let Stage {
            where_,
            light,
            place,
        } = stage;
        let person = self.the_person(stage);
        let product = &self.product.name;
        let first = format!("{framing}, {where_}: {person} has {product} close by, {reaction}.");
        let prompt = self
            .with_points(Prompt::new(self.most, first))
            .and(&format!("{}.", capital(light)));
        let keyframe = format!(
            "{framing}, {where_}: {person}, with {product} {}; {light}.",
            place.ground
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
            "Final shot, {where_}: {{}} stand{{s}} alone {}, in the middle of the picture.",
            place.ground
        );
        let shape = format!(
            "{}; {{its}} shape is clear and {{its}} surface glows.",
            capital(light)
        );
        let pushes = "The camera pushes in until {it} fill{s} the frame, then rests.";
        let prompt = self
            .with_points(Prompt::new(self.most, self.product.say(&first)))
            .and(&self.product.say(&shape))
            .and(&self.product.say(pushes))
            .and(room);
        let keyframe = format!(
            "{} alone {}, centred, {where_}; {light}.",
            capital(&self.product.name),
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
        let points: Vec<_> = (0..self.brief.selling_points.len())
            .map(|position| self.point(position))
            .collect();
        let points = if points.is_empty() {
            String::new()
        } else {
            format!(" It shows: {}.", points.join("; "))
        };
        let film = format!(
            "A short film about {{}}: {} finds {{them}} {place}, and {{it}} change{{s}} the day.",
            self.person
        );
        format!("{}{points}", self.product.say(&film))
    }
}
