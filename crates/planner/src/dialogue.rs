//! Getting a script out of a model: asking, checking, mending, asking again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storyloom_pictures::Picture;
use storyloom_story::{Brief, BriefKind, ErrorClass, Seed};

use crate::capability::needs_eyes;
use crate::chat::{Chat, ChatError, ChatMessage, ChatRequest, Flaw, Role, TokenCount};
use crate::check::{Finding, Rule, check, control_characters, mend};
use crate::naming::clipped;
use crate::planner::{PlanError, PlannedScript};
use crate::prompts::{PromptError, Prompts};
use crate::schema::{Bounds, Caption, Draft, DraftShot, Reference, Scenarios, Schema, read_answer};

/// How many questions a script takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steps {
    /// One: the whole script.
    Script,
    /// As EAVSD was made (Narrative Weaver specification, section 1.1): a reference picture, then
    /// scenarios, then the prompts of each shot.
    Staged,
}

/// What a conversation needs besides its brief.
#[derive(Debug)]
pub(crate) struct Interview<'a> {
    pub(crate) chat: &'a dyn Chat,
    pub(crate) prompts: &'a Prompts,
    pub(crate) steps: Steps,
    /// How often a model is asked to put an answer right.
    pub(crate) repairs: u32,
    /// Most tokens of an answer.
    pub(crate) max_tokens: u32,
    pub(crate) bounds: Bounds,
    pub(crate) brief: &'a Brief,
    pub(crate) picture: Option<Arc<Picture>>,
    pub(crate) seed: Seed,
}

impl std::fmt::Debug for dyn Chat + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.identity().fmt(f)
    }
}

/// A conversation that goes on.
struct Talk<'i, 'a> {
    interview: &'i Interview<'a>,
    turns: Vec<ChatMessage>,
    /// Questions so far; part of the seed of the next.
    asked: u64,
    repairs: u32,
    tokens: TokenCount,
    /// Everything the model said, one answer after the other.
    raw: String,
    /// What is wrong with the last answer besides its words.
    flaw: Option<Flaw>,
    /// What was wrong with the one before, if that was told to the model.
    told: Option<Flaw>,
    /// How the server had to be asked.
    departures: Vec<String>,
    /// Whether the model was ever not shown the picture.
    unseen: bool,
}

impl Interview<'_> {
    /// Asks until there is a script that can be used, or until it was asked often enough.
    pub(crate) fn hold(&self) -> Result<PlannedScript, PlanError> {
        let mut talk = Talk {
            interview: self,
            turns: Vec::new(),
            asked: 0,
            repairs: 0,
            tokens: TokenCount::default(),
            raw: String::new(),
            flaw: None,
            told: None,
            departures: Vec::new(),
            unseen: false,
        };
        let result = match self.steps {
            Steps::Script => talk.whole(),
            Steps::Staged => talk.staged(),
        };
        let raw = talk.raw;
        let seen = self.picture.as_ref().filter(|_| !talk.unseen);
        match result {
            Ok(Written {
                draft,
                reference,
                notes,
            }) => Ok(PlannedScript {
                script: draft.into_script(),
                reference,
                picture: seen.map(|seen| seen.sha256.clone()),
                raw,
                repairs: talk.repairs,
                notes,
                departures: talk.departures,
                tokens: talk.tokens,
            }),
            Err(error) => Err(PlanError { raw, ..error }),
        }
    }
}

/// A script that keeps all rules.
struct Written {
    draft: Draft,
    reference: Option<String>,
    notes: Vec<String>,
}

impl Talk<'_, '_> {
    /// One question for everything.
    fn whole(&mut self) -> Result<Written, PlanError> {
        let Interview {
            prompts,
            bounds,
            brief,
            ..
        } = self.interview;
        self.begin()?;
        let schema = bounds.script();
        self.turns
            .push(ChatMessage::user(prompts.script(brief, bounds)?));
        let answer = self.ask(&schema)?;
        self.until_right(answer, &schema)
    }

