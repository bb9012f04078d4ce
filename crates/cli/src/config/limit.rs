//! What the value of an option may be, beyond its type. It stands with the option in
//! [`options`](super::options).

use std::fmt;
use std::ops::RangeInclusive;

use super::value::OptionValue;

/// What the value of one option may be.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Of a number, or of every number of a pair.
    Numbers(Bounds),
    /// Of a text.
    Text(Form),
}

/// What a number may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    least: f64,
    most: f64,
    /// Whether `least` itself is too small.
    is_open: bool,
}

/// What a text may be.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Behind "must be": "an address with a port".
    pub words: &'static str,
    /// Whether a text has this form.
    pub fits: fn(&str) -> bool,
}

impl Limit {
    /// Why a value is refused, without the key of its option; `None` if it is not.
    pub fn refusal(&self, value: &dyn OptionValue) -> Option<String> {
        match self {
            Self::Numbers(bounds) => {
                let wrong = value.numbers().into_iter().find(|&it| bounds.refuse(it))?;
                Some(format!("must be {bounds}, but is {wrong}"))
            }
            // The text may have a password in it, and the user knows it anyway.
            Self::Text(form) => {
                let text = value.to_toml();
                let fits = text.as_str().is_some_and(form.fits);
                (!fits).then(|| format!("must be {}", form.words))
            }
        }
    }
}

impl Bounds {
    /// More than `least`, and `most` or less.
    pub fn above(least: f64, most: f64) -> Self {
        Self {
            least,
            most,
            is_open: true,
        }
    }

    /// Whether `number` is none of them.
    pub fn refuse(&self, number: f64) -> bool {
        !(self.least..=self.most).contains(&number) || (self.is_open && number == self.least)
    }
}

impl From<Bounds> for Limit {
    fn from(bounds: Bounds) -> Self {
        Self::Numbers(bounds)
    }
}

impl From<Form> for Limit {
    fn from(form: Form) -> Self {
        Self::Text(form)
    }
}

impl From<RangeInclusive<u64>> for Limit {
    fn from(range: RangeInclusive<u64>) -> Self {
        Self::from(*range.start() as f64..=*range.end() as f64)
    }
}

impl From<RangeInclusive<f64>> for Limit {
    fn from(range: RangeInclusive<f64>) -> Self {
        Self::Numbers(Bounds {
            least: *range.start(),
            most: *range.end(),
            is_open: false,
        })
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            least,
            most,
            is_open,
        } = *self;
        if most >= u64::MAX as f64 {
            write!(f, "{least} or more")
        } else if is_open {
            write!(f, "above {least} and at most {most}")
        } else if most - least == 1.0 && least > 0.0 {
            write!(f, "{least} or {most}")
        } else {
            write!(f, "{least} to {most}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_end_is_refused_and_a_closed_one_is_not() {
        let above = Bounds::above(0.0, 1.0);
        assert!(above.refuse(0.0) && !above.refuse(1e-9) && !above.refuse(1.0));
        assert!(above.refuse(1.1) && above.refuse(f64::NAN));
        assert_eq!(above.to_string(), "above 0 and at most 1");
        let Limit::Numbers(closed) = Limit::from(1..=2) else {
            panic!("a range is bounds");
        };
        assert!(!closed.refuse(1.0) && closed.refuse(2.5));
        assert_eq!(closed.to_string(), "1 or 2");
    }
}
