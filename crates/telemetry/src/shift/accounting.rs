//! Where the time of the ranks went.
//!
//! At each instant of a shift the time of its ranks is *useful* if a stage runs whose work is kept,
//! else *wasted* if a stage runs whose work is lost, else *load* while it loads, else *idle*. Each
//! instant is counted once however many stages run, so the four add up to ranks x time.
//!
//! The work of an attempt is kept if the shot was committed by it; of another attempt, denoising is
//! kept up to the state that the attempt after it went on from, and so on back; up to its last sign
//! of life, if it was killed before it could note that it had saved that state. While nobody has
//! gone on with a shot, what is saved of it counts as kept, and so does what a program is at that
//! seems to live. The work of a plan is kept if the plan exists.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};
use storyloom_story::{ShotId, Stage, StoryId};

use super::{Attempt, PlanAttempt, Shift};
use crate::AttemptEnd;

/// Time of ranks, in seconds, by what it went into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Stages whose work was kept.
    pub useful: f64,
    /// Stages whose work was lost: the sum of the two below.
    pub wasted: f64,
    /// Loading, from the start of a program to its first story.
    pub load: f64,
    /// Nothing.
    pub idle: f64,
    /// Wasted because the program was stopped or killed.
    pub lost_to_preemption: f64,
    /// Wasted because an attempt failed.
    pub lost_to_failure: f64,
}

impl Split {
    /// All of it: ranks x time.
    pub fn total(&self) -> f64 {
        self.useful + self.wasted + self.load + self.idle
    }

    /// Share of the time that was useful; `None` if there was none.
    pub fn goodput(&self) -> Option<f64> {
        let total = self.total();
        (total > 0.0).then(|| self.useful / total)
    }

    pub(super) fn times(self, ranks: f64) -> Self {
        Self {
            useful: self.useful * ranks,
            wasted: self.wasted * ranks,
            load: self.load * ranks,
            idle: self.idle * ranks,
            lost_to_preemption: self.lost_to_preemption * ranks,
            lost_to_failure: self.lost_to_failure * ranks,
        }
    }
}

impl Add for Split {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            useful: self.useful + other.useful,
            wasted: self.wasted + other.wasted,
            load: self.load + other.load,
            idle: self.idle + other.idle,
            lost_to_preemption: self.lost_to_preemption + other.lost_to_preemption,
            lost_to_failure: self.lost_to_failure + other.lost_to_failure,
        }
    }
}

impl AddAssign for Split {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// The time of all shifts of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accounting {
    /// Of each shift, in the order given.
    pub shifts: Vec<Split>,
    /// Of all shifts, by what computed.
    pub by_device: BTreeMap<String, Split>,
}

impl Accounting {
    /// Of all shifts.
    pub fn total(&self) -> Split {
        let parts = self.by_device.values();
        parts.fold(Split::default(), |sum, part| sum + *part)
    }
}

/// What of the shifts is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything, with what programs that live are at.
    Everything,
    /// Of programs that live, only the time before the first attempt that still goes on: nothing
    /// that may turn out otherwise.
    Settled,
}

