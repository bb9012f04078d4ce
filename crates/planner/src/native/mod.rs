//! A language model in this program.
//!
//! One thread owns the model and makes the texts of all questions together; who asks waits for its
//! answer. What is written is kept inside the schema that was asked for, token by token, so that
//! any model's answer can be read. Answers depend on the question and its seed alone, not on the
//! other questions of the batch.

mod constraint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod vocabulary;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use storyloom_models::language::{
    Batch, ChatOptions, Content, Event, Finish, LanguageModel, Message, Request, RequestId,
    Role as ModelRole, Sampling as ModelSampling,
};
use storyloom_nn::ModelError;
use storyloom_story::{ErrorClass, Seed};
use time::OffsetDateTime;

use crate::chat::{
    Chat, ChatError, ChatReply, ChatRequest, Flaw, ModelIdentity, Role, Sampling, TokenCount,
};
use crate::served::Stop;
use constraint::Grammars;

/// The day that templates are told which ask for it, always the same one (1 January 2026): the same
/// recipe gives the same plan on every day.
const TOLD_DAY: OffsetDateTime =
    OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::days(20_454));
/// Time between two looks at whether to stop, while there is nothing to do.
const LOOK: Duration = Duration::from_millis(100);

/// How a model in this program is asked.
#[derive(Clone)]
pub struct NativeSettings {
    /// What the model is called.
    pub name: String,
    /// The numbers that it computes with, as the config calls them; for the record only.
    pub dtype: String,
    /// Questions that are answered at once; others wait.
    pub capacity: usize,
    /// How answers are drawn.
    pub sampling: Sampling,
    /// Longest side of pictures, in pixels.
    pub picture_side: u32,
    /// Whether to give up.
    pub stop: Stop,
}

