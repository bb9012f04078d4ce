//! A model that is served elsewhere, by anything that speaks the chat part of OpenAI's protocol.
//!
//! A bounded number of questions are out at once. Each has a thread that waits for the answer and is
//! left behind when there is to be a stop: answers may be minutes away. What fails is tried
//! again where that can help, as long as the server wishes to be left alone if it says so. What it
//! refuses of a question is left out of all, and told once. The key
//! goes into one header and nowhere else; redirects are not followed, so that it is sent to no
//! other server.

mod agreement;
mod answer;
mod gate;
mod negotiate;
mod refusal;
mod retry;
mod terms;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use storyloom_story::ErrorClass;
use storyloom_telemetry::proxy::Route;
use ureq::tls::{RootCerts, TlsConfig};

use crate::chat::{Chat, ChatError, ChatReply, ChatRequest, ModelIdentity, Sampling};
use agreement::Agreement;
use gate::{Gate, LOOK};
use negotiate::{Asked, Refusal};
use refusal::Complaint;
use retry::{Fault, Next};
use terms::{Knob, Terms};

/// A secret that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a key, without the white space around it; `None` if nothing is left.
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    /// `text` without the secret.
    fn hidden_in(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How the form of an answer is asked for, besides in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFormat {
    /// By its JSON schema.
    Schema,
    /// As any JSON object.
    Object,
    /// Not at all, for servers that refuse the others.
    Off,
}

/// Whether to go on; asked while waiting.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where the model is, and how to treat its server.
#[derive(Clone)]
pub struct ServedSettings {
    /// Address of the API, up to `/v1`.
    pub endpoint: String,
    /// Name of the model there.
    pub model: String,
    /// Key of the API, if it wants one.
    pub key: Option<Secret>,
    /// Questions at once.
    pub concurrency: usize,
    /// Questions a minute; 0 for any number.
    pub per_minute: u32,
    /// Longest time for one answer.
    pub timeout: Duration,
    /// How often a question is asked again.
    pub retries: u32,
    /// Pause before the first repetition; doubles with each.
    pub backoff: Duration,
    /// Longest pause, also of those that the server wishes for.
    pub longest_pause: Duration,
    /// How the form of the answer is asked for.
    pub format: ResponseFormat,
    /// How answers are drawn.
    pub sampling: Sampling,
    /// Longest side of pictures that are sent, in pixels.
    pub picture_side: u32,
    /// Whether to give up.
    pub stop: Stop,
}

/// A model behind an endpoint.
pub struct Served {
    settings: ServedSettings,
    line: Arc<Line>,
    gate: Gate,
    agreement: Agreement,
}

/// What it takes to ask.
struct Line {
    url: String,
    route: Route,
    agent: ureq::Agent,
    key: Option<Secret>,
}

impl Served {
    /// Gets ready to ask; nothing is sent yet.
    ///
    /// # Errors
    /// An address that is none, or with a name and password in it; a proxy that cannot be used.
    pub fn new(settings: ServedSettings) -> Result<Self, ChatError> {
        let as_run = |reason| ChatError::new(ErrorClass::Run, reason);
        let url = wire::completions_url(&settings.endpoint).map_err(as_run)?;
        let route = Route::to(&url);
        let agent = agent(&settings, route.proxy().map_err(as_run)?);
        let mut terms = Terms::new(settings.format, settings.sampling.max_tokens);
        if settings.sampling.top_k == 0 {
            terms.leave_out(Knob::TopK);
        }
        Ok(Self {
            gate: Gate::new(settings.concurrency, settings.per_minute),
            agreement: Agreement::new(terms),
            line: Arc::new(Line {
                url,
                route,
                agent,
                key: settings.key.clone(),
            }),
            settings,
        })
    }

    /// Asks once, as long as there is no stop.
    fn attempt(&self, body: &Arc<str>) -> Result<Result<ChatReply, Fault>, ChatError> {
        let (answer, answered) = sync_channel(1);
        let (line, body) = (Arc::clone(&self.line), Arc::clone(body));
        // Anyone who asked may be gone by the time of the answer.
        let ask = move || drop(answer.send(line.ask(&body)));
        thread::Builder::new()
            .name("question".to_owned())
            .spawn(ask)
            .map_err(|error| ChatError::new(ErrorClass::Transient, error.to_string()))?;
        loop {
            match answered.recv_timeout(LOOK) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) if (self.settings.stop)() => {
                    return Err(ChatError::stopped());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let message = "the thread that asked the model has ended";
                    return Err(ChatError::new(ErrorClass::Run, message));
                }
            }
        }
    }

    /// Asks as often as it makes sense; what is refused may be asked in another way.
    fn persist(
        &self,
        body: &Arc<str>,
        seed: u64,
        terms: &Terms,
    ) -> Result<Result<ChatReply, Refusal>, ChatError> {
        let settings = &self.settings;
        let mut failed = 0;
        loop {
            self.gate.enter(&settings.stop)?;
            let result = self.attempt(body);
            self.gate.leave();
            let fault = match result? {
                Ok(reply) => {
                    self.agreement.answered();
                    return Ok(Ok(reply));
                }
                Err(fault) => fault,
            };
            let message = self.message(&fault, failed);
            if let Some(complaint) = fault.refusal(terms) {
                let complaint = complaint.clone();
                return Ok(Err(Refusal { message, complaint }));
            }
            match fault.next(failed, settings, seed) {
                Next::GiveUp(class) => return Err(self.given_up(&fault, class, message)),
                Next::Wait { pause, everybody } => {
                    tracing::warn!(
                        pause_ms = pause.as_millis() as u64,
                        "{message}; asking again"
                    );
                    let until = Instant::now() + pause;
                    if everybody {
                        self.gate.close_until(until);
                    }
                    gate::wait_until(until, &settings.stop)?;
                }
            }
            failed += 1;
        }
    }

    /// Nonsense from a server that has never answered comes from a wrong address.
    fn given_up(&self, fault: &Fault, class: ErrorClass, message: String) -> ChatError {
        let nonsense = matches!(fault, Fault::Garbage(_)) && !self.agreement.is_answered();
        let class = if nonsense { ErrorClass::Run } else { class };
        let help = fault
            .help(&self.line.url)
            .filter(|_| class == ErrorClass::Run);
        let help = help.map_or(String::new(), |help| format!("; {help}"));
        ChatError::new(class, format!("{message}{help}"))
    }

    /// Asks until there is an answer, as the server takes questions.
    fn talk(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        /// There are fewer things to leave out; whatever else happens, it ends.
        const MOST: usize = 40;
        let mut last = String::new();
        for _ in 0..MOST {
            let (terms, version) = self.agreement.terms();
            let unseen = request.picture.is_some() && !terms.has(Knob::Picture);
            if unseen && request.needs_picture {
                let message = "the model takes no pictures, and this brief has nothing else: give it a title, \
                               or choose a model that sees";
                return Err(ChatError::hopeless(message));
            }
            let body = wire::request_body(request, &self.settings, &terms)
                .map_err(|reason| ChatError::new(ErrorClass::Shot, reason))?;
            match self.persist(&body.into(), request.seed, &terms)? {
                Ok(reply) => {
                    return Ok(ChatReply {
                        departures: self.agreement.departures(&terms),
                        unseen,
                        ..reply
                    });
                }
                Err(refusal) => {
                    let asked = Asked {
                        request,
                        terms: &terms,
                        version,
                    };
                    self.settle(&asked, &refusal)?;
                    last = refusal.message;
                }
            }
        }
        Err(ChatError::hopeless(last))
    }

    fn message(&self, fault: &Fault, failed: u32) -> String {
        let Line { url, route, .. } = self.line.as_ref();
        let after = match failed {
            0 => String::new(),
            times => format!(" (asked {} times)", times + 1),
        };
        let through = match route {
            Route::Direct => String::new(),
            Route::Through(proxy) => format!(" through {proxy}"),
        };
        let message = format!("{url}{through}: {fault}{after}");
        let key = self.settings.key.as_ref();
        key.map_or_else(|| message.clone(), |key| key.hidden_in(&message))
    }
}