/// Accounts for all shifts of a run, at the moment `now` (seconds since 1970).
pub fn accounting<S: Borrow<Shift>>(shifts: &[S], now: f64, extent: Extent) -> Accounting {
    let shifts: Vec<&Shift> = shifts.iter().map(Borrow::borrow).collect();
    let attempts: Vec<Vec<Attempt>> = shifts.iter().map(|shift| shift.all_attempts()).collect();
    let lives: Vec<bool> = shifts.iter().map(|shift| shift.goes_on(now)).collect();
    let known: Vec<Known> = attempts
        .iter()
        .enumerate()
        .flat_map(|(shift, attempts)| {
            let open = lives[shift];
            attempts.iter().map(move |attempt| Known {
                shift,
                attempt,
                goes_on: open && attempt.end.is_none(),
            })
        })
        .collect();
    let mut pieces: Vec<Vec<Piece>> = shifts.iter().map(|_| Vec::new()).collect();
    for (shift, mut more) in fates(known) {
        pieces[shift].append(&mut more);
    }
    let plans: Vec<Vec<PlanAttempt>> = shifts.iter().map(|shift| shift.all_plans()).collect();
    for ((&open, plans), pieces) in lives.iter().zip(&plans).zip(&mut pieces) {
        pieces.extend(plans.iter().filter_map(|plan| piece_of_plan(plan, open)));
    }
    let mut result = Accounting::default();
    for (place, shift) in shifts.iter().enumerate() {
        let (attempts, plans, pieces) = (&attempts[place], &plans[place], &pieces[place]);
        let mut until = shift.until();
        if extent == Extent::Settled && lives[place] {
            let open = attempts.iter().filter(|attempt| attempt.end.is_none());
            until = open.fold(until, |until, attempt| until.min(attempt.begun));
            let open = plans.iter().filter(|plan| plan.end.is_none());
            until = open.fold(until, |until, plan| until.min(plan.begun));
        }
        let loaded = shift.loaded.unwrap_or(until);
        let split = split((shift.begun, until), loaded, pieces).times(shift.start.ranks as f64);
        let of_device = result.by_device.entry(shift.start.device.clone());
        *of_device.or_default() += split;
        result.shifts.push(split);
    }
    result
}

/// An attempt, and what is known of its shift.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Place of the shift.
    pub(super) shift: usize,
    pub(super) attempt: &'a Attempt,
    /// Whether it goes on.
    pub(super) goes_on: bool,
}

/// A piece of a shift in which a stage ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Piece {
    begun: f64,
    pub(super) end: f64,
    fate: Fate,
}

/// What became of the work of a stage, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Kept,
    Preempted,
    Failed,
}

/// What became of the work of every attempt, with the places of their shifts.
pub(super) fn fates(known: Vec<Known>) -> Vec<(usize, Vec<Piece>)> {
    let mut shots: BTreeMap<(&StoryId, ShotId), Vec<Known>> = BTreeMap::new();
    for one in known {
        let shot = (&one.attempt.story, one.attempt.shot);
        shots.entry(shot).or_default().push(one);
    }
    let mut result = Vec::new();
    for attempts in shots.values_mut() {
        attempts.sort_by(|one, two| one.attempt.begun.total_cmp(&two.attempt.begun));
        let kept = kept_until(attempts);
        let pieces = attempts.iter().zip(kept);
        result.extend(pieces.map(|(one, kept)| (one.shift, pieces_of(one.attempt, kept))));
    }
    result
}

/// Up to which moment the work of each attempt at one shot is kept. In the order of their begin.
fn kept_until(attempts: &[Known]) -> Vec<Kept> {
    let mut kept = vec![Kept::Nothing; attempts.len()];
    let committed = |one: &&Known| one.attempt.end == Some(AttemptEnd::Committed);
    let first = attempts.iter().filter(committed).min_by(|one, two| {
        let ends = [one, two].map(|one| one.attempt.ended);
        ends[0].total_cmp(&ends[1])
    });
    let mut at = match first {
        // Of two programs that both made the shot, the first wrote its record.
        Some(first) => attempts.iter().position(|one| std::ptr::eq(one, first)),
        None => attempts.len().checked_sub(1),
    };
    if let Some(last) = at {
        let attempt = attempts[last].attempt;
        let saved = attempt.saved.last().map(|saved| saved.at);
        kept[last] = match (
            first.is_some() || attempts[last].goes_on,
            attempt.end,
            saved,
        ) {
            (true, ..) => Kept::Everything,
            // It will be made anew, with other noise or not at all.
            (false, Some(AttemptEnd::Failed), _) | (false, _, None) => Kept::Nothing,
            (false, _, Some(saved)) => Kept::DenoisingUntil(saved),
        };
        if kept[last] == Kept::Nothing && attempt.end != Some(AttemptEnd::Failed) {
            // It may have gone on from something that is there still.
            kept[last] = Kept::DenoisingUntil(attempt.begun);
        }
    }
    while let Some(here) = at.filter(|&here| kept[here] != Kept::Nothing) {
        let resumed_step = attempts[here].attempt.resumed_step;
        let origin = resumed_step.and_then(|step| saved_by(&attempts[..here], step));
        at = origin.map(|(before, until)| {
            kept[before] = Kept::DenoisingUntil(until);
            before
        });
    }
    kept
}

