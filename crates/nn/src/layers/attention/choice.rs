//! The fastest of several ways to compute the same, found by trying.

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::error::Result;

/// Share of the first candidate's time that another one must stay below to be preferred. Smaller
/// gains come and go with the noise of a measurement, and with them the last bits of results.
const WORTH_A_CHANGE: f64 = 0.95;

/// Largest difference of a result, as a share of its size, that rounding to bf16 explains: its
/// half step is 1/512, and probabilities and sums are rounded as well.
const TOLERANCE: f64 = 0.02;

/// Rounds of timing; the fastest counts.
const ROUNDS: usize = 3;

/// One of several ways.
pub struct Candidate<'a> {
    /// For reports.
    pub name: &'static str,
    /// Does it.
    pub run: &'a dyn Fn() -> Result<Tensor>,
}

/// How time is measured on a device.
pub struct Clock<'a> {
    /// Waits until everything that was started is done.
    pub finish: &'a dyn Fn(),
    /// Seconds since some moment.
    pub now: &'a dyn Fn() -> f64,
}

/// What came of a candidate.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// The candidate.
    pub name: &'static str,
    /// The fastest round; `None` if it was not timed.
    pub seconds: Option<f64>,
    /// Difference from the first candidate's result, as a share of its size.
    pub difference: Option<f64>,
    /// Why it cannot be chosen.
    pub refused: Option<String>,
}

/// Runs every candidate and returns the place of the fastest whose result agrees with that of the
/// first, and what came of each.
///
/// # Errors
/// The first candidate fails. Others that do are only left out.
pub fn choose(candidates: &[Candidate], clock: &Clock) -> Result<(usize, Vec<Trial>)> {
    let mut trials = compare(candidates)?;
    // In turns, since the clock of a device moves while it gets warm.
    for _ in 0..ROUNDS {
        for (candidate, trial) in candidates.iter().zip(&mut trials) {
            if trial.refused.is_some() {
                continue;
            }
            (clock.finish)();
            let start = (clock.now)();
            if let Err(error) = (candidate.run)() {
                trial.refused = Some(error.to_string());
                continue;
            }
            (clock.finish)();
            let seconds = (clock.now)() - start;
            trial.seconds = Some(trial.seconds.map_or(seconds, |best| best.min(seconds)));
        }
    }
    Ok((fastest(&trials), trials))
}

/// Runs each once, which also makes what it needs only once.
fn compare(candidates: &[Candidate]) -> Result<Vec<Trial>> {
    let mut reference: Option<Tensor> = None;
    let mut trials = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let mut trial = Trial {
            name: candidate.name,
            seconds: None,
            difference: None,
            refused: None,
        };
        match ((candidate.run)(), &reference) {
            (Ok(result), None) => reference = Some(result),
            (Err(error), None) => return Err(error),
            (Ok(result), Some(expected)) => {
                let difference = difference(&result, expected)?;
                trial.difference = Some(difference);
                // A NaN is no agreement.
                if difference.is_nan() || difference > TOLERANCE {
                    trial.refused = Some(format!("its result is off by {difference:.2e}"));
                }
            }
            (Err(error), Some(_)) => trial.refused = Some(error.to_string()),
        }
        trials.push(trial);
    }
    Ok(trials)
}

/// `|found - expected| / |expected|`, the norms over all elements.
pub fn difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if found.size() != expected.size() {
        return Ok(f64::INFINITY);
    }
    let norm = |tensor: &Tensor| -> Result<f64> {
        let squares = tensor.f_square()?.f_sum(Kind::Double)?;
        Ok(squares.f_double_value(&[])?.sqrt())
    };
    let expected = expected.f_to_kind(Kind::Float)?;
    let wrong = norm(&found.f_to_kind(Kind::Float)?.f_sub(&expected)?)?;
    let size = norm(&expected)?;
    // Equal zeros differ by nothing.
    Ok(if wrong == 0.0 { 0.0 } else { wrong / size })
}

