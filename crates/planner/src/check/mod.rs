//! What a script must be beyond its form, and what can be mended without a model.
//!
//! The rules of advertisements are those of EAVSD (Narrative Weaver specification, section 1.1):
//! prompts of keyframes speak of action, surroundings and camera, never of what people wear or
//! who they are, and the film shows the product.

mod mend;
mod words;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storyloom_story::{Brief, BriefKind, is_control};

pub use mend::mend;

use crate::naming::name_of;
use crate::schema::{Bounds, Draft};

/// A rule that scripts can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The answer is the JSON that was asked for.
    Form,
    /// There are as many shots as the brief wants.
    ShotCount,
    /// The first shot opens with a cut.
    FirstCut,
    /// Texts are plain: a control character in a prompt is a mistake, or meant for somebody's terminal.
    Control,
    /// Prompts say something.
    Empty,
    /// Prompts fit the text encoder.
    Length,
    /// No two shots have the same prompt.
    Repeated,
    /// Prompts are in the language of the brief.
    Language,
    /// Keyframes of an advertisement have nothing about clothes or identity in them.
    Identity,
    /// An advertisement shows its product.
    Product,
}

/// One way in which a script breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The shot, from 1, if it is about one.
    pub shot: Option<usize>,
    /// What is wrong and what to do, for a model and for people.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shot {
            Some(shot) => write!(f, "shot {shot}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The control characters in an answer, before anything of it is mended: they are refused in what models
/// write as in what people write.
pub fn control_characters(answer: &impl Serialize) -> Vec<Finding> {
    let mut found = Vec::new();
    // Plain data becomes JSON.
    let answer = serde_json::to_value(answer).unwrap_or_default();
    find_control("answer", None, &answer, &mut found);
    found
}

fn find_control(name: &str, shot: Option<usize>, value: &Value, found: &mut Vec<Finding>) {
    match value {
        Value::String(text) => {
            if let Some(c) = text.chars().find(|&c| is_control(c)) {
                let message =
                    format!("the {name} has the control character {c:?} in it; write plain text");
                found.push(Finding {
                    rule: Rule::Control,
                    shot,
                    message,
                });
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                find_control(name, shot, value, found);
            }
        }
        Value::Array(list) => {
            for (value, number) in list.iter().zip(1..) {
                let shot = if name == "shots" { Some(number) } else { shot };
                find_control(name, shot, value, found);
            }
        }
        _ => {}
    }
}

/// Everything that is wrong with a draft; nothing for one that can be used.
pub fn check(draft: &Draft, brief: &Brief, bounds: &Bounds) -> Vec<Finding> {
    let mut checker = Checker {
        draft,
        brief,
        bounds,
        found: Vec::new(),
    };
    checker.shots();
    for position in 1..=draft.shots.len() {
        checker.shot(position);
    }
    checker.repeated();
    if brief.kind() == BriefKind::Ad {
        checker.product();
    }
    checker.found
}

struct Checker<'a> {
    draft: &'a Draft,
    brief: &'a Brief,
    bounds: &'a Bounds,
    found: Vec<Finding>,
}

