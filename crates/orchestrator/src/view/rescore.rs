//! The second half of the proof of OneStory: the scores themselves, by networks that are loaded again.
//!
//! [`verify`](crate::verify) derives what a shot saw from the scores that the shot has stored. Whether these
//! scores are what the selector says of the history, only the selector can tell.

use serde::Serialize;
use storyloom_memory::bank::load_item;
use storyloom_memory::policy::onestory::SELECT;
use storyloom_memory::{BlobStore, Remembered, ShotRecord};
use storyloom_story::{MemoryFrame, Method, ShotId, ShotInputs, StoryId};

use super::chosen::stored_scores;
use super::verify::VerifyProblem;
use crate::engine::EngineError;
use crate::error::RunError;
use crate::folder::records::{read_record, references};
use crate::folder::run_folder::{RunFolder, StoryFile};

/// The largest difference of a score that is rounding, relative to the score where that is above 1.
pub const TOLERANCE: f32 = 1e-5;

/// What the selector says of the history of a shot: the scores `[F]` in f32, in the order of shots and then of
/// time, and one 0 where there is no history.
pub type Scorer<'a> = dyn Fn(&ShotInputs) -> Result<Vec<f32>, EngineError> + 'a;

/// What came of scoring histories again.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Rescored {
    /// Shots whose scores came out as they are stored.
    pub shots_proven: usize,
    /// The largest difference of a score among all shots, relative where scores are above 1.
    pub largest_difference: f32,
    /// What is wrong.
    pub problems: Vec<VerifyProblem>,
}

/// Scores the history of every shot of OneStory in `folder` again and compares with what is stored. Shots that are
/// not made yet are passed over, as are those in which no pass has scored anything.
///
/// # Errors
/// Only what keeps it from looking: the run cannot be read, or `scorer` has failed in a way that is not one
/// shot's.
pub fn rescore(folder: &RunFolder, scorer: &Scorer) -> Result<Rescored, RunError> {
    let mut found = Rescored::default();
    for story in folder.run_file()?.stories {
        let file = folder.story_file(&story)?;
        if folder.method_of(&file) == Method::OneStory {
            story_again(folder, &file, scorer, &mut found)?;
        }
    }
    Ok(found)
}

fn story_again(
    folder: &RunFolder,
    file: &StoryFile,
    scorer: &Scorer,
    found: &mut Rescored,
) -> Result<(), RunError> {
    let blobs = BlobStore::new(folder.blobs(), folder.storage().clone());
    let of_story = folder.story(&file.id);
    let load = |shot, item| {
        let remembered = Remembered { shot, item };
        load_item(folder.storage().as_ref(), &of_story, &blobs, &remembered)
    };
    let references = references(folder, &file.id)?.into_iter();
    let references = references.map(|item| load(None, item));
    let mut memory = match references.collect::<Result<Vec<_>, _>>() {
        Ok(memory) => memory,
        Err(error) => {
            found.wrong(
                &file.id,
                None,
                format!("its history cannot be read: {error}"),
            );
            return Ok(());
        }
    };
    for (shot, _) in file.shots() {
        let record = match read_record(folder, &file.id, shot) {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) => {
                found.wrong(&file.id, Some(shot), error.to_string());
                break;
            }
        };
        shot_again(&record, &memory, &blobs, scorer, found)?;
        let kept = record.kept().into_iter();
        match kept
            .map(|item| load(Some(shot), item))
            .collect::<Result<Vec<_>, _>>()
        {
            Ok(kept) => memory.extend(kept),
            Err(error) => {
                // What comes after it cannot be scored.
                found.wrong(
                    &file.id,
                    Some(shot),
                    format!("its latents cannot be read: {error}"),
                );
                break;
            }
        }
    }
    Ok(())
}

fn shot_again(
    record: &ShotRecord,
    memory: &[MemoryFrame],
    blobs: &BlobStore,
    scorer: &Scorer,
    found: &mut Rescored,
) -> Result<(), RunError> {
    let request = record.request();
    let (story, shot) = (&request.story, Some(request.shot));
    let stored = match stored_scores(record, blobs) {
        Ok(Some(stored)) => stored,
        Ok(None) => return Ok(()),
        Err(error) => {
            found.wrong(story, shot, format!("its scores cannot be read: {error}"));
            return Ok(());
        }
    };
    let inputs = ShotInputs {
        request: request.clone(),
        memory: memory.to_vec(),
        previous_tail: Vec::new(),
    };
    let scores = match scorer(&inputs) {
        Ok(scores) => scores,
        Err(error) if error.class == storyloom_story::ErrorClass::Shot => {
            found.wrong(story, shot, error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    match compare(&scores, stored.data()) {
        Err(message) => found.wrong(story, shot, message),
        Ok(difference) => {
            found.largest_difference = found.largest_difference.max(difference);
            found.shots_proven += 1;
        }
    }
    Ok(())
}

/// The largest difference of scores from those that are stored.
///
/// # Errors
/// It is no rounding, in words.
fn compare(scores: &[f32], stored: &[f32]) -> Result<f32, String> {
    if scores.len() != stored.len() {
        return Err(format!(
            "its pass {SELECT} has stored {} scores, and the selector gives {}",
            stored.len(),
            scores.len()
        ));
    }
    let mut largest = 0.0_f32;
    for (frame, (&score, &stored)) in scores.iter().zip(stored).enumerate() {
        let difference = (score - stored).abs() / stored.abs().max(1.0);
        // Also what is not a number.
        if difference.is_nan() || difference > TOLERANCE {
            return Err(format!(
                "its pass {SELECT} has stored the score {stored} for frame {frame} of the history, and the \
                 selector gives {score}: it was made by other weights, from another caption or another history"
            ));
        }
        largest = largest.max(difference);
    }
    Ok(largest)
}

impl Rescored {
    fn wrong(&mut self, story: &StoryId, shot: Option<ShotId>, message: String) {
        self.problems.push(VerifyProblem {
            story: Some(story.clone()),
            shot,
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_no_difference_and_more_is() {
        assert_eq!(compare(&[], &[]), Ok(0.0));
        let rounded = compare(&[0.5, 200.001], &[0.500_004, 200.0]).unwrap();
        assert!((4e-6..6e-6).contains(&rounded), "{rounded}");
        for (scores, words) in [
            (&[0.5][..], "2 scores, and the selector gives 1"),
            (&[0.5, 0.4], "the score 0.5 for frame 1"),
            (&[f32::NAN, 0.5], "for frame 0"),
        ] {
            let said = compare(scores, &[0.5, 0.5]).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
