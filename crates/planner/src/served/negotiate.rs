//! Finding out whose fault a refusal is, and asking in another way where that helps.

use std::sync::PoisonError;

use storyloom_story::ErrorClass;

use super::agreement::Agreement;
use super::refusal::{Complaint, Meaning};
use super::terms::{Knob, TABLE, Terms};
use super::{Served, wire};
use crate::chat::{ChatError, ChatMessage, ChatRequest, Role};
use crate::schema::Bounds;

/// A question that was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Everything that is to be told of it.
    pub(super) message: String,
    /// What the server said.
    pub(super) complaint: Complaint,
}

/// How a question was asked.
pub(super) struct Asked<'a> {
    pub(super) request: &'a ChatRequest,
    pub(super) terms: &'a Terms,
    /// Number of these terms.
    pub(super) version: u64,
}

impl Served {
    /// Sees to it that the same question can be asked again in another way.
    ///
    /// # Errors
    /// It cannot: the question is at fault, or everything is.
    pub(super) fn settle(&self, asked: &Asked, refusal: &Refusal) -> Result<(), ChatError> {
        let agreement: &Agreement = &self.agreement;
        let talks = agreement.talks.lock();
        let _talks = talks.unwrap_or_else(PoisonError::into_inner);
        if agreement.terms().1 != asked.version {
            // Another question has settled it meanwhile, or something else; that is seen soon.
            return Ok(());
        }
        let terms = self.better_terms(asked, refusal)?;
        for departure in agreement.change(terms) {
            tracing::warn!("{}; from now on: {departure}", refusal.message);
        }
        Ok(())
    }

    fn better_terms(&self, asked: &Asked, refusal: &Refusal) -> Result<Terms, ChatError> {
        let mut terms = asked.terms.clone();
        let bytes = wire::bytes_of(asked.request);
        let most = terms.most_for(bytes);
        let limited = terms.has(Knob::Limit);
        let changed = match refusal.complaint.meaning(&terms, most) {
            Meaning::Model => return Err(no_model(refusal)),
            Meaning::Filtered => return Err(filtered(refusal)),
            Meaning::TooLong => return Err(too_long(refusal)),
            Meaning::Window { tokens, question } => {
                if !limited || !terms.learn_window(tokens, question, bytes) {
                    return Err(too_long(refusal));
                }
                terms.most_for(bytes) < most || terms.ask_for_less(None)
            }
            Meaning::Less(bound) => limited && terms.ask_for_less(bound),
            Meaning::Option(Knob::Picture) if asked.request.picture.is_none() => false,
            Meaning::Option(knob) => terms.yield_in(knob),
            Meaning::Unknown => false,
        };
        match changed {
            true => Ok(terms),
            false => self.terms_of_trial(asked.terms, refusal),
        }
    }

    /// Asks small questions, to find out whether the refused one was at fault, and what is
    /// otherwise.
    fn terms_of_trial(&self, terms: &Terms, refusal: &Refusal) -> Result<Terms, ChatError> {
        let Err(again) = self.try_out(terms)? else {
            return Err(of_brief(refusal));
        };
        let mut one = terms.clone();
        match again.complaint.meaning(terms, terms.most_for(0)) {
            Meaning::Option(knob) if one.yield_in(knob) => return Ok(one),
            Meaning::Model => return Err(no_model(&again)),
            _ => {}
        }
        // With as little as possible.
        let mut bare = terms.clone();
        let kept = [Knob::Stream, Knob::Picture];
        for row in TABLE.iter().filter(|row| !kept.contains(&row.knob)) {
            bare.leave_out(row.knob);
        }
        if self.try_out(&bare)?.is_err() {
            return Err(of_all(&again));
        }
        // It is something among them, and the server does not say what.
        for row in &TABLE {
            let mut one = terms.clone();
            while one.yield_in(row.knob) {
                if self.try_out(&one)?.is_ok() {
                    return Ok(one);
                }
            }
        }
        Ok(bare)
    }

    /// Asks a small question that has all parts of a large one.
    fn try_out(&self, terms: &Terms) -> Result<Result<(), Refusal>, ChatError> {
        let bounds = Bounds {
            shots: 1,
            prompt: 200,
            product: true,
        };
        let request = ChatRequest {
            turns: vec![
                ChatMessage {
                    role: Role::System,
                    text: "You write scripts of short films as JSON.".to_owned(),
                },
                ChatMessage::user(
                    "Write a script of one shot, of a cup on a table, as a JSON object with \
                     \"title\", \"overview\", \"product\" and \"shots\": a list of one object with \
                     \"scene\" (1), \"cut\" (true), \"prompt\" and \"keyframe\".",
                ),
            ],
            picture: None,
            schema: bounds.script(),
            seed: 0,
            needs_picture: false,
        };
        let body = wire::request_body(&request, &self.settings, terms);
        let body = body.map_err(|reason| ChatError::new(ErrorClass::Run, reason))?;
        let answer = self.persist(&body.into(), request.seed, terms)?;
        Ok(answer.map(drop))
    }
}

fn no_model(refusal: &Refusal) -> ChatError {
    let message = format!(
        "{}; set planner.model to the name of a model that the server has",
        refusal.message
    );
    ChatError::new(ErrorClass::Run, message)
}

fn filtered(refusal: &Refusal) -> ChatError {
    let message = format!(
        "{}; a filter of the server objects to the words of this brief or its picture: change them",
        refusal.message
    );
    ChatError::hopeless(message)
}

fn too_long(refusal: &Refusal) -> ChatError {
    let message = format!(
        "{}; this brief needs a longer context than the server gives: ask for fewer shots, set \
         planner.steps = \"staged\", or serve the model with a longer context",
        refusal.message
    );
    ChatError::hopeless(message)
}

fn of_brief(refusal: &Refusal) -> ChatError {
    let message = format!(
        "{}; other questions are answered, so it is about this brief: its words, its length, or \
         its picture (planner.picture_side)",
        refusal.message
    );
    ChatError::hopeless(message)
}

fn of_all(refusal: &Refusal) -> ChatError {
    let message = format!(
        "{}; the smallest question is refused as well, so it is about planner.model, \
         planner.endpoint or the server's own settings, and no brief is set aside for it",
        refusal.message
    );
    ChatError::new(ErrorClass::Run, message)
}