impl Checker<'_> {
    fn add(&mut self, rule: Rule, shot: Option<usize>, message: impl Into<String>) {
        let message = message.into();
        self.found.push(Finding {
            rule,
            shot,
            message,
        });
    }

    fn shots(&mut self) {
        let (found, wanted) = (self.draft.shots.len(), self.bounds.shots);
        if found != wanted as usize {
            let message = format!("there are {found} shots; write exactly {wanted}");
            self.add(Rule::ShotCount, None, message);
        }
        if self.draft.shots.first().is_some_and(|shot| !shot.cut) {
            let message = "nothing comes before it, so \"cut\" must be true";
            self.add(Rule::FirstCut, Some(1), message);
        }
    }

    fn shot(&mut self, position: usize) {
        let draft = self.draft;
        let shot = &draft.shots[position - 1];
        for (name, text) in [("prompt", &shot.prompt), ("keyframe", &shot.keyframe)] {
            self.text(position, name, text);
        }
        if self.brief.kind() == BriefKind::Ad {
            self.identity(position, &shot.keyframe);
        }
    }

    fn text(&mut self, position: usize, name: &str, text: &str) {
        let length = text.chars().count();
        let shot = Some(position);
        if text.trim().chars().count() < Bounds::LEAST_PROMPT as usize {
            let message = format!("the {name} says too little; describe what is to be seen");
            return self.add(Rule::Empty, shot, message);
        }
        if length > self.bounds.prompt as usize {
            let message = format!(
                "the {name} has {length} characters; use at most {}",
                self.bounds.prompt
            );
            self.add(Rule::Length, shot, message);
        }
        let language = &self.brief.language;
        if !words::is_written_in(text, &language.primary()) {
            let message = format!(
                "the {name} is not in the language {language:?}; translate it",
                language = language.tag()
            );
            self.add(Rule::Language, shot, message);
        }
    }

    /// The lists of words are English; prompts in other languages are only asked to keep the rule.
    fn identity(&mut self, position: usize, keyframe: &str) {
        if self.brief.language.primary() != "en" {
            return;
        }
        // A studio that sells coats must be able to say so.
        let product = self.product_names().join(" ");
        let found = words::identity_details(keyframe, &product);
        if !found.is_empty() {
            let message = format!(
                "the keyframe says {}; leave out clothes and looks of people, which come from the \
                 reference picture, and tell action, surroundings and camera instead",
                quoted(&found)
            );
            self.add(Rule::Identity, Some(position), message);
        }
    }

    fn repeated(&mut self) {
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        let draft = self.draft;
        for (position, shot) in (1..).zip(&draft.shots) {
            let plain = shot.prompt.trim().to_lowercase();
            if let Some(earlier) = first.get(&plain).copied() {
                let message =
                    format!("the prompt is the same as that of shot {earlier}; show something new");
                self.add(Rule::Repeated, Some(position), message);
            } else {
                first.insert(plain, position);
            }
        }
    }

    /// What the product may be called.
    fn product_names(&self) -> Vec<&str> {
        let names = [self.draft.product.as_deref(), self.brief.title.as_deref()];
        names.into_iter().flatten().collect()
    }

    /// At least every second shot names the product, and so does the last.
    fn product(&mut self) {
        // What stands beside the name in a title, as in "Lamp: light that waits", is in any film.
        let title = self.brief.title.as_deref().map(name_of);
        let names = [self.draft.product.as_deref(), title];
        let names = words::names_of(&names.into_iter().flatten().collect::<Vec<_>>());
        if names.is_empty() {
            let message = "\"product\" must say what the product is called";
            return self.add(Rule::Product, None, message);
        }
        let shows = |prompt: &str| words::mentions(prompt, &names);
        let shots = &self.draft.shots;
        let shown = shots.iter().filter(|shot| shows(&shot.prompt)).count();
        let wanted = shots.len().div_ceil(2);
        let last = shots.last().is_some_and(|shot| !shows(&shot.prompt));
        let count = shots.len();
        if shown < wanted {
            let message = format!(
                "only {shown} of {count} prompts name the product; name it in at least {wanted}, by one of {}",
                quoted(&names)
            );
            self.add(Rule::Product, None, message);
        }
        if last {
            let message = format!(
                "the last shot must show the product: name it, by one of {}",
                quoted(&names)
            );
            self.add(Rule::Product, Some(count), message);
        }
    }
}