    /// Reference, scenarios, then shot by shot.
    fn staged(&mut self) -> Result<Written, PlanError> {
        let Interview {
            prompts,
            bounds,
            brief,
            ..
        } = self.interview;
        self.begin()?;
        let schema = bounds.reference();
        self.turns
            .push(ChatMessage::user(prompts.reference(brief, bounds)?));
        let reference: Reference = self.read(&schema)?;
        let schema = bounds.scenarios();
        let question = prompts.scenarios(brief, bounds, &reference)?;
        self.turns.push(ChatMessage::user(question));
        let scenarios: Scenarios = self.read(&schema)?;
        let mut shots = Vec::new();
        for (scenario, number) in scenarios.shots.iter().zip(1..=bounds.shots as usize) {
            let subject = &reference.subject;
            let question = prompts.caption(brief, bounds, subject, number, scenario)?;
            self.turns.push(ChatMessage::user(question));
            let Caption { prompt, keyframe } = self.read(&bounds.caption())?;
            shots.push(DraftShot {
                scene: scenario.scene,
                cut: scenario.cut,
                prompt,
                keyframe,
            });
        }
        let ad = brief.kind() == BriefKind::Ad;
        let draft = Draft {
            title: scenarios.title,
            overview: scenarios.overview,
            product: ad.then(|| reference.subject.clone()),
            shots,
        };
        // Repairs are asked for as in the other way: the whole script stands in for the last answer.
        let answer = serde_json::to_string(&draft).unwrap_or_default();
        self.turns.truncate(1);
        self.turns
            .push(ChatMessage::user(prompts.script(brief, bounds)?));
        let written = self.until_right(answer, &bounds.script())?;
        Ok(Written {
            reference: Some(reference.prompt),
            ..written
        })
    }

    fn begin(&mut self) -> Result<(), PlanError> {
        let Interview {
            prompts,
            bounds,
            brief,
            ..
        } = self.interview;
        self.turns.push(ChatMessage {
            role: Role::System,
            text: prompts.system(brief, bounds)?,
        });
        Ok(())
    }

    /// Checks an answer and has it put right, a bounded number of times.
    fn until_right(&mut self, first: String, schema: &Schema) -> Result<Written, PlanError> {
        let mut answer = first;
        loop {
            let findings = match self.judge(&answer) {
                Ok(written) => return Ok(written),
                Err(findings) => findings,
            };
            answer = self.again(answer, &findings, schema)?;
        }
    }

    fn judge(&self, answer: &str) -> Result<Written, Vec<Finding>> {
        let Interview { bounds, brief, .. } = self.interview;
        let mut draft: Draft =
            read_answer(answer).map_err(|reason| vec![self.malformed(&reason)])?;
        let unclean = control_characters(&draft);
        if !unclean.is_empty() {
            return Err(unclean);
        }
        let notes = mend(&mut draft, brief, bounds);
        let findings = check(&draft, brief, bounds);
        if !findings.is_empty() {
            return Err(findings);
        }
        Ok(Written {
            draft,
            reference: None,
            notes,
        })
    }

    /// Asks, and asks again until the answer has its form.
    fn read<T: Serialize + for<'de> Deserialize<'de>>(
        &mut self,
        schema: &Schema,
    ) -> Result<T, PlanError> {
        let mut answer = self.ask(schema)?;
        loop {
            match read_answer::<T>(&answer) {
                Ok(value) => {
                    let findings = control_characters(&value);
                    if findings.is_empty() {
                        self.turns.push(ChatMessage::assistant(answer));
                        return Ok(value);
                    }
                    answer = self.again(answer, &findings, schema)?;
                }
                Err(reason) => {
                    let finding = self.malformed(&reason);
                    answer = self.again(answer, &[finding], schema)?;
                }
            }
        }
    }

    /// Says what is wrong with an answer and asks again.
    fn again(
        &mut self,
        answer: String,
        findings: &[Finding],
        schema: &Schema,
    ) -> Result<String, PlanError> {
        let Interview {
            prompts, repairs, ..
        } = self.interview;
        let ill_formed = findings.iter().any(|finding| finding.rule == Rule::Form);
        let flaw = self.flaw.take().filter(|_| ill_formed);
        let again = flaw.is_some() && flaw == self.told;
        if self.repairs >= *repairs || again {
            return Err(match flaw {
                Some(flaw) => self.set_aside(&flaw, &answer),
                None => unusable(findings, self.repairs),
            });
        }
        self.repairs += 1;
        let before = self.turns.len();
        let hint = prompts.repair(findings, schema)?;
        let useless = flaw == Some(Flaw::CutOff) || answer.trim().is_empty();
        let last_text = self.turns.last().map(|turn| turn.text.clone());
        self.told = flaw;
        match (useless, self.turns.last_mut()) {
            // Two things that we say in a row are refused by some templates of chats.
            (true, Some(last)) => last.text = format!("{}\n\n{hint}", last.text),
            _ => self
                .turns
                .extend([ChatMessage::assistant(answer), ChatMessage::user(hint)]),
        }
        let answer = self.ask(schema)?;
        // Only the last attempt and what is wrong with it go into the next question.
        self.turns.truncate(before);
        if let (Some(last), Some(last_text)) = (self.turns.last_mut(), last_text) {
            last.text = last_text;
        }
        Ok(answer)
    }