/// A model that a thread of this program runs.
pub struct Native {
    identity: ModelIdentity,
    capacity: usize,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// A question, and where its answer goes.
struct Job {
    question: ChatRequest,
    answer: SyncSender<Result<ChatReply, ChatError>>,
}

impl Native {
    /// Loads a model, on the thread that will run it, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be loaded, or it cannot be kept to a schema: no text can end, or the tokenizer is
    /// of an unknown kind.
    pub fn start(
        settings: NativeSettings,
        load: impl FnOnce() -> Result<LanguageModel, ModelError> + Send + 'static,
    ) -> Result<Self, ChatError> {
        let (jobs, questions) = channel();
        let (ready, is_ready) = sync_channel(1);
        let capacity = settings.capacity.max(1);
        let work = move || match Worker::prepare(settings, load) {
            Ok((worker, identity)) => {
                // Nobody waits any more if the other end is gone.
                if ready.send(Ok(identity)).is_ok() {
                    worker.work(&questions);
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let thread = std::thread::Builder::new()
            .name("planner".to_owned())
            .spawn(work)
            .map_err(|error| ChatError::new(ErrorClass::Run, error.to_string()))?;
        let identity = is_ready.recv().map_err(|_| gone())??;
        Ok(Self {
            identity,
            capacity,
            jobs: Mutex::new(Some(jobs)),
            thread: Some(thread),
        })
    }
}

impl Chat for Native {
    fn identity(&self) -> ModelIdentity {
        self.identity.clone()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn ask(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let (answer, answered) = sync_channel(1);
        let job = Job {
            question: request.clone(),
            answer,
        };
        {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let jobs = jobs.as_ref().ok_or_else(gone)?;
            jobs.send(job).map_err(|_| gone())?;
        }
        answered.recv().map_err(|_| gone())?
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // The thread ends when there can be no more questions.
        let jobs = self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner);
        jobs.take();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

/// How the model's template writes conversations out. What no conversation can be held with is
/// found out here, before anybody asks.
fn options_of(model: &LanguageModel) -> Result<ChatOptions, ModelError> {
    let options = ChatOptions {
        // Models that think aloud would do so where JSON is due.
        variables: [("enable_thinking".to_owned(), false.into())].into(),
        now: Some(TOLD_DAY),
        ..ChatOptions::default()
    };
    let manner = model.manner(&options)?;
    Ok(ChatOptions { manner, ..options })
}

fn gone() -> ChatError {
    ChatError::new(
        ErrorClass::Run,
        "the thread of the language model has ended",
    )
}

fn failed(error: &ModelError) -> ChatError {
    ChatError::new(error.class(), error.to_string())
}

/// What the thread has.
struct Worker {
    settings: NativeSettings,
    model: LanguageModel,
    grammars: Grammars,
    /// How conversations are written out.
    options: ChatOptions,
}

/// A question that is being answered.
struct Open {
    answer: SyncSender<Result<ChatReply, ChatError>>,
    prompt_tokens: u64,
}

impl Worker {
    fn prepare(
        settings: NativeSettings,
        load: impl FnOnce() -> Result<LanguageModel, ModelError>,
    ) -> Result<(Self, ModelIdentity), ChatError> {
        let as_run = |error: ModelError| ChatError::new(ErrorClass::Run, error.to_string());
        let model = load().map_err(as_run)?;
        let grammars = Grammars::of(&model).map_err(as_run)?;
        let options = options_of(&model).map_err(as_run)?;
        let identity = ModelIdentity {
            name: settings.name.clone(),
            digest: Some(model.digest().map_err(as_run)?),
            endpoint: None,
            dtype: Some(settings.dtype.clone()),
            picture_side: model.vision().map(|_| settings.picture_side),
        };
        let worker = Self {
            settings,
            model,
            grammars,
            options,
        };
        Ok((worker, identity))
    }

    /// Answers questions until nobody can ask any more.
    fn work(&self, questions: &Receiver<Job>) {
        let mut open = BTreeMap::new();
        let mut batch = match Batch::new(&self.model, self.settings.capacity.max(1)) {
            Ok(batch) => batch,
            Err(error) => return refuse_all(questions, &failed(&error)),
        };
        loop {
            let job = match batch.is_empty() {
                true => match questions.recv_timeout(LOOK) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
                false => questions.try_recv().ok(),
            };
            // One prompt a step: they take long, and a stop does not wait for all of them.
            if let Some(job) = job {
                self.begin(&mut batch, &mut open, job);
            }
            if (self.settings.stop)() {
                self.abandon(&mut batch, &mut open, &ChatError::stopped());
                continue;
            }
            match batch.step() {
                Ok(events) => finish(&mut open, events),
                Err(error) => self.abandon(&mut batch, &mut open, &failed(&error)),
            }
        }
    }

    fn begin(&self, batch: &mut Batch<'_>, open: &mut BTreeMap<RequestId, Open>, job: Job) {
        let Job { question, answer } = job;
        let begun = self.request(&question).and_then(|request| {
            let prompt_tokens = request.tokens.len() as u64;
            Ok((batch.add(request)?, prompt_tokens))
        });
        match begun {
            Ok((id, prompt_tokens)) => {
                let entry = Open {
                    answer,
                    prompt_tokens,
                };
                open.insert(id, entry);
            }
            // Who asked may be gone.
            Err(error) => drop(answer.send(Err(failed(&error)))),
        }
    }

    /// A question as the model takes it.
    fn request(&self, question: &ChatRequest) -> Result<Request, ModelError> {
        let prompt = self.model.prompt(&self.messages(question), &self.options)?;
        let sampling = &self.settings.sampling;
        Ok(Request {
            tokens: prompt.tokens,
            images: prompt.images,
            sampling: ModelSampling {
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k as usize,
                min_p: 0.0,
                repetition_penalty: 1.0,
                seed: Seed(question.seed),
                max_tokens: sampling.max_tokens as usize,
                stop: Vec::new(),
            },
            constraint: Some(self.grammars.constraint(&question.schema)?),
        })
    }

    /// The conversation; a picture only for models that see.
    fn messages(&self, question: &ChatRequest) -> Vec<Message> {
        let picture = question
            .picture
            .as_ref()
            .filter(|_| self.model.vision().is_some());
        let mut picture = picture.map(|picture| picture.shrunk(self.settings.picture_side));
        let turns = question.turns.iter().map(|turn| {
            let role = match turn.role {
                Role::System => ModelRole::System,
                Role::User => ModelRole::User,
                Role::Assistant => ModelRole::Assistant,
            };
            let mut message = Message::text(role, turn.text.clone());
            if let Some(picture) = picture.take_if(|_| turn.role == Role::User) {
                message.content.insert(0, Content::Image(picture));
            }
            message
        });
        turns.collect()
    }

    fn abandon(
        &self,
        batch: &mut Batch<'_>,
        open: &mut BTreeMap<RequestId, Open>,
        error: &ChatError,
    ) {
        for (id, entry) in std::mem::take(open) {
            // A rank that is gone is told of by the next step.
            let _ = batch.cancel(id);
            drop(entry.answer.send(Err(error.clone())));
        }
    }
}

fn finish(open: &mut BTreeMap<RequestId, Open>, events: Vec<Event>) {
    for event in events {
        let (id, result) = match event {
            Event::Token { .. } => continue,
            Event::Finished { id, output } => (id, Ok(output)),
            Event::Failed { id, error } => (id, Err(failed(&error))),
        };
        let Some(entry) = open.remove(&id) else {
            continue;
        };
        let reply = result.map(|output| ChatReply {
            tokens: TokenCount {
                prompt: entry.prompt_tokens,
                completion: output.tokens.len() as u64,
            },
            flaw: (output.finish == Finish::Length).then_some(Flaw::CutOff),
            text: output.text,
            ..ChatReply::default()
        });
        drop(entry.answer.send(reply));
    }
}

fn refuse_all(questions: &Receiver<Job>, error: &ChatError) {
    for job in questions {
        drop(job.answer.send(Err(error.clone())));
    }
}

#[cfg(test)]
mod tests;
