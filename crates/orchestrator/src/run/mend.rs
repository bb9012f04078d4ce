//! Files of finished shots that are gone or damaged: the shot is made again, and comes out as its record
//! says, or the record stays without them.
//!
//! The record itself is not touched, so that whatever was made after the shot still follows it.

use std::collections::BTreeMap;
use std::path::Path;

use storyloom_memory::arrays::decode_array;
use storyloom_memory::soundness::Harm;
use storyloom_memory::{MemoryError, ShotRecord};

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
    record: &ShotRecord,
    harms: &[Harm],
) -> Result<(), RunError> {
    let shot = record.request().shot;
    let story = &record.request().story;
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
    let is_same_memory = plan.visible.allows(record.seen(), &plan.bank());
    if !is_same_memory || plan.continues.as_ref() != record.continues() {
        return Err(other("seen another memory"));
    }
    // A pass whose latents are there need not be denoised.
    let mut finished = BTreeMap::new();
    for pass in record.passes() {
        let kept = context.bank.blobs().get(pass.latents);
        let name = Path::new(&pass.latents.blake3);
        if let Ok(latents) = kept.and_then(|bytes| decode_array(name, &bytes)) {
            finished.insert(pass.pass, latents);
        }
    }
    let made = make_files(context, plan, finished)?;
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
fn difference(made: &ShotRecord, record: &ShotRecord) -> Option<&'static str> {
    let parts = [
        (made.seen() == record.seen(), "seen another memory"),
        (made.latents() == record.latents(), "other latents"),
        (
            made.frames_blake3() == record.frames_blake3(),
            "other frames",
        ),
        (made.passes() == record.passes(), "another earlier pass"),
        (made.tail() == record.tail(), "other last frames"),
        (made.kept() == record.kept(), "other keyframes"),
        (
            made.file() == record.file(),
            "another video file of the same frames",
        ),
    ];
    let mut parts = parts.into_iter();
    parts.find(|(is_same, _)| !is_same).map(|(_, what)| what)
}