    /// What is wrong with an answer that has not its form, for the model.
    fn malformed(&self, reason: &str) -> Finding {
        let message = match &self.flaw {
            Some(flaw) => flaw_for_model(flaw, reason),
            None => format!("it is not the JSON object that was asked for: {reason}"),
        };
        Finding {
            rule: Rule::Form,
            shot: None,
            message,
        }
    }

    /// What is wrong with answers that have no words for a script, for people.
    fn set_aside(&self, flaw: &Flaw, answer: &str) -> PlanError {
        let Interview {
            max_tokens, bounds, ..
        } = self.interview;
        let message = flaw_for_people(flaw, answer, (*max_tokens, bounds.shots));
        let otherwise = match self.departures.is_empty() {
            true => String::new(),
            false => format!(" (asked with {})", self.departures.join("; ")),
        };
        PlanError::hopeless(format!("{message}{otherwise}"))
    }

    fn ask(&mut self, schema: &Schema) -> Result<String, PlanError> {
        let request = ChatRequest {
            turns: self.turns.clone(),
            picture: self.interview.picture.clone(),
            schema: schema.clone(),
            seed: seed_of(self.interview.seed, self.asked),
            needs_picture: needs_eyes(self.interview.brief),
        };
        self.asked += 1;
        let reply = self.interview.chat.ask(&request)?;
        self.tokens += reply.tokens;
        self.flaw = reply.flaw;
        self.unseen |= reply.unseen;
        for departure in reply.departures {
            if !self.departures.contains(&departure) {
                self.departures.push(departure);
            }
        }
        if !self.raw.is_empty() {
            self.raw.push_str("\n\n");
        }
        self.raw.push_str(&reply.text);
        Ok(reply.text)
    }
}

