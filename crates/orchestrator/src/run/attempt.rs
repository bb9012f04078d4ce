//! Attempts at a shot: when it is tried again, and what is no failed attempt.
//!
//! A shot exists from the moment at which its record does. An error after that moment, as with
//! the names of its files, is one of the story: it is tried again, and any program that goes on with the
//! story finds the record.

use std::time::{Duration, Instant};

use storyloom_memory::ShotRecord;
use storyloom_story::{ErrorClass, Seed, ShotRequest, Stage};
use storyloom_telemetry::{AttemptEnd, Event, ShotEvent};
use tracing::field;

use crate::error::RunError;
use crate::run::chain::{Chain, plan};
use crate::run::lease::Lease;
use crate::run::lost_record::Lost;
use crate::run::shot::{ShotContext, make_shot, tidy_up};

/// Pauses before another try after a transient error.
const RETRY_DELAYS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// Does what can be done again, again after a transient error.
pub(crate) fn with_retries<T>(
    context: &ShotContext,
    mut work: impl FnMut() -> Result<T, RunError>,
) -> Result<T, RunError> {
    for pause in RETRY_DELAYS {
        match work() {
            Err(error) if error.class() == ErrorClass::Transient => {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "tried again");
            }
            result => return result,
        }
        std::thread::sleep(pause);
        if context.stop.asked().is_some() {
            return Err(RunError::Stopped);
        }
    }
    work()
}

/// Tries a shot: again with the same noise after a transient error, with other noise after an
/// error of the shot itself.
pub(crate) fn attempt_shot(
    context: &ShotContext,
    lease: &Lease,
    chain: Chain,
    request: ShotRequest,
    run_seed: u64,
    attempts: u32,
) -> Result<ShotRecord, RunError> {
    let mut delays = RETRY_DELAYS.iter();
    let mut attempt = chain.lost.map_or(0, Lost::attempt);
    loop {
        let seed = Seed::derive(run_seed, &request.story, request.shot, attempt);
        let request = ShotRequest {
            attempt,
            seed,
            ..request.clone()
        };
        let ShotRequest { story, shot, .. } = &request;
        let begun = Instant::now();
        context.reporter.report(&Event::Shot {
            story,
            shot: *shot,
            event: ShotEvent::AttemptBegun { attempt },
        });
        let span = tracing::info_span!("shot", %story, %shot, attempt, error = field::Empty);
        let result = span.in_scope(|| {
            let plan = plan(context, chain, request.clone())?;
            make_shot(context, lease, &plan)
        });
        if let Err(error) = &result {
            span.record("error", field::display(error));
        }
        drop(span);
        let error = match result {
            Ok(record) => return after_record(context, &request, record, begun, Ok(())),
            Err(error) => error,
        };
        if let Some(record) = created(context, &request, &error) {
            tracing::warn!(%error, %story, %shot, "an error came after the shot was committed");
            let name = sync_record(context, &record);
            return after_record(context, &request, record, begun, name);
        }
        let reason = error.to_string();
        report_end(context, &request, end_of(&error), Some(&reason));
        let failed = Event::Shot {
            story,
            shot: *shot,
            event: ShotEvent::AttemptFailed {
                attempt,
                reason: &reason,
            },
        };
        match error.class() {
            ErrorClass::Transient => {
                let Some(wait) = delays.next() else {
                    return Err(error);
                };
                context.reporter.report(&failed);
                std::thread::sleep(*wait);
                if context.stop.asked().is_some() {
                    return Err(RunError::Stopped);
                }
            }
            // Other noise makes another record.
            ErrorClass::Shot if chain.lost.is_none() && attempt + 1 < attempts => {
                context.reporter.report(&failed);
                attempt += 1;
            }
            _ => return Err(error),
        }
    }
}

/// The record of a shot whose attempt ended with `error`, if that came after the record.
fn created(context: &ShotContext, request: &ShotRequest, error: &RunError) -> Option<ShotRecord> {
    if error.class() == ErrorClass::Interrupted {
        return None;
    }
    let read = || Ok(context.bank.record(&request.story, request.shot)?);
    // What cannot be read is looked at by the program that tries the shot again.
    with_retries(context, read).ok().flatten()
}

/// Makes the name of a record durable, of which nobody knows whether it is.
fn sync_record(context: &ShotContext, record: &ShotRecord) -> Result<(), RunError> {
    let ShotRequest { story, shot, .. } = record.request();
    let path = context.bank.record_path(story, *shot);
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    with_retries(context, || Ok(context.bank.storage().sync_names(folder)?))
}

/// Ends an attempt whose record is there, `so_far` as its name is; nothing that happens now makes it
/// a failed one.
fn after_record(
    context: &ShotContext,
    request: &ShotRequest,
    mut record: ShotRecord,
    attempt_begun: Instant,
    so_far: Result<(), RunError>,
) -> Result<ShotRecord, RunError> {
    let begun = Instant::now();
    let tidied = so_far.and_then(|()| with_retries(context, || tidy_up(context, &record)));
    record.add_seconds(Stage::Commit, begun.elapsed().as_secs_f64());
    report_end(context, request, AttemptEnd::Committed, None);
    context.reporter.report(&Event::Shot {
        story: &request.story,
        shot: request.shot,
        event: ShotEvent::Committed {
            seconds: attempt_begun.elapsed().as_secs_f64(),
            keyframes: record.kept().len(),
        },
    });
    tidied.map(|()| record)
}

pub(crate) fn end_of(error: &RunError) -> AttemptEnd {
    match error.class() {
        ErrorClass::Interrupted => AttemptEnd::Stopped,
        _ => AttemptEnd::Failed,
    }
}

/// Says how an attempt ended.
pub(crate) fn report_end(
    context: &ShotContext,
    request: &ShotRequest,
    end: AttemptEnd,
    reason: Option<&str>,
) {
    context.reporter.report(&Event::Shot {
        story: &request.story,
        shot: request.shot,
        event: ShotEvent::AttemptEnded {
            attempt: request.attempt,
            end,
            reason,
        },
    });
}
