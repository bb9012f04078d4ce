//! What a shot is asked for as one of a story: how it opens, and what it sees of the shots before it.

use storyloom_memory::ShotRecord;
use storyloom_story::{Continuation, Method, Opening, Resolution, ShotId, ShotRequest, ShotScript};

use crate::error::RunError;
use crate::run::lost_record::Lost;
use crate::run::shot::{ShotContext, ShotPlan, stored};

/// What a shot knows of the shots before it.
#[derive(Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) done: &'a [ShotId],
    pub(crate) last: Option<&'a ShotRecord>,
    pub(crate) story_plan: Option<&'a str>,
    /// What is known of the record of this shot, if it was there before.
    pub(crate) lost: Option<&'a Lost>,
    pub(crate) film: Resolution,
    pub(crate) remaining: usize,
}

/// How a shot begins. One of a method without a way to go on from frames begins as after a cut.
pub(crate) fn opening(
    method: Method,
    shot: &ShotScript,
    has_previous: bool,
    has_references: bool,
    continuation: Continuation,
) -> Opening {
    match (has_previous, shot.cut) {
        (false, _) if has_references => Opening::Memory,
        (false, _) => Opening::Text,
        (true, false) if method.profile().continues => continuation.opening(),
        (true, _) => Opening::Memory,
    }
}

/// Stage `plan`: what the shot sees of the bank.
pub(crate) fn plan(
    context: &ShotContext,
    chain: Chain,
    request: ShotRequest,
) -> Result<ShotPlan, RunError> {
    let history = context.bank.history(&request.story, chain.done)?;
    let policy = context.terms.of(request.method)?.memory.policy();
    let visible = policy.visible(request.opening, stored(&history));
    let window = visible.clone().given(history.len());
    let continued = request.opening.given_frames() > 0;
    let continues = chain
        .last
        .filter(|_| continued)
        .and_then(ShotRecord::tail)
        .cloned();
    let previous = chain.last.map(|last| last.digest().clone());
    Ok(ShotPlan {
        request,
        history,
        visible,
        window,
        continues,
        previous,
        story_plan: chain.story_plan.map(str::to_owned),
        lost: chain.lost.cloned(),
        film: chain.film,
        remaining: chain.remaining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Specification, section 10 item 20.
    #[test]
    fn saved_lengths_of_a_shot_list() {
        let shot = |cut| ShotScript {
            prompt: "p".to_owned(),
            first_frame_prompt: None,
            cut,
        };
        let saved = |continuation| {
            [true, false, false, true].map(|cut| {
                let method = Method::StoryMem;
                81 - opening(method, &shot(cut), true, false, continuation).given_frames()
            })
        };
        assert_eq!(saved(Continuation::Mi2v), [81, 80, 80, 81]);
        assert_eq!(saved(Continuation::Mm2v), [81, 76, 76, 81]);
        assert_eq!(saved(Continuation::None), [81, 81, 81, 81]);
        assert_eq!(
            opening(
                Method::StoryMem,
                &shot(true),
                false,
                false,
                Continuation::Mi2v
            ),
            Opening::Text
        );
        assert_eq!(
            opening(
                Method::StoryMem,
                &shot(true),
                false,
                true,
                Continuation::Mi2v
            ),
            Opening::Memory
        );
        // A method that does not go on from frames.
        assert_eq!(
            opening(
                Method::OneStory,
                &shot(false),
                true,
                false,
                Continuation::Mi2v
            ),
            Opening::Memory
        );
    }
}
