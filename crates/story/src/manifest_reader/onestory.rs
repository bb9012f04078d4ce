//! A line of a manifest that is a story script of OneStory (specification `onestory`, section 1.1): a whole story.

use std::collections::BTreeSet;

use jsonc_parser::ast::Value;

use super::Reader;
use crate::brief_reader::{Named, note_path, read_sides};
use crate::ids::StoryId;
use crate::json::{self, Fields, span};
use crate::manifest::StoryEntry;
use crate::method::Method;
use crate::notes::{ShotNotes, StoryNotes};
use crate::onestory_script::{SCHEMA, SHOT_KEYS, Setting, says_nothing};
use crate::problem::{SourceLocation, Span};
use crate::script::{Scene, ShotScript, StoryScript};
use crate::script_reader::{check_length, check_numbers};
use crate::video::Resolution;

/// A shot as far as it could be read.
struct ShotDraft {
    number: Option<(u32, Span)>,
    caption: String,
    notes: ShotNotes,
}

impl Reader<'_> {
    /// Reads a story script: its shots are one scene, and each opens with a cut.
    pub(super) fn onestory_story(
        &mut self,
        fields: &Fields<'_, '_>,
        location: SourceLocation,
    ) -> Option<StoryEntry> {
        self.schema(fields);
        let id = self.id(fields, location);
        let common = self.common(fields);
        let reference_images = self.first_image(fields, id.as_ref());
        let first_shot = self.first_shot(fields, id.as_ref(), !reference_images.is_empty());
        let help = "give height and width in pixels, as in \"size\": [480, 832]";
        let size = read_sides(&mut self.problems, fields, help);
        let pattern = self.word(fields, "pattern", "write how its shots belong together");
        let frames = self.count(fields, "frames");
        let fps = self.count(fields, "fps");
        let (script, shots) = self.shots(fields, id.as_ref())?;
        let notes = StoryNotes {
            pattern,
            frames,
            fps,
            shots,
        };
        Some(StoryEntry {
            method: Some(Method::OneStory),
            seed: common.seed,
            tenant: common.tenant,
            priority: common.priority,
            size: size.map(|[height, width]| Resolution { width, height }),
            fit: common.fit,
            ground: common.ground,
            reference_images,
            first_shot,
            notes: (!notes.is_empty()).then_some(notes),
            ..StoryEntry::new(id?, script)
        })
    }

    /// Checks that this version reads the schema, and that something makes such stories.
    fn schema(&mut self, fields: &Fields<'_, '_>) {
        let help = format!("write \"schema\": \"{SCHEMA}\"");
        let Some(value) = fields.require(&mut self.problems, "schema", &help) else {
            return;
        };
        let Some(schema) = json::text(&mut self.problems, value, "schema") else {
            return;
        };
        if schema != SCHEMA {
            let message = format!("there is no schema {schema:?}");
            self.problems.add(span(value), message, help);
        } else if let Err(reason) = self.files.method(Method::OneStory) {
            let way_out =
                "give the story as a \"script\" of scenes, without a method for the run's own";
            self.note_not_loaded(span(value), Method::OneStory, &reason, way_out);
        }
    }

    /// The picture that the first shot begins with, which goes with the setting.
    fn first_image(&mut self, fields: &Fields<'_, '_>, story: Option<&StoryId>) -> Vec<String> {
        let help = "write \"t2msv\" (from text) or \"i2msv\" (from text and a first image)";
        fields.require(&mut self.problems, "setting", help);
        let setting: Option<Setting> = self.word(fields, "setting", help);
        let Some(value) = fields.get("first_image") else {
            if setting == Some(Setting::I2msv) {
                let start = fields.span().0;
                let message = format!(
                    "the setting is i2msv and there is no \"first_image\"{}",
                    of(story)
                );
                let help = "give the path of a picture, relative to this file, or write \"t2msv\"";
                self.problems.add((start, start + 1), message, help);
            }
            return Vec::new();
        };
        let Some(path) = json::text(&mut self.problems, value, "first_image") else {
            return Vec::new();
        };
        if setting == Some(Setting::T2msv) {
            let message = format!(
                "there is a \"first_image\", but the setting is t2msv{}",
                of(story)
            );
            let help = "write \"i2msv\" to begin with the picture, or leave it out";
            self.problems.add(span(value), message, help);
        }
        self.check_image(("first image", &path), span(value), story);
        vec![path]
    }

    /// The ready-made video that is the first shot, if there is one. `has_image` says whether the story begins
    /// with a picture, which such a shot does not.
    pub(super) fn first_shot(
        &mut self,
        fields: &Fields<'_, '_>,
        story: Option<&StoryId>,
        has_image: bool,
    ) -> Option<String> {
        let value = fields.get("first_shot")?;
        let path = json::text(&mut self.problems, value, "first_shot")?;
        if has_image {
            let message = format!(
                "there is a \"first_shot\" beside a picture that the story begins with{}",
                of(story)
            );
            let help = "leave one of them out: a ready-made first shot is not made from a picture";
            self.problems.add(span(value), message, help);
        }
        if let Err(reason) = self.files.first_shot(&path) {
            let named = Named {
                what: "ready-made first shot",
                path: &path,
                story,
            };
            note_path(&mut self.problems, span(value), named, &reason);
        }
        Some(path)
    }

    /// Refuses a ready-made first shot of a line that does not say that OneStory makes its story.
    pub(super) fn refuse_first_shot(&mut self, fields: &Fields<'_, '_>, story: Option<&StoryId>) {
        if let Some(value) = fields.get("first_shot") {
            let message = format!(
                "only OneStory begins with a ready-made first shot{}",
                of(story)
            );
            let help = "write \"method\": \"onestory\" into the line, or leave \"first_shot\" out";
            self.problems.add(span(value), message, help);
        }
    }

    /// A whole number from 1 that 32 bits hold.
    fn count(&mut self, fields: &Fields<'_, '_>, name: &'static str) -> Option<u32> {
        const RANGE: &str = "a whole number from 1 to 4294967295";
        let value = fields.get(name)?;
        let number = json::integer(&mut self.problems, value, name, RANGE)?;
        if number == 0 {
            let message = format!("\"{name}\" must be {RANGE}, but is 0");
            let help = "leave it out for what the settings say";
            self.problems.add(span(value), message, help);
        }
        Some(number)
    }

    fn shots(
        &mut self,
        fields: &Fields<'_, '_>,
        story: Option<&StoryId>,
    ) -> Option<(StoryScript, Vec<ShotNotes>)> {
        let help = "list the shots: \"shots\": [{\"i\": 1, \"caption\": \"…\"}]";
        let value = fields.require(&mut self.problems, "shots", help)?;
        let list = json::list(&mut self.problems, value, "shots")?;
        check_length(&mut self.problems, list, "shots", "shot");
        let drafts = list.elements.iter().zip(1..);
        let drafts: Vec<ShotDraft> = drafts
            .filter_map(|(value, position)| self.shot(value, position, story))
            .collect();
        let numbers = drafts.iter().filter_map(|draft| draft.number);
        check_numbers(&mut self.problems, ("shots", "i"), numbers);
        let (shots, notes): (Vec<_>, Vec<_>) = drafts.into_iter().map(ShotDraft::finish).unzip();
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: vec![Scene { number: 1, shots }],
        };
        let is_said = notes.iter().any(|notes| *notes != ShotNotes::default());
        Some((script, if is_said { notes } else { Vec::new() }))
    }

    fn shot(
        &mut self,
        value: &Value<'_>,
        position: usize,
        story: Option<&StoryId>,
    ) -> Option<ShotDraft> {
        let fields = Fields::new(&mut self.problems, value, "the shot", &SHOT_KEYS)?;
        let help = "number the shots 1, 2, 3, …";
        let number = fields
            .require(&mut self.problems, "i", help)
            .and_then(|value| {
                let number =
                    json::integer(&mut self.problems, value, "i", "a whole number from 1")?;
                Some((number, span(value)))
            });
        let help = "describe what the shot shows";
        let caption = fields.require(&mut self.problems, "caption", help).and_then(|value| {
            let caption = json::text(&mut self.problems, value, "caption")?;
            if says_nothing(&caption) {
                let message = format!(
                    "the caption of shot {position} is empty without tags and invisible characters{}",
                    of(story)
                );
                self.problems.add(span(value), message, help);
            }
            Some(caption)
        });
        Some(ShotDraft {
            number,
            caption: caption.unwrap_or_default(),
            notes: ShotNotes {
                characters: self.characters(&fields),
                environment: self.name(fields.get("environment"), "environment"),
            },
        })
    }

    fn characters(&mut self, fields: &Fields<'_, '_>) -> Vec<String> {
        const NAME: &str = "characters";
        let list = fields.get(NAME);
        let list = list.and_then(|value| json::list(&mut self.problems, value, NAME));
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut characters = Vec::new();
        for value in list.iter().flat_map(|list| &list.elements) {
            let Some(name) = self.name(Some(value), NAME) else {
                continue;
            };
            if !known.insert(name.clone()) {
                let message = format!("\"{NAME}\" has {name:?} twice");
                self.problems
                    .add(span(value), message, "remove one of them");
            }
            characters.push(name);
        }
        characters
    }

    /// What the story calls a character or a place.
    fn name(&mut self, value: Option<&Value<'_>>, key: &str) -> Option<String> {
        let value = value?;
        let name = json::text(&mut self.problems, value, key)?;
        if name.trim().is_empty() {
            let message = format!("\"{key}\" has an empty name");
            let help = "write the name that it has in the other shots, too, or leave it out";
            self.problems.add(span(value), message, help);
        }
        Some(name)
    }
}

impl ShotDraft {
    fn finish(self) -> (ShotScript, ShotNotes) {
        let shot = ShotScript {
            prompt: self.caption,
            first_frame_prompt: None,
            cut: true,
        };
        (shot, self.notes)
    }
}

/// The story, for messages.
fn of(story: Option<&StoryId>) -> String {
    story.map_or_else(String::new, |story| format!(" (story {story})"))
}