/// Which of these attempts at one shot, in the order of their begin, saved the state after `step`
/// steps, and when; the latest of several.
fn saved_by(attempts: &[Known], step: usize) -> Option<(usize, f64)> {
    let known = attempts.iter().enumerate().rev().find_map(|(place, one)| {
        let mut saved = one.attempt.saved.iter();
        let saved = saved.rfind(|saved| saved.step == step)?;
        Some((place, saved.at))
    });
    known.or_else(|| {
        // Somebody did: who was killed after its last sign of life, before it could note it.
        // Whether it goes on makes no difference: somebody has taken its shot over.
        let open = |one: &Known| one.attempt.end.is_none();
        let place = attempts.iter().rposition(open)?;
        let attempt = attempts[place].attempt;
        let noted = attempt.saved.last().map(|saved| saved.step);
        let came_to_it = noted.max(attempt.resumed_step) < Some(step);
        came_to_it.then_some((place, attempt.ended))
    })
}

/// How much of an attempt's work is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    Everything,
    DenoisingUntil(f64),
    Nothing,
}

/// The pieces of an attempt that has ended, as far as its own shift can tell: what is saved when it
/// is stopped is kept.
pub(super) fn own_pieces(attempt: &Attempt) -> Vec<Piece> {
    let kept = match (attempt.end, attempt.saved.last()) {
        (Some(AttemptEnd::Committed), _) => Kept::Everything,
        (Some(AttemptEnd::Stopped), Some(saved)) => Kept::DenoisingUntil(saved.at),
        _ => Kept::Nothing,
    };
    pieces_of(attempt, kept)
}

fn pieces_of(attempt: &Attempt, kept: Kept) -> Vec<Piece> {
    let lost = match attempt.end {
        Some(AttemptEnd::Failed) => Fate::Failed,
        _ => Fate::Preempted,
    };
    let mut pieces = Vec::with_capacity(attempt.stages.len() + 1);
    for stage in &attempt.stages {
        // A damaged journal may have one that ends before it begins.
        let (begun, end) = (stage.begun, stage.end().max(stage.begun));
        let until = match kept {
            Kept::Everything => end,
            Kept::DenoisingUntil(until) if stage.stage == Stage::Denoise => until.clamp(begun, end),
            _ => begun,
        };
        for (begun, end, fate) in [(begun, until, Fate::Kept), (until, end, lost)] {
            if end > begun {
                pieces.push(Piece { begun, end, fate });
            }
        }
    }
    pieces
}

/// The piece of a shift in which a plan was made; `goes_on` says that it still is.
pub(super) fn piece_of_plan(plan: &PlanAttempt, goes_on: bool) -> Option<Piece> {
    let fate = match plan.end {
        Some(AttemptEnd::Committed) => Fate::Kept,
        Some(AttemptEnd::Failed) => Fate::Failed,
        None if goes_on => Fate::Kept,
        Some(AttemptEnd::Stopped) | None => Fate::Preempted,
    };
    let (begun, end) = (plan.begun, plan.ended);
    (end > begun).then_some(Piece { begun, end, fate })
}

