//! When a run will be done, as a range, from the shots that were made.
//!
//! Two things bound the time left from below: all shots that are left, at the pace of all replicas
//! together, and the longest chain, since the shots of a story are made one after the other. From
//! above: the stories go to the places that are free, the longest first, and nothing of a chain
//! gets faster when other places are empty. Both ends are moved apart by what the spread of the
//! shots' times leaves open.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use storyloom_telemetry::AttemptEnd;
use storyloom_telemetry::shift::{Attempt, Shift};

/// Shots of the last hour tell the pace,
const WINDOW_S: f64 = 3600.0;
/// but at least this number of shots, if there are.
const LEAST: usize = 20;
/// Standard deviations to either side: about 95 of 100 ends lie between.
const DEVIATIONS: f64 = 2.0;
/// The spread, as a share of the mean, that is taken while there is only one shot.
const UNKNOWN_SPREAD: f64 = 1.0;

/// How fast shots are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Shots that tell it.
    pub shots: usize,
    /// Shots that one replica commits in a second, all its stories together.
    pub per_replica: f64,
    /// Mean seconds from the beginning of a shot to its commit.
    pub elapsed: f64,
    /// Mean seconds of these that its stages worked.
    pub work: f64,
    /// Standard deviation of the latter, as a share of the mean.
    pub spread: f64,
}

/// The time left, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// It will hardly be less.
    pub low: f64,
    /// It will hardly be more, if the replicas stay.
    pub high: f64,
}

impl Range {
    /// A single number for those who want one.
    pub fn middle(self) -> f64 {
        f64::midpoint(self.low, self.high)
    }
}

/// The pace of a run at `now`, where `until` tells up to when a shift worked. `None` before the
/// first shot. Moments are in seconds since 1970.
pub fn pace<'a>(
    shifts: impl Iterator<Item = &'a Shift> + Clone,
    until: impl Fn(&Shift) -> f64,
    now: f64,
) -> Option<Pace> {
    // Of each shift what may count, without looking through a whole run: its attempts are in the
    // order of their ends.
    let mut shots: Vec<&Attempt> = Vec::new();
    let mut since: Option<f64> = None;
    for shift in shifts.clone() {
        let attempts = &shift.attempts;
        let recent = attempts.partition_point(|attempt| attempt.ended < now - WINDOW_S);
        let (before, late) = attempts.split_at(recent.min(attempts.len().saturating_sub(LEAST)));
        since = latest(since, before.last());
        shots.extend(
            late.iter()
                .filter(|attempt| attempt.end == Some(AttemptEnd::Committed)),
        );
    }
    shots.sort_by(|one, two| one.ended.total_cmp(&two.ended));
    let recent = shots.partition_point(|shot| shot.ended < now - WINDOW_S);
    let first = recent.min(shots.len().saturating_sub(LEAST));
    // The shots after this moment are all there.
    since = latest(since, shots[..first].last().copied());
    let seconds: f64 = shifts
        .filter_map(|shift| {
            let begun = shift.loaded?.max(since.unwrap_or(f64::MIN));
            Some((until(shift) - begun).max(0.0))
        })
        .sum();
    let shots = &shots[first..];
    let count = shots.len() as f64;
    let work = |shot: &Attempt| shot.stages.iter().map(|stage| stage.seconds).sum::<f64>();
    let mean =
        |value: &dyn Fn(&Attempt) -> f64| shots.iter().map(|shot| value(shot)).sum::<f64>() / count;
    let mean_work = mean(&work);
    (seconds > 0.0 && mean_work > 0.0).then(|| Pace {
        shots: shots.len(),
        per_replica: count / seconds,
        elapsed: mean(&|shot| shot.ended - shot.begun),
        work: mean_work,
        spread: match shots.len() {
            1 => UNKNOWN_SPREAD,
            _ => {
                let squares = mean(&|shot| (work(shot) - mean_work).powi(2)) * count;
                (squares / (count - 1.0)).sqrt() / mean_work
            }
        },
    })
}

fn latest(moment: Option<f64>, attempt: Option<&Attempt>) -> Option<f64> {
    match (moment, attempt) {
        (Some(moment), Some(attempt)) => Some(moment.max(attempt.ended)),
        (moment, attempt) => moment.or(attempt.map(|attempt| attempt.ended)),
    }
}

