//! The types of option values: how each is read from TOML, and what it is called.

use std::fmt::Write as _;

use storyloom_story::{Ground, nearest};
use toml::Value;

/// A value that an option can have. An update that fails changes nothing.
pub trait OptionValue {
    /// Takes over `value`; the error says what is expected instead.
    fn update(&mut self, value: &Value) -> Result<(), String>;

    /// Takes over a value given as text, on the command line or in the environment.
    ///
    /// It is read as TOML; what is no TOML is a text without quotes. Blanks around it count in texts alone.
    fn update_text(&mut self, text: &str) -> Result<(), String> {
        let text = text.trim();
        let parsed = format!("value = {text}").parse::<toml::Table>().ok();
        let value = parsed
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"));
        self.update(&value.unwrap_or_else(|| Value::String(text.to_owned())))
    }

    /// The value as TOML.
    fn to_toml(&self) -> Value;

    /// The numbers in the value.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Names that a table may have in place of a single value, outermost first.
    fn parts(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// What values are possible, in words.
    fn describe(&self) -> String;
}

fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {text:?}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

fn wrong(expected: &str, value: &Value) -> String {
    format!("must be {expected}, but is {}", found(value))
}

impl OptionValue for String {
    fn update(&mut self, value: &Value) -> Result<(), String> {
        let text = value
            .as_str()
            .ok_or_else(|| wrong("a text in quotes", value))?;
        text.clone_into(self);
        Ok(())
    }

    fn update_text(&mut self, text: &str) -> Result<(), String> {
        text.clone_into(self);
        Ok(())
    }

    fn to_toml(&self) -> Value {
        Value::String(self.clone())
    }

    fn describe(&self) -> String {
        "text".to_owned()
    }
}

impl OptionValue for Ground {
    fn update(&mut self, value: &Value) -> Result<(), String> {
        let expected = || wrong("a colour such as \"#f4f4f0\"", value);
        let text = value.as_str().ok_or_else(expected)?;
        *self = text.parse().map_err(|_| expected())?;
        Ok(())
    }

    fn to_toml(&self) -> Value {
        Value::String(self.to_string())
    }

    fn describe(&self) -> String {
        "colour".to_owned()
    }
}

impl OptionValue for bool {
    fn update(&mut self, value: &Value) -> Result<(), String> {
        *self = value
            .as_bool()
            .ok_or_else(|| wrong("true or false", value))?;
        Ok(())
    }

    fn to_toml(&self) -> Value {
        Value::Boolean(*self)
    }

    fn describe(&self) -> String {
        "true or false".to_owned()
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl OptionValue for $type {
            fn update(&mut self, value: &Value) -> Result<(), String> {
                let number = value.as_integer().and_then(|number| number.try_into().ok());
                *self = number.ok_or_else(|| wrong("a whole number", value))?;
                Ok(())
            }

            fn to_toml(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }

            fn numbers(&self) -> Vec<f64> {
                vec![*self as f64]
            }

            fn describe(&self) -> String {
                "whole number".to_owned()
            }
        }
    )*};
}
whole_numbers!(u32, u64, usize);

/// A number, or as large a number as there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The largest number that there is room for.
    Auto,
    /// This number.
    Exactly(u32),
}

impl OptionValue for Count {
    fn update(&mut self, value: &Value) -> Result<(), String> {
        let number = value.as_integer().and_then(|number| number.try_into().ok());
        *self = match (value.as_str(), number) {
            (Some("auto"), _) => Self::Auto,
            (_, Some(number)) => Self::Exactly(number),
            _ => return Err(wrong("\"auto\" or a whole number", value)),
        };
        Ok(())
    }

    fn to_toml(&self) -> Value {
        match self {
            Self::Auto => Value::String("auto".to_owned()),
            Self::Exactly(number) => Value::Integer(i64::from(*number)),
        }
    }

    fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Auto => Vec::new(),
            Self::Exactly(number) => vec![f64::from(*number)],
        }
    }

    fn describe(&self) -> String {
        "\"auto\" or whole number".to_owned()
    }
}

impl OptionValue for f64 {
    fn update(&mut self, value: &Value) -> Result<(), String> {
        let number = value
            .as_float()
            .or_else(|| value.as_integer().map(|number| number as f64));
        *self = number
            .filter(|number| number.is_finite())
            .ok_or_else(|| wrong("a number", value))?;
        Ok(())
    }

    fn to_toml(&self) -> Value {
        Value::Float(*self)
    }

    fn numbers(&self) -> Vec<f64> {
        vec![*self]
    }

    fn describe(&self) -> String {
        "number".to_owned()
    }
}

/// One of a few names.
pub trait Choice: Copy + PartialEq + 'static {
    /// Every name with its meaning.
    const CHOICES: &'static [(&'static str, Self)];
}

/// How a config file says `choice`.
pub fn name_of<T: Choice>(choice: T) -> &'static str {
    let mut all = T::CHOICES.iter();
    all.find(|(_, other)| *other == choice)
        .map_or("", |(name, _)| name)
}

/// The choice that a config file calls `name`, if there is one.
pub fn named<T: Choice>(name: &str) -> Option<T> {
    let mut all = T::CHOICES.iter();
    all.find_map(|&(known, choice)| (known == name).then_some(choice))
}

fn names<T: Choice>() -> String {
    let mut names = String::new();
    for (position, (name, _)) in T::CHOICES.iter().enumerate() {
        let separator = if position == 0 { "" } else { " or " };
        // Writing to a text cannot fail.
        let _ = write!(names, "{separator}\"{name}\"");
    }
    names
}

