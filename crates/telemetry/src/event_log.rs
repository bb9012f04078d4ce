//! Events as log lines. What everybody should know is `info`, what somebody should look at `warn` or
//! worse, and single shots and steps are `debug` and `trace`: a run has a hundred thousand of them.

use storyloom_story::{ShotId, StoryId};

use crate::{AttemptEnd, Event, Reporter, ShotEvent};

/// Writes events to the log, through `tracing`.
#[derive(Debug, Default, Clone, Copy)]
pub struct EventLog;

impl Reporter for EventLog {
    fn report(&self, event: &Event) {
        match event {
            Event::RunStarted {
                stories,
                shots,
                shots_done,
            } => {
                tracing::info!("{stories} stories, {shots} shots, {shots_done} already made");
            }
            Event::Shot { story, shot, event } => log_shot(story, *shot, event),
            // Spans say when these end, and how.
            Event::PlanBegun { .. }
            | Event::PlansAhead { .. }
            | Event::PlanAwaited { .. }
            | Event::StoryTaken { .. }
            | Event::StoryLeft { .. }
            | Event::IndexOpened { .. } => {}
            Event::PlanEnded {
                story,
                attempt,
                end,
                seconds,
                repairs,
                reason,
                ..
            } => match (end, reason) {
                (AttemptEnd::Committed, _) => {
                    tracing::debug!(%story, attempt, repairs, "planned in {seconds:.1} s");
                }
                (AttemptEnd::Failed, reason) => {
                    let reason = reason.unwrap_or("it gave no reason");
                    tracing::warn!(%story, attempt, "no plan: {reason}");
                }
                (AttemptEnd::Stopped, _) => {}
            },
            Event::LeaseTaken { story, from } => {
                tracing::warn!(%story, from, "taken over from a worker that is dead");
            }
            Event::StoryQuarantined { story, reason } => {
                tracing::error!(%story, "in quarantine: {reason}");
            }
            Event::StoryFinished { story } => tracing::info!(%story, "story finished"),
            Event::StoryFailed { story, reason } => tracing::error!(%story, "given up: {reason}"),
            Event::StorySetAside { story, reason } => {
                tracing::error!(%story, "set aside: {reason}");
            }
            Event::IndexRebuilt { moved_to } => tracing::warn!(
                moved_to = %moved_to.display(),
                "the memory index did not open; it is rebuilt from the commit records"
            ),
            Event::RunStopped { shots_done } => {
                tracing::warn!("stopped early, {shots_done} shots are saved; run the same again");
            }
        }
    }
}

fn log_shot(story: &StoryId, shot: ShotId, event: &ShotEvent) {
    match event {
        ShotEvent::CheckpointSaved { done, seconds } => {
            tracing::debug!(%story, %shot, seconds, "saved after step {done}");
        }
        ShotEvent::StepFinished { done, total } => {
            tracing::trace!(%story, %shot, "step {done} of {total}");
        }
        ShotEvent::Committed { seconds, .. } => {
            tracing::debug!(%story, %shot, "made in {seconds:.1} s");
        }
        ShotEvent::AttemptFailed { attempt, reason } => {
            tracing::warn!(%story, %shot, attempt, "{reason}");
        }
        ShotEvent::Resumed { done, total } => {
            tracing::info!(%story, %shot, "goes on after step {done} of {total}");
        }
        ShotEvent::CheckpointIgnored { reason } => {
            tracing::warn!(%story, %shot, "what was saved of it is not used: {reason}");
        }
        // Spans say when these end, and how.
        ShotEvent::AttemptBegun { .. }
        | ShotEvent::StageBegun { .. }
        | ShotEvent::StageFinished { .. }
        | ShotEvent::AttemptEnded { .. } => {}
    }
}