impl Pace {
    /// The time left for `chains`, the shots left of each story (with fractions for those that are
    /// being made), on `replicas` replicas. `None` if there are none and something is left.
    pub fn time_left(&self, chains: &[f64], replicas: usize) -> Option<Range> {
        let left: f64 = chains.iter().sum();
        if left <= 0.0 {
            return Some(Range {
                low: 0.0,
                high: 0.0,
            });
        }
        if replicas == 0 {
            return None;
        }
        let rate = self.per_replica * replicas as f64;
        let longest = chains.iter().copied().fold(0.0, f64::max);
        // As many shots are made at once as come to an end while one is made.
        let places = (self.elapsed * rate).round().max(1.0);
        let scheduled = longest_first(chains, places as usize) * self.elapsed;
        // What is not known of the mean, and what the shots that are left may differ from it.
        let open = self.spread * (1.0 / self.shots as f64 + 1.0 / left.max(1.0)).sqrt();
        let factor = 1.0 + DEVIATIONS * open;
        let low = (left / rate).max(longest * self.work);
        Some(Range {
            low: low / factor,
            high: low.max(scheduled) * factor,
        })
    }
}

/// When the last of `chains` is done if each takes the next free of `places` places, the longest
/// first.
fn longest_first(chains: &[f64], places: usize) -> f64 {
    let mut chains = chains.to_vec();
    chains.sort_by(|one, two| two.total_cmp(one));
    // Lengths are not negative, so that their bits are in the order of their values.
    let mut free: BinaryHeap<Reverse<u64>> = (0..places).map(|_| Reverse(0)).collect();
    let mut last = 0.0_f64;
    for length in chains {
        let Some(Reverse(begin)) = free.pop() else {
            return last;
        };
        let end = f64::from_bits(begin) + length.max(0.0);
        last = last.max(end);
        free.push(Reverse(end.to_bits()));
    }
    last
}

#[cfg(test)]
mod tests {
    use storyloom_story::{ShotId, Stage, StoryId};
    use storyloom_telemetry::shift::{ShiftStart, StageSpan};

    use super::*;

    /// A shot from `begun`, waiting for `waited` seconds and working for `work`.
    fn shot(begun: f64, waited: f64, work: f64) -> Attempt {
        let ended = begun + waited + work;
        Attempt {
            story: StoryId::new("ad").unwrap(),
            shot: ShotId { scene: 1, shot: 1 },
            attempt: 0,
            begun,
            end: Some(AttemptEnd::Committed),
            resumed_step: None,
            stages: vec![StageSpan {
                stage: Stage::Denoise,
                begun: begun + waited,
                seconds: work,
                waited,
            }],
            saved: Vec::new(),
            recorded: None,
            reason: None,
            ended,
        }
    }

    fn shift(attempts: Vec<Attempt>) -> Shift {
        Shift {
            id: "w".to_owned(),
            start: ShiftStart::default(),
            begun: 0.0,
            loaded: Some(0.0),
            attempts,
            recovered: Vec::new(),
            plans: Vec::new(),
            incidents: Vec::new(),
            end: None,
            live: None,
            last_seen: 0.0,
        }
    }

    fn pace_of(shifts: &[Shift], now: f64) -> Option<Pace> {
        pace(shifts.iter(), |_| now, now)
    }

    fn steady(shots: usize) -> Pace {
        let attempts = (0..shots).map(|n| shot(10.0 * n as f64, 0.0, 10.0));
        pace_of(&[shift(attempts.collect())], 10.0 * shots as f64).unwrap()
    }

