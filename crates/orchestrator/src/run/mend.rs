//! Files of finished shots that are gone or damaged: the shot is made again, and comes out as its record
//! says, or the record stays without them.
//!
//! The record itself is not touched, so that whatever was made after the shot still follows it.

use std::path::Path;

use storyloom_memory::arrays::decode_array;
use storyloom_memory::soundness::Harm;
use storyloom_memory::{CommitRecord, MemoryError};
use storyloom_story::PassName;

use crate::error::RunError;
use crate::run::lease::Lease;
use crate::run::shot::{ShotContext, ShotPlan, make_files};

/// Makes `harms`, which are those of `record`, good.
///
/// # Errors
/// The shot comes out otherwise: other hardware, or other programs. What was made is kept out of sight,
/// and what the record names stays as it was found.
pub(crate) fn mend_shot(
    context: &ShotContext,
    lease: &Lease,
    plan: &ShotPlan,
    record: &CommitRecord,
    harms: &[Harm],
) -> Result<(), RunError> {
    let shot = record.request.shot;
    let story = &record.request.story;
    for harm in harms {
        let path = harm.path.display();
        tracing::warn!(%story, %shot, "{path}: {}; the shot is made again for it", harm.reason);
    }
    let other = |what: &str| {
        let path = context.bank.record_path(story, shot);
        let reason = format!(
            "files that it names are gone or damaged ({}), and made again the shot has {what} than it \
             says: on another device or with other programs than then. Put the files back from a copy \
             and `storyloom retry` the story, or have the shot and those after it made anew: \
             `storyloom repair DIR {story} --anew`",
            harms
                .iter()
                .map(|harm| harm.path.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        );
        RunError::from(MemoryError::damaged(path, reason))
    };
    if plan.memory_seen() != record.memory_seen || plan.continues != record.continues {
        return Err(other("seen another memory"));
    }
    // Whoever has the latents need not denoise.
    let kept = context.bank.blobs().get(&record.latents);
    let latents = kept.and_then(|bytes| decode_array(Path::new(&record.latents.blake3), &bytes));
    // Of a shot with several passes these are of the last one, which begins with what the others make.
    let finished = latents.ok().map(|latents| (PassName::SHOT, latents));
    let made = make_files(context, plan, finished.into_iter().collect())?;
    if let Some(what) = difference(&made, record) {
        return Err(other(what));
    }
    lease.check()?;
    context.bank.install(story, &record.pictures())?;
    context.bank.forget_step(story, shot)?;
    tracing::info!(%story, %shot, "the files of the shot are what its record says again");
    Ok(())
}

/// What of a shot came out otherwise than recorded, if anything did.
fn difference(made: &CommitRecord, record: &CommitRecord) -> Option<&'static str> {
    let parts = [
        (made.latents == record.latents, "other latents"),
        (made.frames_blake3 == record.frames_blake3, "other frames"),
        (made.tail == record.tail, "other last frames"),
        (made.keyframes == record.keyframes, "other keyframes"),
        (
            made.video == record.video,
            "another video file of the same frames",
        ),
    ];
    let mut parts = parts.into_iter();
    parts.find(|(is_same, _)| !is_same).map(|(_, what)| what)
}
