//! How a picture that somebody brings is put into the shape of a film.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What happens where a picture and a film have different shapes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// All of the picture is seen, with bars of the ground's colour beside it.
    #[default]
    Pad,
    /// The film is filled; what stands over is cut off on both sides alike.
    Crop,
    /// The picture gets the film's shape, and what it shows another aspect.
    Stretch,
}

impl Fit {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pad, Self::Crop, Self::Stretch];

    /// The word in manifests and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pad => "pad",
            Self::Crop => "crop",
            Self::Stretch => "stretch",
        }
    }
}

impl FromStr for Fit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|fit| fit.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of \"pad\", \"crop\" and \"stretch\""))
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The colour behind what is transparent, and of the bars of [`Fit::Pad`]: red, green and blue of sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ground(pub [u8; 3]);

impl Ground {
    /// White, on which shops show their products.
    pub const WHITE: Self = Self([255; 3]);
}

impl Default for Ground {
    fn default() -> Self {
        Self::WHITE
    }
}

impl FromStr for Ground {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no colour; write it as \"#f4f4f0\"");
        let digits = text.strip_prefix('#').ok_or_else(wrong)?;
        if digits.len() != 6 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u32::from_str_radix(digits, 16).map_err(|_| wrong())?;
        let [_, red, green, blue] = number.to_be_bytes();
        Ok(Self([red, green, blue]))
    }
}

impl TryFrom<String> for Ground {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Ground> for String {
    fn from(ground: Ground) -> Self {
        ground.to_string()
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_colours_are_read_as_they_are_written() {
        for fit in Fit::ALL {
            assert_eq!(fit.to_string().parse(), Ok(fit));
            let json = serde_json::to_string(&fit).unwrap();
            assert_eq!(json, format!("{:?}", fit.name()));
        }
        assert!("Pad".parse::<Fit>().is_err());
        let ground: Ground = "#F4f4f0".parse().unwrap();
        assert_eq!(ground.0, [244, 244, 240]);
        assert_eq!(ground.to_string(), "#f4f4f0");
        for wrong in ["white", "f4f4f0", "#fff", "#f4f4f00", "#+f4f4f", "#ä4f4f"] {
            assert!(wrong.parse::<Ground>().is_err(), "{wrong}");
        }
    }
}
