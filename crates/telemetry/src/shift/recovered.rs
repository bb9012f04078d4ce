//! What a program that was killed could not say itself, and others tell.

use std::collections::HashMap;

use storyloom_story::StoryId;

use super::{Attempt, Incident, Shift};
use crate::AttemptEnd;

/// Fills [`Shift::recovered`] of all shifts of a run.
pub(super) fn recover_attempts<'a>(shifts: impl Iterator<Item = &'a mut Shift>) {
    let mut shifts: Vec<&mut Shift> = shifts.collect();
    let found = recovered(shifts.iter().map(|shift| &**shift));
    for (shift, recovered) in shifts.iter_mut().zip(found) {
        shift.recovered = recovered;
    }
}

/// Of each of `shifts`, the attempts whose programs were killed between the record of their shot
/// and the line in their journal ([`Shift::recovered`]): the story went on after them, with another
/// shot or to its end, and nobody made their shot again. The shots of a story are made one after
/// the other.
fn recovered<'a>(shifts: impl Iterator<Item = &'a Shift> + Clone) -> Vec<Vec<Attempt>> {
    let mut result: Vec<Vec<Attempt>> = Vec::new();
    let mut open: HashMap<StoryId, Vec<Open>> = HashMap::new();
    for (place, shift) in shifts.clone().enumerate() {
        result.push(Vec::new());
        for attempt in shift.open_attempts() {
            let story = open.entry(attempt.story.clone()).or_default();
            story.push(Open::new(place, attempt));
        }
    }
    if open.is_empty() {
        return result;
    }
    let ended = shifts.clone().flat_map(|shift| &shift.attempts);
    for attempt in ended {
        for open in open.get_mut(&attempt.story).into_iter().flatten() {
            open.compare(attempt);
        }
    }
    for story in open.values_mut() {
        let others: Vec<Attempt> = story.iter().map(|open| open.attempt.clone()).collect();
        for open in story {
            others.iter().for_each(|other| open.compare(other));
        }
    }
    for (at, incident) in shifts.flat_map(|shift| &shift.incidents) {
        if let Incident::StoryFinished { story } = incident {
            for open in open.get_mut(story).into_iter().flatten() {
                open.is_behind |= *at >= open.attempt.begun;
            }
        }
    }
    for open in open.into_values().flatten() {
        if open.is_behind && !open.is_made_again {
            let end = Some(AttemptEnd::Committed);
            result[open.place].push(Attempt {
                end,
                ..open.attempt
            });
        }
    }
    result
}

/// An attempt without an end.
struct Open {
    /// Place of its shift.
    place: usize,
    attempt: Attempt,
    /// Whether its story went on after it with something else.
    is_behind: bool,
    /// Whether somebody else made its shot, or began to.
    is_made_again: bool,
}

impl Open {
    fn new(place: usize, attempt: Attempt) -> Self {
        Self {
            place,
            attempt,
            is_behind: false,
            is_made_again: false,
        }
    }

    /// Takes into account another attempt at the story.
    fn compare(&mut self, other: &Attempt) {
        let is_later = other.begun > self.attempt.begun;
        if other.shot == self.attempt.shot {
            self.is_made_again |= is_later || other.end == Some(AttemptEnd::Committed);
        } else {
            self.is_behind |= is_later;
        }
    }
}

#[cfg(test)]
mod tests {
    use storyloom_story::ShotId;

    use super::super::{Live, LiveShot, ShiftStart};
    use super::*;

    fn story() -> StoryId {
        StoryId::new("neo").unwrap()
    }

    fn live_shot(shot: u32, begun: f64) -> LiveShot {
        LiveShot::begin(story(), ShotId { scene: 1, shot }, 0, begun)
    }

    /// A shift without an end that was at these shots, each with the moment of its begin.
    fn shift(now: &[(u32, f64)]) -> Shift {
        let now: Vec<_> = now.iter().map(|&(shot, at)| live_shot(shot, at)).collect();
        Shift {
            id: String::new(),
            start: ShiftStart::default(),
            begun: 0.0,
            loaded: Some(0.0),
            attempts: Vec::new(),
            recovered: Vec::new(),
            plans: Vec::new(),
            incidents: Vec::new(),
            end: None,
            live: Some(Live {
                now,
                ..Live::default()
            }),
            last_seen: 9.0,
        }
    }

    fn ended(shot: u32, begun: f64, end: AttemptEnd) -> Attempt {
        Attempt {
            end: Some(end),
            ..live_shot(shot, begun).so_far(begun + 1.0)
        }
    }

    /// Expects that the first of `shifts` has made these shots without saying so.
    #[track_caller]
    fn expect(shifts: &[&Shift], made: &[u32]) {
        let first = recovered(shifts.iter().copied()).swap_remove(0);
        let committed = |attempt: &Attempt| attempt.end == Some(AttemptEnd::Committed);
        assert!(first.iter().all(committed));
        let found: Vec<u32> = first.iter().map(|attempt| attempt.shot.shot).collect();
        assert_eq!(found, made);
    }

    #[test]
    fn a_story_that_went_on_has_the_shot_before() {
        let killed = shift(&[(2, 5.0)]);
        expect(&[&killed], &[]);
        // Somebody else makes the next shot, or has tried to.
        expect(&[&killed, &shift(&[(3, 7.0)])], &[2]);
        let mut other = shift(&[]);
        other.attempts = vec![ended(3, 7.0, AttemptEnd::Failed)];
        expect(&[&killed, &other], &[2]);
        // What came before says nothing.
        other.attempts = vec![ended(1, 4.0, AttemptEnd::Committed)];
        expect(&[&killed, &other], &[]);
        let story = story();
        other.incidents = vec![(4.5, Incident::StoryFinished { story })];
        expect(&[&killed, &other], &[]);
        other.incidents[0].0 = 6.0;
        expect(&[&killed, &other], &[2]);
    }

    #[test]
    fn a_shot_that_is_made_again_did_not_exist() {
        let killed = shift(&[(2, 5.0)]);
        expect(&[&killed, &shift(&[(2, 7.0)])], &[]);
        let mut other = shift(&[(3, 9.0)]);
        for end in [AttemptEnd::Committed, AttemptEnd::Failed] {
            other.attempts = vec![ended(2, 7.0, end)];
            expect(&[&killed, &other], &[]);
        }
        // By the clock of another machine it was before.
        other.attempts = vec![ended(2, 4.0, AttemptEnd::Committed)];
        expect(&[&killed, &other], &[]);
        // An earlier attempt that came to nothing.
        other.attempts = vec![ended(2, 4.0, AttemptEnd::Failed)];
        expect(&[&killed, &other], &[2]);
    }
}