impl<T: Choice> OptionValue for T {
    fn update(&mut self, value: &Value) -> Result<(), String> {
        let text = value.as_str().unwrap_or_default();
        let Some(choice) = named(text) else {
            let near = nearest(text, T::CHOICES.iter().map(|(name, _)| *name));
            let hint = near.map_or(String::new(), |near| format!(" (did you mean \"{near}\"?)"));
            return Err(wrong(&names::<T>(), value) + &hint);
        };
        *self = choice;
        Ok(())
    }

    fn to_toml(&self) -> Value {
        Value::String(name_of(*self).to_owned())
    }

    fn describe(&self) -> String {
        names::<T>()
    }
}

/// A value for text-to-video (the first shot of a story) and one for shots with pictures to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerPhase<T> {
    /// For the first shot of a story without reference images.
    pub t2v: T,
    /// For every other shot.
    pub i2v: T,
}

/// A value for the high-noise expert and one for the low-noise expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerExpert<T> {
    /// For the steps above the boundary.
    pub high: T,
    /// For the steps below it.
    pub low: T,
}

macro_rules! pairs {
    ($type:ident, $first:ident, $second:ident) => {
        impl<T: OptionValue + Clone> OptionValue for $type<T> {
            /// A table sets what it names; any other value sets both.
            fn update(&mut self, value: &Value) -> Result<(), String> {
                let mut next = self.clone();
                let names = [stringify!($first), stringify!($second)];
                let own = |key: &String| names.contains(&key.as_str());
                match value.as_table() {
                    Some(table) if table.keys().any(own) || !shares(table, &self.parts()) => {
                        for (key, part) in table {
                            match key.as_str() {
                                stringify!($first) => next.$first.update(part)?,
                                stringify!($second) => next.$second.update(part)?,
                                other => return Err(unknown_part(other, &self.parts())),
                            }
                        }
                    }
                    _ => {
                        next.$first.update(value)?;
                        next.$second.update(value)?;
                    }
                }
                *self = next;
                Ok(())
            }

            fn to_toml(&self) -> Value {
                let (first, second) = (self.$first.to_toml(), self.$second.to_toml());
                if first == second {
                    return first;
                }
                let parts = [(stringify!($first), first), (stringify!($second), second)];
                Value::Table(
                    parts
                        .map(|(key, part)| (key.to_owned(), part))
                        .into_iter()
                        .collect(),
                )
            }

            fn numbers(&self) -> Vec<f64> {
                [self.$first.numbers(), self.$second.numbers()].concat()
            }

            fn parts(&self) -> Vec<&'static str> {
                let mut parts = vec![stringify!($first), stringify!($second)];
                parts.extend(self.$first.parts());
                parts
            }

            fn describe(&self) -> String {
                let part = self.$first.describe();
                format!(
                    "{part}, or {{ {} = …, {} = … }}",
                    stringify!($first),
                    stringify!($second)
                )
            }
        }
    };
}
pairs!(PerPhase, t2v, i2v);
pairs!(PerExpert, high, low);

fn shares(table: &toml::Table, names: &[&str]) -> bool {
    table.keys().any(|key| names.contains(&key.as_str()))
}

fn unknown_part(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("has no part {name:?} (did you mean {near:?}?)"),
        None => format!(
            "has no part {name:?}; its parts are {}",
            known.join(" and ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_toml_where_they_are_toml() {
        let mut number = 0_u32;
        number.update_text("12").unwrap();
        assert_eq!(number, 12);
        assert_eq!(
            number.update_text("-3").unwrap_err(),
            "must be a whole number, but is the number -3"
        );
        assert!(number.update_text("3\nother = 4").is_err());
        let mut text = String::new();
        text.update_text("2024").unwrap();
        assert_eq!(text, "2024");
        text.update_text(" ").unwrap();
        assert_eq!(text, " ");
        let mut float = 0.0;
        float.update_text(" 5 ").unwrap();
        assert_eq!(float, 5.0);
        assert!(float.update_text("nan").is_err());
    }

    #[test]
    fn pairs_take_one_value_for_both_or_a_table() {
        let mut guidance = PerPhase {
            t2v: PerExpert {
                high: 1.0,
                low: 1.0,
            },
            i2v: PerExpert {
                high: 1.0,
                low: 1.0,
            },
        };
        guidance.update_text("3.5").unwrap();
        guidance
            .update_text("{ t2v = { high = 4, low = 3.0 } }")
            .unwrap();
        assert_eq!(
            guidance.t2v,
            PerExpert {
                high: 4.0,
                low: 3.0
            }
        );
        assert_eq!(
            guidance.i2v,
            PerExpert {
                high: 3.5,
                low: 3.5
            }
        );
        guidance.update_text("{ low = 2.0 }").unwrap();
        assert_eq!(
            guidance.t2v,
            PerExpert {
                high: 4.0,
                low: 2.0
            }
        );
        let before = guidance;
        assert!(
            guidance
                .update_text("{ t2v = 9, i3v = 1 }")
                .unwrap_err()
                .contains("\"i2v\"")
        );
        assert!(
            guidance
                .update_text("{ hihg = 1 }")
                .unwrap_err()
                .contains("\"high\"")
        );
        assert!(guidance.update_text("high").is_err());
        assert_eq!(guidance, before);
    }
}