/// Divides the time from `begun` to `until` of one rank that had loaded at `loaded`.
pub(super) fn split((begun, until): (f64, f64), loaded: f64, pieces: &[Piece]) -> Split {
    // Moments at which something begins or ends, and how many of each fate run from there on.
    let mut moments: Vec<(f64, Option<Fate>, i32)> = vec![(until, None, 0)];
    for piece in pieces {
        let [from, to] = [piece.begun, piece.end].map(|at| at.clamp(begun, until.max(begun)));
        moments.push((from, Some(piece.fate), 1));
        moments.push((to, Some(piece.fate), -1));
    }
    moments.push((loaded.clamp(begun, until.max(begun)), None, 0));
    moments.sort_by(|one, two| one.0.total_cmp(&two.0));
    let mut result = Split::default();
    let (mut here, mut running) = (begun, [0_i32; 3]);
    for (at, fate, change) in moments {
        let time = (at - here).max(0.0);
        match running.iter().position(|&count| count > 0) {
            Some(0) => result.useful += time,
            Some(1) => result.lost_to_preemption += time,
            Some(_) => result.lost_to_failure += time,
            None if here < loaded => result.load += time,
            None => result.idle += time,
        }
        here = here.max(at);
        if let Some(fate) = fate {
            running[fate as usize] += change;
        }
    }
    result.wasted = result.lost_to_preemption + result.lost_to_failure;
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Saved, ShiftEnd, ShiftStart, StageSpan};
    use super::*;
    use crate::liveness::Liveness;

    const RANKS: usize = 2;

    fn shot(number: u32) -> ShotId {
        ShotId {
            scene: 1,
            shot: number,
        }
    }

    /// An attempt at shot 1 with denoising from `begun` to `end`.
    fn attempt(begun: f64, ended: f64, end: Option<AttemptEnd>) -> Attempt {
        let denoise = StageSpan {
            stage: Stage::Denoise,
            begun,
            seconds: ended - begun,
            waited: 0.0,
        };
        Attempt {
            story: StoryId::new("neo").unwrap(),
            shot: shot(1),
            attempt: 0,
            begun,
            end,
            resumed_step: None,
            stages: vec![denoise],
            saved: Vec::new(),
            recorded: None,
            reason: None,
            ended,
        }
    }

    /// A shift that loads for one second.
    fn shift(begun: f64, until: f64, attempts: Vec<Attempt>) -> Shift {
        let start = ShiftStart {
            ranks: RANKS,
            device: "cuda".to_owned(),
            ..ShiftStart::default()
        };
        Shift {
            id: format!("{begun}"),
            start,
            begun,
            loaded: Some(begun + 1.0),
            attempts,
            recovered: Vec::new(),
            plans: Vec::new(),
            incidents: Vec::new(),
            end: Some((until, ShiftEnd::Done)),
            live: None,
            last_seen: until,
        }
    }

    fn saved(mut attempt: Attempt, step: usize, at: f64) -> Attempt {
        attempt.saved.push(Saved { step, at });
        attempt
    }

    fn resumed(attempt: Attempt, step: usize) -> Attempt {
        Attempt {
            resumed_step: Some(step),
            ..attempt
        }
    }

    const COMMITTED: Option<AttemptEnd> = Some(AttemptEnd::Committed);
    const FAILED: Option<AttemptEnd> = Some(AttemptEnd::Failed);
    const STOPPED: Option<AttemptEnd> = Some(AttemptEnd::Stopped);

    /// Useful, preempted, failed, load and idle seconds of one rank.
    #[track_caller]
    fn expect(shifts: &[Shift], parts: [f64; 5]) {
        let total = accounting(shifts, 1e9, Extent::Everything).total();
        let found = [
            total.useful,
            total.lost_to_preemption,
            total.lost_to_failure,
            total.load,
            total.idle,
        ];
        let found = found.map(|seconds| seconds / RANKS as f64);
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
        assert!(found.iter().zip(&parts).all(close), "{found:?}");
    }

    #[test]
    fn a_stage_that_ends_before_it_begins_took_no_time() {
        let backwards = attempt(5.0, 3.0, FAILED);
        let kept = saved(attempt(5.0, 3.0, Some(AttemptEnd::Stopped)), 4, 4.0);
        for attempt in [backwards, kept] {
            let found = accounting(&[shift(0.0, 10.0, vec![attempt])], 20.0, Extent::Everything);
            assert_eq!(found.total().idle, 9.0 * RANKS as f64);
        }
    }

    #[test]
    fn plans_are_work_as_stages_are() {
        let plan = |begun, ended, end| PlanAttempt {
            story: StoryId::new("neo").unwrap(),
            attempt: 0,
            begun,
            end,
            repairs: 0,
            tokens: 0,
            reason: None,
            ended,
        };
        let mut one = shift(0.0, 10.0, vec![attempt(2.0, 4.0, COMMITTED)]);
        one.plans = vec![
            plan(3.0, 6.0, COMMITTED),
            plan(6.0, 7.0, FAILED),
            plan(7.0, 8.0, STOPPED),
        ];
        expect(&[one], [4.0, 1.0, 1.0, 1.0, 3.0]);
    }

    #[test]
    fn stages_side_by_side_count_once() {
        let other = Attempt {
            shot: shot(2),
            ..attempt(4.0, 8.0, COMMITTED)
        };
        let both = vec![attempt(2.0, 6.0, COMMITTED), other];
        expect(&[shift(0.0, 10.0, both)], [6.0, 0.0, 0.0, 1.0, 3.0]);
    }

    #[test]
    fn useful_work_hides_lost_work_at_its_side() {
        let other = Attempt {
            shot: shot(2),
            ..attempt(4.0, 8.0, FAILED)
        };
        let both = vec![attempt(2.0, 6.0, COMMITTED), other];
        expect(&[shift(0.0, 10.0, both)], [4.0, 0.0, 2.0, 1.0, 3.0]);
    }

    #[test]
    fn a_kill_loses_what_came_after_the_last_save() {
        let killed = saved(saved(attempt(1.0, 9.0, None), 4, 5.0), 6, 7.0);
        let first = shift(0.0, 9.0, vec![killed]);
        let rest = |step| {
            shift(
                10.0,
                20.0,
                vec![resumed(attempt(11.0, 20.0, COMMITTED), step)],
            )
        };
        expect(&[first.clone(), rest(6)], [15.0, 2.0, 0.0, 2.0, 0.0]);
        // Somebody went back to an earlier state, or to none that is known.
        expect(&[first.clone(), rest(4)], [13.0, 4.0, 0.0, 2.0, 0.0]);
        expect(&[first.clone(), rest(1)], [9.0, 8.0, 0.0, 2.0, 0.0]);
        // It saved once more and was killed before it could say so.
        expect(&[first.clone(), rest(8)], [17.0, 0.0, 0.0, 2.0, 0.0]);
        // Nobody yet: what is saved is there.
        expect(&[first], [6.0, 2.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn of_several_who_were_killed_the_last_saved_what_nobody_noted() {
        let one = saved(attempt(1.0, 5.0, None), 2, 3.0);
        let two = resumed(attempt(11.0, 15.0, None), 2);
        let three = resumed(attempt(21.0, 22.0, COMMITTED), 4);
        let shifts = [
            shift(0.0, 5.0, vec![one]),
            shift(10.0, 15.0, vec![two]),
            shift(20.0, 22.0, vec![three]),
        ];
        expect(&shifts, [2.0 + 4.0 + 1.0, 2.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn a_chain_of_kills_keeps_what_each_saved() {
        let one = saved(attempt(1.0, 9.0, STOPPED), 4, 5.0);
        let two = resumed(attempt(11.0, 15.0, None), 4);
        let two = saved(two, 8, 14.0);
        let three = resumed(attempt(21.0, 22.0, COMMITTED), 8);
        let shifts = [
            shift(0.0, 9.0, vec![one]),
            shift(10.0, 15.0, vec![two]),
            shift(20.0, 22.0, vec![three]),
        ];
        expect(&shifts, [4.0 + 3.0 + 1.0, 4.0 + 1.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn a_shot_begun_anew_loses_what_was_saved() {
        let one = saved(attempt(1.0, 9.0, None), 4, 5.0);
        let anew = attempt(9.0, 12.0, COMMITTED);
        expect(
            &[shift(0.0, 12.0, vec![one, anew])],
            [3.0, 8.0, 0.0, 1.0, 0.0],
        );
    }

    /// A program that was believed dead finishes a shot that another has made.
    #[test]
    fn of_two_who_make_a_shot_the_first_counts() {
        let shifts = [
            shift(0.0, 9.0, vec![attempt(1.0, 9.0, COMMITTED)]),
            shift(0.0, 8.0, vec![attempt(2.0, 8.0, COMMITTED)]),
        ];
        expect(&shifts, [6.0, 8.0, 0.0, 2.0, 1.0]);
    }

    #[test]
    fn what_a_living_program_is_at_counts_as_kept() {
        let mut one = shift(0.0, 9.0, vec![attempt(1.0, 9.0, None)]);
        one.end = None;
        let of = |now, extent| accounting(std::slice::from_ref(&one), now, extent).total();
        assert_eq!(of(10.0, Extent::Everything).useful, 16.0);
        let settled = of(10.0, Extent::Settled);
        assert_eq!((settled.useful, settled.total()), (0.0, 2.0));
        for extent in [Extent::Everything, Extent::Settled] {
            let dead = of(10.0 + f64::from(Liveness::LEASE_TIMEOUT_S), extent);
            assert_eq!((dead.useful, dead.lost_to_preemption), (0.0, 16.0));
        }
    }

    prop_compose! {
        fn any_attempt(begun: f64, until: f64)(
            shots in 1_u32..4,
            times in prop::collection::vec(0.0_f64..1.0, 7),
            end in prop::sample::select(vec![COMMITTED, FAILED, STOPPED, None]),
            resumed_step in prop::option::of(0_usize..4),
            steps in prop::collection::vec(0_usize..4, 0..3),
        ) -> Attempt {
            let mut moments: Vec<f64> = times.iter().map(|t| begun + t * (until - begun)).collect();
            moments.sort_by(f64::total_cmp);
            let stages = Stage::ALL.iter().zip(moments.windows(2)).map(|(&stage, pair)| StageSpan {
                stage,
                begun: pair[0],
                seconds: pair[1] - pair[0],
                waited: 0.0,
            });
            let saved = steps.iter().map(|&step| Saved { step, at: moments[3] });
            Attempt {
                shot: shot(shots),
                resumed_step,
                stages: stages.collect(),
                saved: saved.collect(),
                ..attempt(moments[0], moments[6], end)
            }
        }
    }

    prop_compose! {
        fn any_shift()(begun in 0.0_f64..100.0, time in 0.0_f64..50.0)(
            attempts in prop::collection::vec(any_attempt(begun, begun + time), 0..6),
            loaded in prop::option::of(0.0_f64..1.0),
            ended in any::<bool>(),
            begun in Just(begun),
            time in Just(time),
        ) -> Shift {
            let mut shift = shift(begun, begun + time, attempts);
            shift.loaded = loaded.map(|share| begun + share * time);
            if !ended {
                shift.end = None;
            }
            shift
        }
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_ranks_times_time(
            shifts in prop::collection::vec(any_shift(), 0..5),
            now in 0.0_f64..200.0,
        ) {
            let all = accounting(&shifts, now, Extent::Everything);
            let settled = accounting(&shifts, now, Extent::Settled);
            for (of, (all, settled)) in shifts.iter().zip(all.shifts.iter().zip(&settled.shifts)) {
                let wall = of.until() - of.begun;
                prop_assert!((all.total() - wall * RANKS as f64).abs() < 1e-6);
                prop_assert!(settled.total() <= all.total() + 1e-6);
                let lost = all.lost_to_preemption + all.lost_to_failure;
                prop_assert!((all.wasted - lost).abs() < 1e-9);
                for part in [all.useful, all.wasted, all.load, all.idle] {
                    prop_assert!(part >= 0.0);
                }
            }
        }
    }
}
