//! From scores to one token.

use storyloom_story::Seed;

use storyloom_nn::error::{ModelError, Result};
use storyloom_nn::noise::{Stream, uniform};

/// How the tokens of one text are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the scores before drawing; 0: the likeliest token is taken.
    pub temperature: f64,
    /// Draws from the likeliest tokens that together have this probability; 1: from all.
    pub top_p: f64,
    /// Draws from this many likeliest tokens, and those as likely as the last of them; 0: from all.
    pub top_k: usize,
    /// Draws from the tokens that have at least this share of the probability of the likeliest; 0:
    /// from all.
    pub min_p: f64,
    /// Divides positive scores of tokens that were there already, the prompt's included, and
    /// multiplies negative ones; 1: nothing.
    pub repetition_penalty: f64,
    /// All that is random: equal seeds give equal texts, whatever else is in the batch.
    pub seed: Seed,
    /// Tokens after which a text is cut.
    pub max_tokens: usize,
    /// Strings that end a text; they are not part of it.
    pub stop: Vec<String>,
}

impl Sampling {
    /// The likeliest token each time, up to `max_tokens`.
    pub fn greedy(max_tokens: usize) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: Seed(0),
            max_tokens,
            stop: Vec::new(),
        }
    }

    /// Refuses values that mean nothing.
    pub(super) fn check(&self) -> Result<()> {
        let complaint = if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            "temperature must be 0 or more"
        } else if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            "top_p must be above 0 and at most 1"
        } else if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            "min_p must be from 0 to 1"
        } else if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            "repetition_penalty must be above 0"
        } else if self.max_tokens == 0 {
            "max_tokens must be above 0"
        } else if self.stop.iter().any(String::is_empty) {
            "a stop string is empty"
        } else {
            return Ok(());
        };
        Err(ModelError::input("sampling", complaint))
    }

    /// Applies the penalty for the tokens in `seen`, each once.
    pub(super) fn penalise(&self, logits: &mut [f32], seen: impl IntoIterator<Item = u32>) {
        let penalty = self.repetition_penalty as f32;
        if penalty == 1.0 {
            return;
        }
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    /// The token number `index` of a text, from its scores.
    ///
    /// # Errors
    /// A score is not a number.
    pub(super) fn choose(&self, logits: &[f32], index: u64) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(ModelError::NotFinite {
                what: "a token's score".to_owned(),
            });
        }
        if self.temperature == 0.0 {
            return Ok(likeliest(logits));
        }
        let candidates = self.candidates(logits);
        let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
        let mut left = uniform(self.seed, Stream::Tokens, index) * total;
        for &(token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(token);
            }
        }
        // Rounding may leave a crumb after the last.
        Ok(candidates.last().map_or(0, |&(token, _)| token))
    }

    /// The tokens that may be drawn and their weights, likeliest first, equal ones by number: what is
    /// left by `top_k`, `top_p` and `min_p`, in this order, as in transformers.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..logits.len() as u32)
            .filter(|&token| logits[token as usize] > f32::NEG_INFINITY)
            .collect();
        let before = |a: &u32, b: &u32| {
            let scores = logits[*b as usize].total_cmp(&logits[*a as usize]);
            scores.then(a.cmp(b))
        };
        if (1..order.len()).contains(&self.top_k) {
            let (_, &mut last, _) = order.select_nth_unstable_by(self.top_k - 1, before);
            let least = logits[last as usize];
            order.retain(|&token| logits[token as usize] >= least);
        }
        order.sort_unstable_by(before);
        let Some(&first) = order.first() else {
            return Vec::new();
        };
        let largest = f64::from(logits[first as usize]);
        let weight = |&token: &u32| {
            let score = f64::from(logits[token as usize]);
            (token, libm::exp((score - largest) / self.temperature))
        };
        let mut candidates: Vec<(u32, f64)> = order.iter().map(weight).collect();
        if self.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
            let mut before = 0.0;
            let mut within = |&(_, weight): &(u32, f64)| {
                let inside = before < self.top_p * total;
                before += weight;
                inside
            };
            let kept = candidates.iter().take_while(|pair| within(pair)).count();
            candidates.truncate(kept.max(1));
        }
        // The likeliest has the weight 1.
        let likely = candidates.partition_point(|&(_, weight)| weight >= self.min_p);
        candidates.truncate(likely.max(1));
        candidates
    }
}

