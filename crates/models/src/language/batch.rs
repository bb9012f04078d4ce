//! Continuous batching: stories of unequal length take their steps together, and join and leave at
//! any of them.

use std::collections::VecDeque;

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::host::is_host;
use storyloom_nn::layers::MOST_FEW_ROWS;
use tch::Tensor;

use super::constraint::Constraint;
use super::model::LanguageModel;
use super::passes::Passes;
use super::sampling::Sampling;
use super::vision::{ImagePatches, prompt_positions};

/// A text to be made.
pub struct Request {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// The pictures of the prompt, in order.
    pub images: Vec<ImagePatches>,
    /// How its tokens are chosen.
    pub sampling: Sampling,
    /// Keeps the text to a form.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// Names a request within its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Why a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model said so, by this token.
    EndToken(u32),
    /// One of the stop strings came.
    StopString(String),
    /// The constraint says that it is complete.
    Complete,
    /// It has as many tokens as were asked for, or as the model can count.
    Length,
}

/// A finished text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Its text, without special tokens and without the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// What came of a step.
#[derive(Debug)]
pub enum Event {
    /// A text went on.
    Token {
        /// Which.
        id: RequestId,
        /// By what.
        token: u32,
    },
    /// A text is finished.
    Finished {
        /// Which.
        id: RequestId,
        /// The text.
        output: Generated,
    },
    /// A text could not be made; the others go on.
    Failed {
        /// Which.
        id: RequestId,
        /// Why.
        error: ModelError,
    },
}

/// Stories that take their steps together.
///
/// On the CPU the text of a story is the same, to the last bit of its scores, whatever else is in
/// the batch.
pub struct Batch<'m> {
    model: &'m LanguageModel,
    passes: Passes<'m>,
    slots: Vec<Option<Story>>,
    waiting: VecDeque<Story>,
    made: u64,
}

/// A request under way.
struct Story {
    id: RequestId,
    request: Request,
    /// Tokens so far; the last one is not in the cache yet.
    generated: Vec<u32>,
    /// Position of the next token to go into the model.
    position: i64,
}

impl<'m> Batch<'m> {
    /// An empty batch that works on at most `max_sequences` stories at once; more of them wait.
    ///
    /// Where ranks share the model, the first one has the batch and the others
    /// [follow](LanguageModel::follow) it.
    ///
    /// # Errors
    /// `max_sequences` is 0, or another rank is gone.
    pub fn new(model: &'m LanguageModel, max_sequences: usize) -> Result<Self> {
        if max_sequences == 0 {
            return Err(ModelError::input("batch", "it must have room for a story"));
        }
        Ok(Self {
            passes: Passes::begin(model, max_sequences)?,
            model,
            slots: (0..max_sequences).map(|_| None).collect(),
            waiting: VecDeque::new(),
            made: 0,
        })
    }

    /// Takes a request; it starts at the first step with room for it, in the order of requests.
    ///
    /// # Errors
    /// The prompt is empty or too long, has ids that are not in the vocabulary, its pictures do not
    /// fit its tokens, or the sampling makes no sense.
    pub fn add(&mut self, request: Request) -> Result<RequestId> {
        request.sampling.check()?;
        let config = self.model.config();
        let length = request.tokens.len() as i64;
        if length == 0 || length >= config.max_positions {
            let most = config.max_positions - 1;
            let reason = format!("{length} tokens; the model takes 1 to {most}");
            return Err(ModelError::input("prompt", reason));
        }
        let strange = |token: &&u32| i64::from(**token) >= config.vocab_size;
        if let Some(token) = request.tokens.iter().find(strange) {
            let reason = format!("token {token} of {}", config.vocab_size);
            return Err(ModelError::input("prompt", reason));
        }
        if config.vision.is_none() && !request.images.is_empty() {
            return Err(ModelError::input(
                "prompt",
                "this model does not see pictures",
            ));
        }
        if let Some(vision) = &config.vision {
            let grids: Vec<_> = request.images.iter().map(|image| image.grid).collect();
            prompt_positions(&request.tokens, &grids, vision)?;
        }
        let id = RequestId(self.made);
        self.made += 1;
        let story = Story {
            id,
            request,
            generated: Vec::new(),
            position: 0,
        };
        self.waiting.push_back(story);
        Ok(id)
    }

