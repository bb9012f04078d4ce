//! What of a story's memory a shot of OneStory chooses from, and what follows from the scores that a pass of
//! its own has stored.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Budget, BudgetError, ChosenFrame, Counts, Kernel, Plane, choose};
use crate::host::HostTensor;
use crate::pass::PassName;

/// The pass of a shot that scores the history. Its latents are the scores `[F]` in f32, in the order of shots
/// and then of time; `[1]` with a 0 where there is no history. So they are committed with the shot, and
/// every reader of its record derives the choice again.
pub const SELECT: PassName = PassName::new("select");

/// What says how relevant each latent frame of the history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// The network of the paper: by the caption and the history.
    #[default]
    Learned,
    /// The newest frames.
    Recent,
    /// Frames at equal distances.
    Uniform,
    /// Likeness of caption and decoded frames: what the network is trained to say.
    Clip,
}

impl Selector {
    /// The scores of a history of `frames` latent frames, where they follow from its length alone.
    pub fn scores(self, frames: usize, counts: Counts) -> Option<Vec<f32>> {
        match self {
            Self::Recent => Some(super::recent_scores(frames)),
            Self::Uniform => Some(super::uniform_scores(frames, counts.frames())),
            Self::Learned | Self::Clip => None,
        }
    }
}

/// What a story remembers before a shot: reference images, which no shot chooses from, and then the latents of
/// each earlier shot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Reference images, or a ready-made first shot.
    pub references: usize,
    /// The place among them of a ready-made first shot, if there is one.
    pub first_shot: Option<usize>,
    /// Latent frames of each earlier shot, oldest first.
    pub shots: Vec<usize>,
}

impl History {
    /// Latent frames of all shots: F of the paper.
    pub fn frames(&self) -> usize {
        self.shots.iter().sum()
    }

    /// The place in the story's memory of what the next shot is, if that is the ready-made first shot.
    pub fn ready_made(&self) -> Option<usize> {
        self.first_shot.filter(|_| self.shots.is_empty())
    }

    /// What follows from the table of scores that the pass [`SELECT`] of a shot has stored: which latent frames
    /// of `plane` it sees, and how finely.
    ///
    /// # Errors
    /// The budget does not hold what it is to hold, or the table does not belong to this history.
    pub fn choose(
        &self,
        table: &HostTensor,
        budget: Budget,
        plane: Plane,
    ) -> Result<Choice, ChoiceError> {
        let counts = budget.counts(plane)?;
        let scores = read_scores(table, self.frames())?;
        let chosen = choose(scores, counts);
        let place = |chosen: &ChosenFrame| {
            let (shot, frame) = self.locate(chosen.frame)?;
            Some(SeenFrame {
                shot,
                frame,
                score: chosen.score,
                kernel: chosen.kernel,
            })
        };
        let frames = chosen.iter().filter_map(place).collect();
        Ok(Choice {
            references: self.references,
            ready_made: self.ready_made(),
            frames,
            chosen,
        })
    }

    /// The shot and the latent frame in it, both from 0, of a frame of the history.
    fn locate(&self, frame: usize) -> Option<(usize, usize)> {
        let mut rest = frame;
        for (shot, &frames) in self.shots.iter().enumerate() {
            if rest < frames {
                return Some((shot, rest));
            }
            rest -= frames;
        }
        None
    }
}

/// A latent frame that a shot sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeenFrame {
    /// The place of its shot in [`History::shots`].
    pub shot: usize,
    /// The latent frame in that shot, from 0.
    pub frame: usize,
    /// How relevant it is.
    pub score: f32,
    /// How finely it is seen.
    pub kernel: Kernel,
}

/// What a shot sees of its history.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choice {
    references: usize,
    ready_made: Option<usize>,
    /// The frames in the order of time.
    pub frames: Vec<SeenFrame>,
    /// The same by their numbers in the whole history.
    pub chosen: Vec<ChosenFrame>,
}