fn agent(settings: &ServedSettings, proxy: Option<ureq::Proxy>) -> ureq::Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    ureq::Agent::config_builder()
        .timeout_global(Some(settings.timeout))
        .timeout_connect(Some(settings.timeout.min(Duration::from_secs(10))))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_idle_connections(settings.concurrency)
        .max_idle_connections_per_host(settings.concurrency)
        .proxy(proxy)
        .tls_config(tls)
        .build()
        .into()
}

impl Chat for Served {
    fn identity(&self) -> ModelIdentity {
        ModelIdentity {
            name: self.settings.model.clone(),
            digest: None,
            endpoint: Some(self.settings.endpoint.clone()),
            dtype: None,
            picture_side: Some(self.settings.picture_side),
        }
    }

    fn capacity(&self) -> usize {
        self.settings.concurrency
    }

    fn try_anew(&self) {
        self.agreement.reopen();
    }

    fn ask(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let leave = self.agreement.enter(&self.settings.stop)?;
        let result = self.talk(request);
        result.inspect_err(|error| leave.note(error))
    }
}

impl Line {
    /// Asks, and waits for the answer.
    fn ask(&self, body: &str) -> Result<ChatReply, Fault> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json");
        if let Some(Secret(key)) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request
            .send(body)
            .map_err(|error| Fault::of_error(&error))?;
        let status = response.status().as_u16();
        let wish = response.headers().get("retry-after");
        let wish = wish.and_then(|value| value.to_str().ok());
        let wish = wish.and_then(|value| retry::wished_pause(value, std::time::SystemTime::now()));
        let place = response
            .headers()
            .get("location")
            .filter(|_| (300..400).contains(&status));
        let place = place
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let reader = response.body_mut().with_config().limit(wire::LARGEST);
        let text = reader
            .lossy_utf8(true)
            .read_to_string()
            .map_err(|error| Fault::of_error(&error))?;
        match status {
            200..=299 => answer::read_reply(&text),
            _ => Err(Fault::Status {
                status,
                wish,
                place,
                complaint: Box::new(Complaint::of_text(&text)),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
