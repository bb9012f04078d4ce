//! What a network chose of the history: the share of latent frames of shots that hold what the caption names.
//!
//! Only shots count that name something which an earlier caption has told, and whose history has more frames
//! than they may see: others leave nothing to choose. Frames count, not shots.

use super::Measured;
use crate::selection::Selection;

/// Frames that hold what is named, and all.
type Frames = (f64, f64);

/// The choice of a shot, and the earlier shots that hold what its caption names.
pub(super) struct Choice<'a> {
    selection: &'a Selection,
    holders: Vec<usize>,
}

impl Choice<'_> {
    fn chosen(&self) -> f64 {
        self.selection.frames.len() as f64
    }

    /// Latent frames of the shots that hold it.
    fn offered(&self) -> f64 {
        let holders = self.holders.iter();
        let frames = holders.filter_map(|&shot| self.selection.history.get(shot));
        frames.sum::<usize>() as f64
    }
}

/// Over all choices of a story: what `frames` finds, as a share.
pub(super) fn share(story: &Measured, frames: fn(&Choice) -> Frames) -> Option<f64> {
    let (mut held, mut all) = (0.0, 0.0);
    for choice in choices(story) {
        let found = frames(&choice);
        held += found.0;
        all += found.1;
    }
    (all > 0.0).then(|| held / all)
}

fn choices<'a>(story: &'a Measured) -> impl Iterator<Item = Choice<'a>> {
    let reading = story.reading;
    let selections = reading.selections.iter().enumerate();
    selections.filter_map(|(shot, selection)| {
        let selection = selection.as_ref()?;
        let holders = reading.story.holders(shot);
        let is_free = selection.frames.len() < selection.history.iter().sum();
        (is_free && !holders.is_empty()).then_some(Choice { selection, holders })
    })
}

/// Of the chosen frames.
pub(super) fn held(choice: &Choice) -> Frames {
    let frames = &choice.selection.frames;
    let held = frames
        .iter()
        .filter(|seen| choice.holders.contains(&seen.shot));
    (held.count() as f64, choice.chosen())
}

/// Of those of the chosen frames that have the finest kernel among them.
pub(super) fn held_finest(choice: &Choice) -> Frames {
    let frames = &choice.selection.frames;
    let finest = frames.iter().map(|seen| seen.kernel).min();
    let finest = frames.iter().filter(|seen| Some(seen.kernel) == finest);
    let held = finest
        .clone()
        .filter(|seen| choice.holders.contains(&seen.shot));
    (held.count() as f64, finest.count() as f64)
}

/// Of as many frames drawn at random without repetition: their expectation, exactly.
pub(super) fn by_chance(choice: &Choice) -> Frames {
    let history: usize = choice.selection.history.iter().sum();
    let share = choice.offered() / history as f64;
    (choice.chosen() * share, choice.chosen())
}

/// Of the best choice, what was chosen indeed.
pub(super) fn held_of_best(choice: &Choice) -> Frames {
    (held(choice).0, at_best(choice).0)
}

/// Of as many frames, chosen by what is right.
pub(super) fn at_best(choice: &Choice) -> Frames {
    (choice.chosen().min(choice.offered()), choice.chosen())
}

#[cfg(test)]
mod tests {
    use storyloom_story::onestory::{Kernel, SeenFrame};
    use storyloom_tinyworld::{Outline, Pattern, Split};

    use super::*;
    use crate::StoryReading;
    use crate::metric::Metric;

    /// A story of insertion and recall in which shots from the fifth on see `seen` of three latent frames a shot.
    fn reading(seen: &[(usize, usize, Kernel)]) -> StoryReading {
        let story = Outline::of(Pattern::InsertRecall).draw(1, Split::HeldOut);
        let frames = seen.iter().map(|&(shot, frame, kernel)| SeenFrame {
            shot,
            frame,
            score: 0.5,
            kernel,
        });
        let frames: Vec<SeenFrame> = frames.collect();
        let selections = (0..6).map(|shot| {
            (shot >= 4).then(|| Selection {
                history: vec![3; shot],
                frames: frames.clone(),
            })
        });
        StoryReading {
            shots: vec![None; 6],
            selections: selections.collect(),
            story,
        }
    }

    fn value(reading: &StoryReading, metric: Metric) -> f64 {
        metric.of(&Measured::new(reading)).unwrap()
    }

    /// Shots 0 and 1 hold what shot 4 names, shot 2 what shot 5 names.
    #[test]
    fn frames_of_the_shots_that_hold_it_count() {
        let seen = [
            (0, 1, Kernel::P4),
            (1, 0, Kernel::P4),
            (2, 2, Kernel::P8),
            (3, 0, Kernel::P8),
        ];
        let reading = reading(&seen);
        let expected = [
            (Metric::Selected, (2.0 + 1.0) / 8.0),
            (Metric::SelectedOfBest, (2.0 + 1.0) / 7.0),
            (Metric::SelectedFinest, (2.0 + 0.0) / 4.0),
            // Six frames of twelve, three of fifteen.
            (Metric::SelectedByChance, (4.0 * 0.5 + 4.0 * 0.2) / 8.0),
            // Four of six, three of three.
            (Metric::SelectedAtBest, (4.0 + 3.0) / 8.0),
        ];
        for (metric, expected) in expected {
            let value = value(&reading, metric);
            assert!((value - expected).abs() < 1e-12, "{metric:?} {value}");
        }
    }

    #[test]
    fn where_everything_is_seen_nothing_was_chosen() {
        let mut reading = reading(&[(0, 0, Kernel::P4)]);
        for selection in reading.selections.iter_mut().flatten() {
            selection.history = vec![1];
        }
        assert_eq!(Metric::Selected.of(&Measured::new(&reading)), None);
        reading.selections.fill(None);
        assert_eq!(Metric::SelectedByChance.of(&Measured::new(&reading)), None);
    }
}