    /// Forgets a request; true if it was there.
    ///
    /// # Errors
    /// Another rank that shares the model is gone.
    pub fn cancel(&mut self, id: RequestId) -> Result<bool> {
        let waiting = self.waiting.len();
        self.waiting.retain(|story| story.id != id);
        let mut found = self.waiting.len() < waiting;
        for slot in 0..self.slots.len() {
            if self.slots[slot]
                .as_ref()
                .is_some_and(|story| story.id == id)
            {
                self.free(slot)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// Requests that are not finished.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.slots.iter().flatten().count()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One token more for every story under way, and the first one of those that find room.
    ///
    /// # Errors
    /// The model could not be computed: no story can go on.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.advance(&mut events)?;
        self.admit(&mut events)?;
        Ok(events)
    }

    /// Steps until every request is finished.
    pub fn run(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        while !self.is_empty() {
            events.extend(self.step()?);
        }
        Ok(events)
    }

    fn free(&mut self, slot: usize) -> Result<()> {
        self.slots[slot] = None;
        self.passes.free(slot)
    }

    /// A token more for the stories under way.
    fn advance(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let active: Vec<usize> = (0..self.slots.len())
            .filter(|&slot| self.slots[slot].is_some())
            .collect();
        let together = match is_host(self.model.decoder().device()) {
            true => MOST_FEW_ROWS,
            false => self.slots.len(),
        };
        for slots in active.chunks(together) {
            let logits = self.forward_step(slots)?;
            for (row, &slot) in slots.iter().enumerate() {
                self.choose(slot, &logits.f_select(0, row as i64)?, events)?;
            }
        }
        Ok(())
    }

    /// The last tokens of the stories in `slots` through the model: scores f32
    /// `[stories, vocabulary]`, on the leader; the ranks that share the model take part in the pass.
    fn forward_step(&mut self, slots: &[usize]) -> Result<Tensor> {
        let (mut tokens, mut positions) = (Vec::new(), Vec::new());
        for &slot in slots {
            if let Some(story) = &mut self.slots[slot] {
                tokens.push(story.generated.last().map_or(0, |&token| i64::from(token)));
                positions.push(story.position);
                story.position += 1;
            }
        }
        self.passes.step(slots, &tokens, &positions)
    }

    /// Starts waiting stories in free slots, each by itself: its prompt through the model.
    fn admit(&mut self, events: &mut Vec<Event>) -> Result<()> {
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                continue;
            }
            let Some(mut story) = self.waiting.pop_front() else {
                break;
            };
            let logits = self.prefill(&mut story, slot)?;
            self.slots[slot] = Some(story);
            self.choose(slot, &logits, events)?;
        }
        Ok(())
    }

    /// The prompt of a story through the model: scores of its first token, f32 `[vocabulary]`.
    fn prefill(&mut self, story: &mut Story, slot: usize) -> Result<Tensor> {
        let Request { tokens, images, .. } = &story.request;
        let (logits, next) = self.passes.prefill(slot, tokens, images)?;
        story.position = next;
        Ok(logits)
    }

    /// Chooses the next token of the story in `slot` from its scores, and ends the story if that
    /// is due. A story that fails leaves; the error is its own.
    fn choose(&mut self, slot: usize, logits: &Tensor, events: &mut Vec<Event>) -> Result<()> {
        let logits: Vec<f32> = Vec::try_from(logits)?;
        let Some(story) = &mut self.slots[slot] else {
            return Ok(());
        };
        let id = story.id;
        match story.extend(logits, self.model) {
            Ok((token, finish)) => {
                if !matches!(finish, Some(Finish::EndToken(_))) {
                    events.push(Event::Token { id, token });
                }
                let Some(finish) = finish else {
                    return Ok(());
                };
                let output = story.output(finish, self.model);
                events.push(match output {
                    Ok(output) => Event::Finished { id, output },
                    Err(error) => Event::Failed { id, error },
                });
            }
            Err(error) => events.push(Event::Failed { id, error }),
        }
        self.free(slot)
    }
}

impl Story {
    /// Chooses a token from the scores; whether the text ends with it, and why.
    fn extend(
        &mut self,
        mut logits: Vec<f32>,
        model: &LanguageModel,
    ) -> Result<(u32, Option<Finish>)> {
        let Request {
            tokens,
            sampling,
            constraint,
            ..
        } = &mut self.request;
        let seen = tokens.iter().chain(&self.generated).copied();
        sampling.penalise(&mut logits, seen.collect::<std::collections::BTreeSet<_>>());
        if let Some(constraint) = constraint {
            constraint.mask()?.apply(&mut logits)?;
        }
        let token = sampling.choose(&logits, self.generated.len() as u64)?;
        if model.generation().end_tokens.contains(&token) {
            return Ok((token, Some(Finish::EndToken(token))));
        }
        self.generated.push(token);
        if let Some(constraint) = constraint
            && constraint.commit(token)?
        {
            return Ok((token, Some(Finish::Complete)));
        }
        if let Some(stop) = self.stop_string(model)? {
            return Ok((token, Some(Finish::StopString(stop))));
        }
        let sampling = &self.request.sampling;
        let full = self.position >= model.config().max_positions;
        let ends = self.generated.len() >= sampling.max_tokens || full;
        Ok((token, ends.then_some(Finish::Length)))
    }

    /// The stop string that the text now ends in or has just run over, if any.
    fn stop_string(&self, model: &LanguageModel) -> Result<Option<String>> {
        let stops = &self.request.sampling.stop;
        let Some(longest) = stops.iter().map(String::len).max() else {
            return Ok(None);
        };
        // A token is at least a byte; some more, so that a character that the window cuts is not
        // part of the string.
        let first = self.generated.len().saturating_sub(longest + 8);
        let text = model.tokenizer().decode(&self.generated[first..])?;
        Ok(stops
            .iter()
            .find(|stop| text.contains(stop.as_str()))
            .cloned())
    }

    fn output(&mut self, finish: Finish, model: &LanguageModel) -> Result<Generated> {
        let mut text = model.tokenizer().decode(&self.generated)?;
        if let Finish::StopString(stop) = &finish
            && let Some(end) = text.find(stop.as_str())
        {
            text.truncate(end);
        }
        Ok(Generated {
            tokens: std::mem::take(&mut self.generated),
            text,
            finish,
        })
    }
}
