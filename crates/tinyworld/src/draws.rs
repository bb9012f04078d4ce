//! Random choices that depend on nothing but seeds and counters, so that a resumed run makes the
//! same ones.

/// A generator of choices (SplitMix64; Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators").
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// The choices of `step` for one purpose.
    pub fn new(seed: u64, purpose: &str, step: u64) -> Self {
        let hash = blake3::hash(format!("{seed}/{purpose}/{step}").as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let number = spread(self.0);
        self.0 = self.0.wrapping_add(GAMMA);
        number
    }

    /// A number below `count`; 0 if there is none.
    pub fn below(&mut self, count: usize) -> usize {
        (self.number() % count.max(1) as u64) as usize
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in this share of cases.
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A seed for libtorch's generator.
    pub fn torch_seed(&mut self) -> i64 {
        (self.number() >> 1) as i64
    }

    /// `count` different numbers below `of`, in increasing order; all if there are fewer.
    pub fn some_of(&mut self, count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        while all.len() > count {
            let gone = self.below(all.len());
            all.remove(gone);
        }
        all
    }
}

/// What SplitMix64 adds to its state for every number.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Spreads neighbouring numbers over all: what SplitMix64 makes of the state `number`.
pub(crate) const fn spread(number: u64) -> u64 {
    let mut z = number.wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_depend_on_seed_purpose_and_step_alone() {
        let of = |seed, purpose, step| Draws::new(seed, purpose, step).number();
        assert_eq!(of(1, "a", 2), of(1, "a", 2));
        let others = [of(1, "a", 2), of(2, "a", 2), of(1, "b", 2), of(1, "a", 3)];
        let mut distinct = others.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn some_are_distinct_and_in_order() {
        let mut draws = Draws::new(3, "some", 0);
        for _ in 0..50 {
            let some = draws.some_of(3, 7);
            assert!(
                some.len() == 3 && some.is_sorted() && some[2] < 7,
                "{some:?}"
            );
        }
        assert_eq!(draws.some_of(9, 2), [0, 1]);
    }

    #[test]
    fn normal_numbers_have_the_right_spread() {
        let mut draws = Draws::new(5, "normal", 0);
        let values: Vec<f64> = (0..4000).map(|_| draws.normal()).collect();
        let mean = values.iter().sum::<f64>() / 4000.0;
        let square = values.iter().map(|v| v * v).sum::<f64>() / 4000.0;
        assert!(
            mean.abs() < 0.06 && (square - 1.0).abs() < 0.1,
            "{mean} {square}"
        );
    }
}