/// The seed of a question of a conversation.
fn seed_of(seed: Seed, question: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"storyloom plan question 1\0");
    hasher.update(&seed.0.to_le_bytes());
    hasher.update(&question.to_le_bytes());
    let mut first = [0_u8; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// What is wrong with an answer, and what the model can do about it.
fn flaw_for_model(flaw: &Flaw, reason: &str) -> String {
    match flaw {
        Flaw::CutOff => {
            "your answer was cut off, since it was too long; do not think aloud, write \
                         shorter texts, and answer with the JSON object at once"
                .to_owned()
        }
        Flaw::Filtered => {
            "a filter kept your answer back; say the same in harmless words".to_owned()
        }
        Flaw::Refused => {
            "you declined; leave out what you object to, and answer with the JSON object".to_owned()
        }
        Flaw::ToolCalls(_) => {
            "you called a tool, and there is none; answer with the JSON object itself".to_owned()
        }
        Flaw::OnlyThoughts => {
            "there were only thoughts; do not think aloud, answer with the JSON object".to_owned()
        }
        Flaw::Empty => format!("your answer was empty ({reason}); answer with the JSON object"),
    }
}

/// What is wrong with the answers, and what people can do about it.
fn flaw_for_people(flaw: &Flaw, answer: &str, (max_tokens, shots): (u32, u32)) -> String {
    match flaw {
        Flaw::CutOff => format!(
            "the answer was cut off at the limit of tokens, also when it was asked to be shorter: raise \
             planner.max_tokens (now {max_tokens}), ask for fewer shots than {shots}, or set \
             planner.steps = \"staged\""
        ),
        Flaw::Filtered => {
            "a content filter of the server kept the answer back: change the words or the \
                           picture of the brief"
                .to_owned()
        }
        Flaw::Refused => format!("the model declines to answer: {}", clipped(answer, 200)),
        Flaw::ToolCalls(names) => format!(
            "the answer has no words but tool calls only ({}): serve the model without tools, or set \
             planner.model to another one",
            names.join(", ")
        ),
        Flaw::OnlyThoughts => format!(
            "the answer has only reasoning and no content: serve the model so that it does not think \
             aloud, raise planner.max_tokens (now {max_tokens}), or set planner.model to another one"
        ),
        Flaw::Empty => {
            "the answer has no content, and the server does not say why: look into its log, \
                        or change the words of the brief"
                .to_owned()
        }
    }
}

fn unusable(findings: &[Finding], repairs: u32) -> PlanError {
    const SHOWN: usize = 5;
    let mut reasons: Vec<_> = findings
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if findings.len() > SHOWN {
        reasons.push(format!("and {} more", findings.len() - SHOWN));
    }
    let message = format!(
        "the script still cannot be used after {repairs} repairs: {}",
        reasons.join("; ")
    );
    PlanError::new(ErrorClass::Shot, message)
}

impl From<ChatError> for PlanError {
    fn from(error: ChatError) -> Self {
        Self {
            outlook: error.outlook,
            ..Self::new(error.class, error.message)
        }
    }
}

impl From<PromptError> for PlanError {
    fn from(error: PromptError) -> Self {
        Self::new(ErrorClass::Run, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use storyloom_story::StoryId;

    use super::*;
    use crate::chat::{ChatReply, ModelIdentity};

    /// Says what it was told to say, and remembers what it was asked.
    struct Parrot {
        answers: Mutex<Vec<String>>,
        asked: Mutex<Vec<ChatRequest>>,
    }

    impl Parrot {
        fn saying(answers: &[&str]) -> Self {
            let answers = answers.iter().rev().map(|answer| (*answer).to_owned());
            Self {
                answers: Mutex::new(answers.collect()),
                asked: Mutex::default(),
            }
        }
    }

    impl Chat for Parrot {
        fn identity(&self) -> ModelIdentity {
            ModelIdentity {
                name: "parrot".to_owned(),
                digest: None,
                endpoint: None,
                dtype: None,
                picture_side: None,
            }
        }

        fn capacity(&self) -> usize {
            1
        }

        fn ask(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
            self.asked.lock().unwrap().push(request.clone());
            let text = self.answers.lock().unwrap().pop();
            let text = text.ok_or_else(|| ChatError::new(ErrorClass::ServiceAway, "gone"))?;
            let tokens = TokenCount {
                prompt: 10,
                completion: 1,
            };
            Ok(ChatReply {
                text,
                tokens,
                ..ChatReply::default()
            })
        }
    }

    fn brief() -> Brief {
        Brief {
            title: Some("Ember Kettle".to_owned()),
            shots: 2,
            ..Brief::new(StoryId::new("a").unwrap())
        }
    }

    fn hold(parrot: &Parrot, steps: Steps, repairs: u32) -> Result<PlannedScript, PlanError> {
        let prompts = Prompts::load(None).unwrap();
        let brief = brief();
        let interview = Interview {
            chat: parrot,
            prompts: &prompts,
            steps,
            repairs,
            max_tokens: 100,
            bounds: Bounds::of(&brief, 200),
            brief: &brief,
            picture: Some(Arc::new(Picture {
                pixels: image::RgbImage::new(1, 1),
                sha256: "its digest".to_owned(),
            })),
            seed: Seed(5),
        };
        interview.hold()
    }

    const GOOD: &str = r#"{"title": "T", "overview": "O", "product": "kettle", "shots": [
        {"scene": 1, "cut": false, "prompt": "Wide shot: a cold kitchen in blue light.", "keyframe": "A cold kitchen, wide."},
        {"scene": 2, "cut": true, "prompt": "Close-up: the kettle steams in warm light.", "keyframe": "A kettle on a stove, close."}]}"#;

    #[test]
    fn a_right_answer_is_taken_and_small_mistakes_are_mended() {
        let parrot = Parrot::saying(&[GOOD]);
        let planned = hold(&parrot, Steps::Script, 0).unwrap();
        assert_eq!(planned.script.shot_count(), 2);
        assert_eq!(planned.repairs, 0);
        assert_eq!(planned.notes, ["made the first shot open with a cut"]);
        assert_eq!(planned.tokens.prompt, 10);
        assert_eq!(planned.raw, GOOD);
        assert_eq!(planned.picture.as_deref(), Some("its digest"));
    }

    #[test]
    fn wrong_answers_are_told_what_is_wrong_a_bounded_number_of_times() {
        let undressed = GOOD.replace("A cold kitchen, wide.", "A woman in a red coat, wide.");
        let parrot = Parrot::saying(&["no", &undressed, GOOD]);
        let planned = hold(&parrot, Steps::Script, 2).unwrap();
        assert_eq!(planned.repairs, 2);
        let asked = parrot.asked.lock().unwrap();
        let last = |request: &ChatRequest| request.turns.last().unwrap().text.clone();
        assert!(
            last(&asked[1]).contains("no JSON object"),
            "{}",
            last(&asked[1])
        );
        assert!(
            last(&asked[2]).contains("shot 1: the keyframe says \"coat\""),
            "{}",
            last(&asked[2])
        );
        assert_eq!(asked[2].turns.len(), 4, "only the last attempt is shown");
        let seeds: std::collections::BTreeSet<_> =
            asked.iter().map(|request| request.seed).collect();
        assert_eq!(seeds.len(), 3);

        let parrot = Parrot::saying(&["no", "never", GOOD]);
        let error = hold(&parrot, Steps::Script, 1).unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot);
        assert!(error.message.contains("after 1 repairs"), "{error}");
        assert_eq!(error.raw, "no\n\nnever");
    }

    #[test]
    fn control_characters_are_told_and_asked_for_again() {
        let unclean = GOOD.replace("in blue light", "in \\u001b[31mblue light");
        let parrot = Parrot::saying(&[&unclean, GOOD]);
        let planned = hold(&parrot, Steps::Script, 1).unwrap();
        assert_eq!(planned.repairs, 1);
        let asked = parrot.asked.lock().unwrap();
        let hint = &asked[1].turns.last().unwrap().text;
        assert!(
            hint.contains("shot 1: the prompt has the control character"),
            "{hint}"
        );
        drop(asked);

        let parrot = Parrot::saying(&[&unclean]);
        let error = hold(&parrot, Steps::Script, 0).unwrap_err();
        assert_eq!(error.class, ErrorClass::Shot);
    }

    #[test]
    fn the_staged_way_asks_for_reference_scenarios_and_captions() {
        let caption = |text: &str| format!("{{\"prompt\": \"{text}\", \"keyframe\": \"{text}\"}}");
        let parrot = Parrot::saying(&[
            r#"{"subject": "black kettle", "prompt": "A black kettle on grey paper, soft light."}"#,
            r#"{"title": "T", "overview": "O", "shots": [
                {"scene": 1, "cut": true, "idea": "cold kitchen at dawn"},
                {"scene": 1, "cut": false, "idea": "the kettle steams"}]}"#,
            &caption("Wide shot: a cold kitchen in blue light."),
            &caption("Close-up: the kettle steams in warm light."),
        ]);
        let planned = hold(&parrot, Steps::Staged, 0).unwrap();
        assert_eq!(planned.script.shot_count(), 2);
        assert_eq!(planned.tokens.completion, 4);
        assert!(planned.reference.unwrap().contains("grey paper"));
        let asked = parrot.asked.lock().unwrap();
        let names: Vec<_> = asked.iter().map(|request| request.schema.name).collect();
        assert_eq!(names, ["reference", "scenarios", "caption", "caption"]);
        assert!(
            asked[3]
                .turns
                .last()
                .unwrap()
                .text
                .contains("the kettle steams")
        );
    }

    #[test]
    fn who_is_away_is_not_the_fault_of_a_brief() {
        let error = hold(&Parrot::saying(&[]), Steps::Script, 3).unwrap_err();
        assert_eq!(error.class, ErrorClass::ServiceAway);
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        let first = Parrot::saying(&["x", GOOD]);
        let second = Parrot::saying(&["x", GOOD]);
        assert_eq!(
            hold(&first, Steps::Script, 1),
            hold(&second, Steps::Script, 1)
        );
        let seeds = |parrot: &Parrot| -> Vec<u64> {
            let asked = parrot.asked.lock().unwrap();
            asked.iter().map(|request| request.seed).collect()
        };
        assert_eq!(seeds(&first), seeds(&second));
    }
}
