//! What can go wrong between us and a server, and what to do then.

use std::time::{Duration, SystemTime};

use storyloom_story::ErrorClass;

use super::ServedSettings;
use super::refusal::Complaint;
use super::terms::Terms;
use super::wire::address_help;

/// Why an attempt has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The server cannot be reached, or the connection broke.
    #[error("the server cannot be reached: {0}")]
    Connection(String),
    /// It took too long.
    #[error("no answer in time; is planner.timeout_s too short for this model?")]
    Timeout,
    /// It answered, but not with an answer.
    #[error("the server said {status}{}{}", with(&.complaint.said), elsewhere(.place.as_deref()))]
    Status {
        /// Status of HTTP.
        status: u16,
        /// How long it wishes to be left alone.
        wish: Option<Duration>,
        /// Where it sends us instead.
        place: Option<String>,
        /// What it said besides.
        complaint: Box<Complaint>,
    },
    /// What it sent is no answer of the protocol.
    #[error("the server sent what is no chat completion: {0}")]
    Garbage(String),
    /// The request itself cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

fn with(said: &str) -> String {
    match said.is_empty() {
        true => String::new(),
        false => format!(": {said}"),
    }
}

fn elsewhere(place: Option<&str>) -> String {
    place.map_or_else(String::new, |place| {
        format!(
            ": it sends us to {place}, which is not followed; set planner.endpoint to the right address"
        )
    })
}

/// What follows a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask again.
    Wait {
        /// After this time.
        pause: Duration,
        /// Whether all questions wait, not only this one.
        everybody: bool,
    },
    /// It makes no sense.
    GiveUp(ErrorClass),
}

impl Fault {
    pub(super) fn of_error(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::Timeout,
            ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl => {
                Self::Request(error.to_string())
            }
            ureq::Error::BodyExceedsLimit(_) => Self::Garbage(error.to_string()),
            ureq::Error::Io(inner) if inner.kind() == std::io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Connection(error.to_string()),
        }
    }

    /// What to do after `failed` attempts that had none either.
    pub(super) fn next(&self, failed: u32, settings: &ServedSettings, seed: u64) -> Next {
        let class = match self.class() {
            Ok(()) if failed < settings.retries => {
                let (wish, everybody) = match self {
                    Self::Status {
                        wish,
                        status: 429 | 503,
                        ..
                    } => (*wish, true),
                    Self::Status { wish, .. } => (*wish, false),
                    _ => (None, false),
                };
                let own = backoff(failed, settings, seed);
                let pause = wish.map_or(own, |wish| wish.max(own));
                // A wish beyond the bound is not heeded by knocking earlier.
                if wish.is_some_and(|wish| wish > settings.longest_pause) {
                    return Next::GiveUp(ErrorClass::ServiceAway);
                }
                return Next::Wait { pause, everybody };
            }
            Ok(()) => ErrorClass::ServiceAway,
            Err(class) => class,
        };
        Next::GiveUp(class)
    }

    /// `Ok` where another attempt may help, else what the fault means.
    fn class(&self) -> Result<(), ErrorClass> {
        match self {
            Self::Connection(_) | Self::Timeout | Self::Garbage(_) => Ok(()),
            Self::Request(_) => Err(ErrorClass::Run),
            Self::Status { status, .. } => match status {
                408 | 409 | 425 | 429 | 500..=599 => Ok(()),
                _ => Err(ErrorClass::Run),
            },
        }
    }

    /// What the server objects to in the question; none where it is about something else.
    pub(super) fn refusal(&self, terms: &Terms) -> Option<&Complaint> {
        match self {
            Self::Status {
                status: 400 | 413 | 422,
                complaint,
                ..
            } => Some(complaint),
            Self::Status {
                status: 500..=599,
                complaint,
                ..
            } if complaint.blames_a_part(terms) => Some(complaint),
            _ => None,
        }
    }

    /// What to do about a fault that every question meets.
    pub(super) fn help(&self, url: &str) -> Option<&'static str> {
        match self {
            Self::Status { status, .. } => match status {
                401 | 403 => Some("is the key in STORYLOOM_PLANNER_KEY or planner.key_file right?"),
                404 | 405 | 410 => Some(address_help(url)),
                407 => Some("the proxy wants a name and a password"),
                _ => None,
            },
            Self::Garbage(_) => Some(address_help(url)),
            _ => None,
        }
    }
}

/// A pause that doubles, up to a bound, and differs between questions.
fn backoff(failed: u32, settings: &ServedSettings, seed: u64) -> Duration {
    let doubled = settings.backoff.saturating_mul(1 << failed.min(16));
    let bounded = doubled.min(settings.longest_pause);
    // From three quarters to five quarters.
    let share = (seed.rotate_left(8 * (failed % 8)) & 0xff) as u32;
    bounded.mul_f64(0.75 + 0.5 * f64::from(share) / 255.0)
}

/// The value of `Retry-After`: seconds, or a date.
pub(super) fn wished_pause(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}