impl Choice {
    /// Places of the shots of which a frame is seen, in the story's memory, where reference images come first; of
    /// a ready-made first shot its own place.
    pub fn places(&self) -> Vec<usize> {
        if let Some(place) = self.ready_made {
            return vec![place];
        }
        let mut places: Vec<usize> = self.frames.iter().map(|seen| seen.shot).collect();
        places.dedup();
        places
            .iter_mut()
            .for_each(|place| *place += self.references);
        places
    }
}

/// Why nothing can be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ChoiceError {
    /// The budget does not hold what it is to hold.
    Budget(BudgetError),
    /// There is not one score for each frame.
    Scores {
        /// Scores that there are.
        scores: usize,
        /// Latent frames of the history.
        frames: usize,
    },
    /// A score says nothing.
    NotFinite {
        /// The frame of the history.
        frame: usize,
    },
    /// The scores follow from the length of the history, and are others.
    NotOfSelector {
        /// The first such frame of the history.
        frame: usize,
        /// Its score.
        stored: f32,
        /// What it has to be.
        derived: f32,
    },
}

impl fmt::Display for ChoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(error) => error.fmt(f),
            Self::Scores { scores, frames: 0 } => write!(
                f,
                "there is no history, for which one score of 0 stands, and there are {scores} scores or another one"
            ),
            Self::Scores { scores, frames } => write!(
                f,
                "the history has {frames} latent frames, and there are {scores} scores"
            ),
            Self::NotFinite { frame } => {
                write!(f, "the score of frame {frame} of the history is not finite")
            }
            Self::NotOfSelector {
                frame,
                stored,
                derived,
            } => write!(
                f,
                "the score of frame {frame} of the history is {stored}, and its selector gives it {derived}"
            ),
        }
    }
}

impl std::error::Error for ChoiceError {}

impl From<BudgetError> for ChoiceError {
    fn from(error: BudgetError) -> Self {
        Self::Budget(error)
    }
}

/// The table of scores as the pass [`SELECT`] returns it: `[F]` in f32, and `[1]` with a 0 where there is no
/// history.
pub fn scores_table(mut scores: Vec<f32>) -> HostTensor {
    if scores.is_empty() {
        scores.push(0.0);
    }
    HostTensor::of_vector(scores)
}