    #[test]
    fn equal_shots_leave_nothing_open() {
        let range = steady(5).time_left(&[7.0], 1).unwrap();
        assert!((range.low - 70.0).abs() < 1e-9 && (range.high - 70.0).abs() < 1e-9);
        // Two replicas, two stories: half the time; two replicas for one story: no faster.
        let two = steady(5).time_left(&[4.0, 4.0], 2).unwrap();
        assert!((two.low - 40.0).abs() < 1e-9 && (two.high - 40.0).abs() < 1e-9);
        let chain = steady(5).time_left(&[8.0], 2).unwrap();
        assert!((chain.low - 80.0).abs() < 1e-9 && (chain.high - 80.0).abs() < 1e-9);
        // Three stories on two replicas: at best evenly, at worst one after the other.
        let odd = steady(5).time_left(&[4.0, 4.0, 4.0], 2).unwrap();
        assert!((odd.low - 60.0).abs() < 1e-9 && (odd.high - 80.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_known_without_shots_or_workers() {
        assert_eq!(pace_of(&[shift(Vec::new())], 100.0), None);
        assert_eq!(pace_of(&[], 100.0), None);
        assert_eq!(steady(3).time_left(&[1.0], 0), None);
        let done = Range {
            low: 0.0,
            high: 0.0,
        };
        assert_eq!(steady(3).time_left(&[], 0), Some(done));
        // One shot says little of the next.
        let range = steady(1).time_left(&[9.0], 1).unwrap();
        assert!(range.low < 40.0 && range.high > 200.0, "{range:?}");
    }

    /// Three stories side by side: a shot takes three times as long, and three come at once.
    #[test]
    fn stories_side_by_side_count_as_one_replica() {
        let mut attempts = Vec::new();
        for n in 0..30 {
            attempts.push(shot(10.0 * f64::from(n) - 20.0, 20.0, 10.0));
        }
        let pace = pace_of(&[shift(attempts)], 300.0).unwrap();
        assert!((pace.elapsed - 30.0).abs() < 1e-9 && (pace.work - 10.0).abs() < 1e-9);
        let many = pace.time_left(&[10.0; 6], 1).unwrap();
        assert!((many.low - 600.0).abs() < 1e-6 && (many.high - 600.0).abs() < 1e-6);
        // The last story alone is faster if nothing else is in its way.
        let last = pace.time_left(&[10.0], 1).unwrap();
        assert!((last.low - 100.0).abs() < 1e-6 && (last.high - 300.0).abs() < 1e-6);
    }

    #[test]
    fn the_pace_is_that_of_lately() {
        let hour = |n: i32| 3600.0 * f64::from(n);
        let slow = (0..30).map(|n| shot(hour(n), 0.0, 3600.0));
        let fast = (0..300).map(|n| shot(hour(30) + 60.0 * f64::from(n), 0.0, 60.0));
        let pace = pace_of(&[shift(slow.chain(fast).collect())], hour(35)).unwrap();
        assert_eq!((pace.shots, pace.work), (61, 60.0));
        assert!((pace.per_replica - 1.0 / 60.0).abs() < 1e-3, "{pace:?}");
    }

    /// A farm with shots of all lengths: looked at again and again, its end is hardly ever outside
    /// of the range, and the range gets narrower.
    #[test]
    fn the_end_lies_in_the_range() {
        let (mut inside, mut looks) = (0, 0);
        for seed in 0..20 {
            let farm = farm(seed);
            let end = farm.iter().map(|(_, shot)| shot.ended).fold(0.0, f64::max);
            let mut widths = Vec::new();
            for part in [0.15, 0.4, 0.7] {
                let now = end * part;
                let (pace, chains) = seen(&farm, now);
                let range = pace.time_left(&chains, REPLICAS).unwrap();
                looks += 1;
                inside += usize::from((range.low..=range.high).contains(&(end - now)));
                widths.push((range.high - range.low) / (end - now));
            }
            assert!(widths[0] < 1.5, "a range that says nothing: {widths:?}");
        }
        assert!(inside * 100 >= looks * 90, "{inside} of {looks}");
    }

    const REPLICAS: usize = 4;
    const STORIES: usize = 30;

    /// Every shot of a run with its story: stories of 2 to 9 shots, shots of 50 to 250 seconds,
    /// each story on the next free replica.
    fn farm(seed: u64) -> Vec<(usize, Attempt)> {
        let random = |a: usize, b: usize| {
            let hash = blake3::hash(format!("{seed} {a} {b}").as_bytes());
            f64::from(hash.as_bytes()[0]) / 255.0
        };
        let mut free = [0.0_f64; REPLICAS];
        let mut shots = Vec::new();
        let mut lengths: Vec<_> = (0..STORIES)
            .map(|story| (story, 2 + (random(story, 1000) * 7.0) as usize))
            .collect();
        lengths.sort_by_key(|&(_, length)| Reverse(length));
        for (story, length) in lengths {
            let place = (0..REPLICAS)
                .min_by(|&a, &b| free[a].total_cmp(&free[b]))
                .unwrap();
            for number in 0..length {
                let made = shot(free[place], 0.0, 50.0 + 200.0 * random(story, number));
                free[place] = made.ended;
                shots.push((story, made));
            }
        }
        shots
    }

    /// What is known of the farm at `now`.
    fn seen(farm: &[(usize, Attempt)], now: f64) -> (Pace, Vec<f64>) {
        let made = farm.iter().filter(|(_, shot)| shot.ended <= now);
        let attempts = made.map(|(_, shot)| shot.clone()).collect();
        let mut shifts = vec![shift(attempts)];
        shifts.resize(REPLICAS, shift(Vec::new()));
        let pace = pace_of(&shifts, now).unwrap();
        let left = |story| {
            let mine = farm.iter().filter(|(of, _)| *of == story);
            mine.map(|(_, shot)| match (shot.begun <= now, shot.ended <= now) {
                (_, true) => 0.0,
                (true, false) => 1.0 - ((now - shot.begun) / pace.elapsed).min(0.95),
                (false, _) => 1.0,
            })
            .sum()
        };
        (pace, (0..STORIES).map(left).collect())
    }
}