/// The token with the largest score, the first of equal ones.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(temperature: f64, top_p: f64, top_k: usize) -> Sampling {
        Sampling {
            temperature,
            top_p,
            top_k,
            ..Sampling::greedy(4)
        }
    }

    fn tokens(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
        sampling
            .candidates(logits)
            .iter()
            .map(|&(token, _)| token)
            .collect()
    }

    #[test]
    fn candidates_are_the_likeliest() {
        let logits = [0.0, 3.0, 1.0, f32::NEG_INFINITY, 2.0, 1.0];
        assert_eq!(tokens(&drawing(1.0, 1.0, 0), &logits), [1, 4, 2, 5, 0]);
        assert_eq!(tokens(&drawing(1.0, 1.0, 2), &logits), [1, 4]);
        assert_eq!(tokens(&drawing(1.0, 1.0, 99), &logits).len(), 5);
        // 0.59, 0.22, 0.08, 0.08, 0.03
        assert_eq!(tokens(&drawing(1.0, 0.5, 0), &logits), [1]);
        assert_eq!(tokens(&drawing(1.0, 0.7, 0), &logits), [1, 4]);
        assert_eq!(tokens(&drawing(1.0, 1e-9, 0), &logits), [1]);
        // After the first two are all there is, they have 0.73 and 0.27.
        assert_eq!(tokens(&drawing(1.0, 0.7, 2), &logits), [1]);
        // Two are as likely as the third.
        assert_eq!(tokens(&drawing(1.0, 1.0, 3), &logits), [1, 4, 2, 5]);
    }

    #[test]
    fn unlikely_tokens_are_left_out() {
        // 1, 0.37, 0.14, 0.14 and 0.05 of the likeliest.
        let logits = [0.0, 3.0, 1.0, f32::NEG_INFINITY, 2.0, 1.0];
        let least = |temperature, top_k, min_p| {
            let sampling = Sampling {
                min_p,
                ..drawing(temperature, 1.0, top_k)
            };
            tokens(&sampling, &logits)
        };
        assert_eq!(least(1.0, 0, 0.3), [1, 4]);
        assert_eq!(least(1.0, 0, 0.1), [1, 4, 2, 5]);
        assert_eq!(least(1.0, 1, 0.1), [1]);
        assert_eq!(least(1.0, 0, 1.0), [1]);
        // The scores are divided by the temperature before.
        assert_eq!(least(2.0, 0, 0.3), [1, 4, 2, 5]);
    }

    #[test]
    fn shares_of_draws_are_the_probabilities() {
        let logits = [0.0_f32, (3.0_f32).ln(), f32::NEG_INFINITY];
        let sampling = drawing(1.0, 1.0, 0);
        let count = 20_000;
        let ones = (0..count).filter(|&index| sampling.choose(&logits, index).unwrap() == 1);
        let share = ones.count() as f64 / count as f64;
        assert!((share - 0.75).abs() < 0.01, "{share}");
        let other = Sampling {
            seed: Seed(1),
            ..sampling.clone()
        };
        let text = |sampling: &Sampling| -> Vec<u32> {
            (0..64)
                .map(|index| sampling.choose(&logits, index).unwrap())
                .collect()
        };
        assert_eq!(text(&sampling), text(&sampling));
        assert_ne!(text(&sampling), text(&other));
    }

    #[test]
    fn the_first_of_equal_scores_is_the_likeliest() {
        assert_eq!(Sampling::greedy(1).choose(&[1.0, 5.0, 5.0], 0).unwrap(), 1);
        assert!(Sampling::greedy(1).choose(&[1.0, f32::NAN], 0).is_err());
    }

    #[test]
    fn penalties_push_away() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::greedy(1)
        };
        let mut logits = [4.0, -1.0, 3.0];
        sampling.penalise(&mut logits, [0, 1, 7]);
        assert_eq!(logits, [2.0, -2.0, 3.0]);
    }

    #[test]
    fn meaningless_settings_are_refused() {
        let greedy = || Sampling::greedy(1);
        assert!(greedy().check().is_ok());
        for bad in [
            Sampling {
                temperature: -1.0,
                ..greedy()
            },
            Sampling {
                temperature: f64::NAN,
                ..greedy()
            },
            Sampling {
                top_p: 0.0,
                ..greedy()
            },
            Sampling {
                min_p: 1.5,
                ..greedy()
            },
            Sampling {
                repetition_penalty: 0.0,
                ..greedy()
            },
            Sampling {
                max_tokens: 0,
                ..greedy()
            },
            Sampling {
                stop: vec![String::new()],
                ..greedy()
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