/// The scores in a table that [`scores_table`] has made for a history of `frames` latent frames.
///
/// # Errors
/// There is not one finite score for each of them.
pub fn read_scores(table: &HostTensor, frames: usize) -> Result<&[f32], ChoiceError> {
    let scores = table.data();
    let count = scores.len();
    let wrong = ChoiceError::Scores {
        scores: count,
        frames,
    };
    if table.shape() != [frames.max(1)] {
        return Err(wrong);
    }
    if let Some(frame) = table.first_non_finite() {
        return Err(ChoiceError::NotFinite { frame });
    }
    match frames {
        0 if scores != [0.0] => Err(wrong),
        frames => Ok(&scores[..frames]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANE: Plane = [8, 12];

    fn history(references: usize, shots: &[usize]) -> History {
        History {
            references,
            first_shot: None,
            shots: shots.to_vec(),
        }
    }

    #[test]
    fn a_ready_made_first_shot_is_seen_by_the_first_shot_alone() {
        let budget = Budget {
            units: 1,
            counts: None,
        };
        let begun = History {
            references: 1,
            first_shot: Some(0),
            shots: Vec::new(),
        };
        let first = begun
            .choose(&scores_table(Vec::new()), budget, PLANE)
            .unwrap();
        assert_eq!((first.places(), first.frames.len()), (vec![0], 0));
        let second = History {
            shots: vec![2],
            ..begun
        };
        let second = second.choose(&table(&[0.5, 0.1]), budget, PLANE).unwrap();
        assert_eq!((second.places(), second.frames.len()), (vec![1], 2));
    }

    fn table(scores: &[f32]) -> HostTensor {
        scores_table(scores.to_vec())
    }

    #[test]
    fn a_choice_says_shot_frame_score_and_kernel() {
        let budget = Budget {
            units: 1,
            counts: Some(Counts([0, 1, 2, 0])),
        };
        let history = history(1, &[2, 3, 1]);
        let scores = table(&[0.1, 0.4, 0.0, 0.9, 0.2, 0.4]);
        let choice = history.choose(&scores, budget, PLANE).unwrap();
        let found: Vec<_> = choice
            .frames
            .iter()
            .map(|seen| (seen.shot, seen.frame, seen.score, seen.kernel))
            .collect();
        let expected = [
            (0, 1, 0.4, Kernel::P8),
            (1, 1, 0.9, Kernel::P4),
            (2, 0, 0.4, Kernel::P8),
        ];
        assert_eq!(found, expected);
        // The reference image comes first in the memory, and nobody chooses it.
        assert_eq!(choice.places(), [1, 2, 3]);
        let numbers: Vec<usize> = choice.chosen.iter().map(|chosen| chosen.frame).collect();
        assert_eq!(numbers, [1, 3, 5]);
        let one_shot = table(&[0.0, 0.0, 0.9, 0.8, 0.7, 0.0]);
        let choice = history.choose(&one_shot, budget, PLANE).unwrap();
        assert_eq!(choice.places(), [2]);
    }

    #[test]
    fn without_history_there_is_one_score_of_zero() {
        let nothing = history(1, &[]);
        let choice = nothing.choose(&table(&[]), Budget::default(), PLANE);
        assert_eq!(choice.unwrap().places(), Vec::<usize>::new());
        for wrong in [&[0.5][..], &[0.0, 0.0]] {
            let error = nothing.choose(&table(wrong), Budget::default(), PLANE);
            let said = error.unwrap_err().to_string();
            assert!(said.contains("no history"), "{said}");
        }
    }

    #[test]
    fn a_table_of_another_history_is_refused() {
        let history = history(0, &[2, 2]);
        let said = |table: HostTensor| {
            let error = history.choose(&table, Budget::default(), PLANE);
            error.unwrap_err().to_string()
        };
        assert!(said(table(&[0.0; 3])).contains("4 latent frames, and there are 3 scores"));
        let square = HostTensor::new(vec![2, 2], vec![0.0; 4]).unwrap();
        assert!(said(square).contains("scores"));
        assert!(said(table(&[0.0, 0.0, f32::NAN, 0.0])).contains("frame 2"));
        let budget = Budget {
            units: 0,
            counts: Some(Counts([1, 0, 0, 0])),
        };
        let error = history.choose(&table(&[0.0; 4]), budget, PLANE);
        assert!(matches!(error, Err(ChoiceError::Budget(_))));
    }

    /// Specification `onestory`, section 8, item 13: shots in the colours A, B and again A, and a caption that
    /// names A. Scores by likeness see frames of A, and the newest frames before the third shot are of B.
    #[test]
    fn insert_and_recall_tells_the_selectors_apart() {
        let colours = [[1.0, 0.0], [0.0, 1.0]];
        let caption = [0.9_f32, 0.1];
        let history = history(0, &[5, 5]);
        let likeness = colours.iter().flat_map(|colour: &[f32; 2]| {
            let dot: f32 = colour.iter().zip(caption).map(|(a, b)| a * b).sum();
            [dot; 5]
        });
        let budget = Budget {
            units: 1,
            counts: Some(Counts([0, 2, 2, 0])),
        };
        let counts = budget.counts(PLANE).unwrap();
        let seen = |scores: Vec<f32>| {
            let choice = history.choose(&scores_table(scores), budget, PLANE);
            choice.unwrap().places()
        };
        let baseline = |selector: Selector| selector.scores(history.frames(), counts);
        assert_eq!(seen(likeness.collect()), [0]);
        assert_eq!(seen(baseline(Selector::Recent).unwrap()), [1]);
        assert_eq!(seen(baseline(Selector::Uniform).unwrap()), [0, 1]);
        assert_eq!(baseline(Selector::Learned), None);
        assert_eq!(baseline(Selector::Clip), None);
    }
}