fn fastest(trials: &[Trial]) -> usize {
    let time = |trial: &Trial| match trial.refused {
        None => trial.seconds.unwrap_or(f64::INFINITY),
        Some(_) => f64::INFINITY,
    };
    let times: Vec<f64> = trials.iter().map(time).collect();
    let best = (0..times.len()).min_by(|&a, &b| times[a].total_cmp(&times[b]));
    match best {
        Some(best) if times[best] < WORTH_A_CHANGE * times[0] => best,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::ModelError;
    use crate::testing::cosines;

    /// Candidates that take the seconds they say on a clock of their own, and add an error to a
    /// common result; one without an error to add refuses to run.
    fn chosen(fakes: &[(&'static str, f64, Option<f64>)]) -> (&'static str, Vec<Trial>) {
        let time = Cell::new(0.0);
        let result = cosines(&[4, 16], 0.2);
        let run = |seconds: f64, error: Option<f64>| {
            time.set(time.get() + seconds);
            match error {
                Some(error) => Ok(&result * (1.0 + error)),
                None => Err(ModelError::input("attention", "not here")),
            }
        };
        let runs: Vec<_> = fakes
            .iter()
            .map(|&(_, seconds, error)| move || run(seconds, error))
            .collect();
        let candidates: Vec<Candidate> = fakes
            .iter()
            .zip(&runs)
            .map(|(&(name, ..), run)| Candidate { name, run })
            .collect();
        let clock = Clock {
            finish: &|| {},
            now: &|| time.get(),
        };
        let (best, trials) = choose(&candidates, &clock).unwrap();
        (fakes[best].0, trials)
    }

    #[test]
    fn the_fastest_that_agrees_is_chosen() {
        let (name, trials) = chosen(&[
            ("default", 4.0, Some(0.0)),
            ("slow", 9.0, Some(0.001)),
            ("fast", 2.0, Some(0.005)),
            ("wrong", 1.0, Some(0.1)),
            ("absent", 0.5, None),
            ("broken", 0.5, Some(f64::NAN)),
        ]);
        assert_eq!(name, "fast");
        assert_eq!(trials[2].seconds, Some(2.0));
        assert!((trials[2].difference.unwrap() - 0.005).abs() < 1e-4);
        for (refused, reason) in [(3, "off by"), (4, "not here"), (5, "off by NaN")] {
            let trial = &trials[refused];
            assert!(
                trial.refused.as_ref().unwrap().contains(reason),
                "{trial:?}"
            );
            assert_eq!(trial.seconds, None);
        }
    }

    #[test]
    fn small_gains_change_nothing() {
        let fakes = [("default", 1.0, Some(0.0)), ("other", 0.96, Some(0.0))];
        assert_eq!(chosen(&fakes).0, "default");
        assert_eq!(chosen(&fakes[..1]).0, "default");
    }

    #[test]
    fn without_a_first_result_there_is_no_choice() {
        let absent = || Err(ModelError::input("attention", "not here"));
        let candidates = [Candidate {
            name: "default",
            run: &absent,
        }];
        let clock = Clock {
            finish: &|| {},
            now: &|| 0.0,
        };
        assert!(choose(&candidates, &clock).is_err());
    }

    #[test]
    fn differences_are_shares_of_the_expected() {
        let expected = cosines(&[3, 5], 0.4);
        assert_eq!(difference(&expected, &expected).unwrap(), 0.0);
        let zeros = expected.zeros_like();
        assert_eq!(difference(&zeros, &zeros).unwrap(), 0.0);
        assert_eq!(difference(&expected, &zeros).unwrap(), f64::INFINITY);
        let narrow = expected.narrow(0, 0, 2);
        assert_eq!(difference(&narrow, &expected).unwrap(), f64::INFINITY);
        assert!((difference(&zeros, &expected).unwrap() - 1.0).abs() < 1e-6);
    }
}
