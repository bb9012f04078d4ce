//! Records that are gone although a later one of their story is there.
//!
//! The record of a shot names the digest of the one before it, and that digest is over all that a
//! record says, the seconds of its stages too. So what follows from a record that is gone has its
//! proof only if the shot is made again **as it was**: with the same seed and what it saw then, which
//! makes the same pictures, and with the seconds that the [journals](storyloom_telemetry::shift) know.
//! The digest that the next record names says whether it is. Anything else gets no place in the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use storyloom_memory::{BlobRef, MemoryBank, MemoryError, ShotRecord};
use storyloom_story::{Media, ShotId, Stage, StoryId};
use storyloom_telemetry::AttemptEnd;
use storyloom_telemetry::shift::Attempt;

use crate::error::RunError;
use crate::folder::journals::shifts;
use crate::folder::run_folder::RunFolder;

/// A record that is gone, and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    path: PathBuf,
    /// The first record that follows from it.
    follower: PathBuf,
    /// Its digest, as the record of the next shot names it; none if that is gone as well.
    wanted: Option<String>,
    /// What else the record may have said, beside what is found when its shot is made again.
    arithmetics: Vec<String>,
    /// What lies under the name of the shot's video or picture.
    video: Option<BlobRef>,
    /// The attempts that may have made it, the likeliest first.
    tales: Vec<Tale>,
}

/// What a journal tells of an attempt.
#[derive(Debug, Clone)]
struct Tale {
    attempt: u32,
    seconds: BTreeMap<Stage, f64>,
}

impl Lost {
    /// What is known of the record of a shot that is not there; none if nothing `later` in its story
    /// was there either when the story was taken (`there`), so that the shot may be made as any other.
    ///
    /// # Errors
    /// No journal says how long its stages took: it cannot be made again as it was. A record or the
    /// journals cannot be read.
    pub(crate) fn look(
        bank: &MemoryBank,
        folder: &RunFolder,
        (story, shot): (&StoryId, ShotId),
        media: Media,
        later: &[ShotId],
        there: &BTreeSet<ShotId>,
    ) -> Result<Option<Self>, RunError> {
        // One that is damaged is lost as well.
        let is_sound = |shot: &&ShotId| {
            there.contains(shot)
                && !matches!(bank.record(story, **shot), Err(MemoryError::Damaged { .. }))
        };
        let Some(&follower) = later.iter().find(is_sound) else {
            return Ok(None);
        };
        let mut lost = Self {
            path: bank.record_path(story, shot),
            follower: bank.record_path(story, follower),
            wanted: None,
            arithmetics: Vec::new(),
            video: None,
            tales: tales(folder, story, shot),
        };
        if let Some(record) = bank.record(story, follower)? {
            if later.first() == Some(&follower) {
                lost.wanted = Some(record.previous().clone().unwrap_or_default());
            }
            lost.arithmetics.push(record.arithmetic().to_owned());
        }
        let folder = bank.story_folder(story);
        let video = folder.join(media.file_name(shot));
        let storage = bank.storage();
        if storage.exists(&video) {
            lost.video = Some(BlobRef::of(&storage.read(&video)?));
        }
        match lost.tales.is_empty() {
            true => Err(lost.cannot_heal("no journal says how that shot was made")),
            false => Ok(Some(lost)),
        }
    }

    /// The attempt that is to be made again.
    pub(crate) fn attempt(&self) -> u32 {
        self.tales.first().map_or(0, |tale| tale.attempt)
    }

    /// Makes the record of the shot that was made again the one that is gone.
    ///
    /// # Errors
    /// It says something else.
    pub(crate) fn restore(&self, made: &mut ShotRecord) -> Result<(), RunError> {
        let own = std::iter::once(made.arithmetic().clone());
        let arithmetics: Vec<String> = own.chain(self.arithmetics.iter().cloned()).collect();
        let own = std::iter::once(&made.file().content);
        let videos: Vec<BlobRef> = own.chain(&self.video).cloned().collect();
        let tales = self.tales.iter();
        for tale in tales.filter(|tale| tale.attempt == made.request().attempt) {
            for (arithmetic, video) in pairs(&arithmetics, &videos) {
                let mut record = made.retold(&tale.seconds, arithmetic, video);
                record.seal()?;
                let is_it = |wanted: &String| wanted == record.digest();
                if self.wanted.as_ref().is_none_or(is_it) {
                    tracing::info!(record = %self.path.display(), "a lost record is as it was");
                    *made = record;
                    return Ok(());
                }
            }
        }
        Err(self.cannot_heal("that shot was made again, and came out otherwise"))
    }

    fn cannot_heal(&self, why: &str) -> RunError {
        RunError::LostRecord {
            path: self.path.clone(),
            follower: self.follower.clone(),
            why: why.to_owned(),
        }
    }
}

/// The shots of a story that have their records, when it is taken: one listing instead of a look for each
/// shot. It leaves nothing out, and each record is read by its name before anything follows from it.
pub(crate) fn recorded(bank: &MemoryBank, story: &StoryId) -> Result<BTreeSet<ShotId>, RunError> {
    let folder = bank.story_folder(story).join("commits");
    let names = bank.storage().list(&folder)?;
    let shot = |name: &String| name.strip_suffix(".json")?.parse().ok();
    Ok(names.iter().filter_map(shot).collect())
}

fn pairs<'a, A, B>(first: &'a [A], second: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    let pair = |one| second.iter().map(move |other| (one, other));
    first.iter().flat_map(pair)
}

/// What the journals tell of the attempts at a shot that came as far as to its record: those that say
/// that they have written it first, the last of these before all others.
fn tales(folder: &RunFolder, story: &StoryId, shot: ShotId) -> Vec<Tale> {
    let shifts = shifts(folder);
    let attempts = shifts.iter().flat_map(|shift| shift.all_attempts());
    let mut attempts: Vec<_> = attempts
        .filter(|attempt| attempt.shot == shot && &attempt.story == story)
        .collect();
    // Moments after 1970 are in the order of their bits.
    let order = |attempt: &Attempt| {
        let is_said = attempt.end == Some(AttemptEnd::Committed);
        (is_said, attempt.begun.to_bits())
    };
    attempts.sort_by_key(|attempt| std::cmp::Reverse(order(attempt)));
    let tell = |attempt: Attempt| {
        Some(Tale {
            attempt: attempt.attempt,
            seconds: attempt.recorded_seconds()?,
        })
    };
    attempts.into_iter().filter_map(tell).collect()
}