fn quoted(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use storyloom_story::{Language, StoryId};

    use super::*;
    use crate::schema::DraftShot;

    fn brief(title: &str) -> Brief {
        Brief {
            title: Some(title.to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new("a").unwrap())
        }
    }

    fn shot(prompt: &str, keyframe: &str, cut: bool) -> DraftShot {
        DraftShot {
            scene: 1,
            cut,
            prompt: prompt.to_owned(),
            keyframe: keyframe.to_owned(),
        }
    }

    fn good() -> Draft {
        Draft {
            title: "Ember".to_owned(),
            overview: "A kettle.".to_owned(),
            product: Some("black kettle".to_owned()),
            shots: vec![
                shot(
                    "Wide shot of a cabin at dawn, frost on the glass.",
                    "A cabin kitchen, low angle.",
                    true,
                ),
                shot(
                    "Close-up: the kettle steams in warm light.",
                    "A kettle steams on a stove, close.",
                    false,
                ),
            ],
        }
    }

    fn rules(draft: &Draft, brief: &Brief) -> Vec<(Rule, Option<usize>)> {
        let bounds = Bounds::of(brief, 120);
        let found = check(draft, brief, &bounds);
        found
            .iter()
            .map(|finding| (finding.rule, finding.shot))
            .collect()
    }

    #[test]
    fn a_good_draft_passes() {
        assert_eq!(rules(&good(), &brief("Ember Kettle")), []);
    }

    #[test]
    fn every_rule_is_checked() {
        let brief = brief("Ember Kettle");
        let change = |change: &dyn Fn(&mut Draft)| {
            let mut draft = good();
            change(&mut draft);
            rules(&draft, &brief)
        };
        let one = change(&|draft| drop(draft.shots.remove(0)));
        assert_eq!(one, [(Rule::ShotCount, None), (Rule::FirstCut, Some(1))]);
        let blank = change(&|draft| draft.shots[0].keyframe = "  x ".to_owned());
        assert_eq!(blank, [(Rule::Empty, Some(1))]);
        let long = change(&|draft| draft.shots[0].prompt = "a long shot ".repeat(11));
        assert_eq!(long, [(Rule::Length, Some(1))]);
        let twice = change(&|draft| draft.shots[0].prompt = draft.shots[1].prompt.to_uppercase());
        assert_eq!(twice, [(Rule::Repeated, Some(2))]);
        let dressed = change(&|draft| {
            draft.shots[0].keyframe = "A blonde woman in a red coat by a window.".to_owned();
        });
        assert_eq!(dressed, [(Rule::Identity, Some(1))]);
        let gone =
            change(&|draft| draft.shots[1].prompt = "Steam rises in warm light, close.".to_owned());
        assert_eq!(gone, [(Rule::Product, None), (Rule::Product, Some(2))]);
        let foreign = change(&|draft| {
            draft.shots[0].prompt = "黎明时分的小屋全景，窗户上结着霜，光线温暖而柔和".to_owned();
        });
        assert_eq!(foreign, [(Rule::Language, Some(1))]);
    }

    #[test]
    fn control_characters_are_found_wherever_they_are() {
        assert_eq!(control_characters(&good()), []);
        let mut draft = good();
        draft.shots[1].prompt.push_str(" \u{1b}[31m");
        draft.title = "a\u{9b}b".to_owned();
        draft.overview = "two\nlines and a\ttab".to_owned();
        let found = control_characters(&draft);
        let of = |shot| found.iter().find(|finding| finding.shot == shot);
        assert!(found.iter().all(|finding| finding.rule == Rule::Control));
        let (prompt, title) = (of(Some(2)).unwrap(), of(None).unwrap());
        assert_eq!(found.len(), 2);
        let wanted = "shot 2: the prompt has the control character '\\u{1b}' in it";
        assert!(prompt.to_string().starts_with(wanted), "{prompt}");
        assert!(title.message.starts_with("the title has"), "{title}");
    }

    #[test]
    fn words_beside_the_name_in_a_title_do_not_show_the_product() {
        let lamp = brief("Harbour lamp: light that waits at dawn");
        let missing = [(Rule::Product, None), (Rule::Product, Some(2))];
        let mut draft = good();
        draft.product = Some("lamp".to_owned());
        draft.shots[1].prompt = "Close-up: steam rises in warm light.".to_owned();
        assert_eq!(rules(&draft, &lamp), missing);
        draft.shots[1].prompt = "Close-up: the lamp in warm light.".to_owned();
        assert_eq!(rules(&draft, &lamp), []);
    }

    #[test]
    fn clothes_may_be_the_product() {
        let coat = brief("Northwind Rain Coat");
        let mut draft = good();
        draft.product = Some("rain coat".to_owned());
        for shot in &mut draft.shots {
            shot.prompt = format!("{} The coat is there.", shot.prompt);
            shot.keyframe = "A yellow coat on a hook by the door, close.".to_owned();
        }
        assert_eq!(rules(&draft, &coat), []);
        draft.shots[0].keyframe = "A coat over blue jeans by the door.".to_owned();
        assert_eq!(rules(&draft, &coat), [(Rule::Identity, Some(1))]);
    }

    #[test]
    fn stories_of_ideas_may_dress_their_people() {
        let mut story = Brief {
            idea: Some("a fox".to_owned()),
            title: None,
            ..brief("x")
        };
        let mut draft = good();
        draft.product = None;
        draft.shots[0].keyframe = "A blonde woman in a red coat by a window.".to_owned();
        assert_eq!(rules(&draft, &story), []);
        story.language = Language::new("zh").unwrap();
        assert_eq!(rules(&draft, &story).len(), 4);
    }
}
