//! What the writer of a story says of it beside what is to be seen (specification `onestory`, section 1.1): for
//! metrics, and for a check of the settings. Of all this, networks are told which shots share a character, and only by
//! the selector that asks for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::problem::nearest;

/// What the story script of OneStory says beside its captions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoryNotes {
    /// How its shots belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<StoryPattern>,
    /// Frames of a shot that it is written for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u32>,
    /// Frames per second that it is written for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<u32>,
    /// What is to be seen in each shot, in the order of its shots; empty if nothing is said of any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shots: Vec<ShotNotes>,
}

/// Which shots show the same: what the metrics of consistency between shots compare (OneStory, section 5.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShotNotes {
    /// The characters in it, by names that hold for the whole story.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub characters: Vec<String>,
    /// Where it takes place, by a name that holds for the whole story.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
}

/// How the shots of a story belong together (OneStory, appendix B).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoryPattern {
    /// A main subject through changing places and actions.
    MainSubject,
    /// A shot between others, which a later one comes back to.
    InsertRecall,
    /// Characters are introduced apart and meet later.
    Composable,
    /// None of these.
    Free,
}

impl StoryPattern {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::MainSubject,
        Self::InsertRecall,
        Self::Composable,
        Self::Free,
    ];

    /// The name in scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MainSubject => "main_subject",
            Self::InsertRecall => "insert_recall",
            Self::Composable => "composable",
            Self::Free => "free",
        }
    }
}

impl fmt::Display for StoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StoryPattern {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        named(Self::ALL.map(|pattern| (pattern.name(), pattern)), name)
    }
}

/// The value that has this name, or what names there are and which was likely meant.
pub(crate) fn named<T, const N: usize>(
    known: [(&'static str, T); N],
    name: &str,
) -> Result<T, String> {
    let names = known.each_ref().map(|(name, _)| *name);
    let found = known.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value).ok_or_else(|| {
        let hint = nearest(name, names)
            .map_or_else(String::new, |near| format!(", did you mean \"{near}\"?"));
        format!("{name:?} is none of {}{hint}", names.join(", "))
    })
}

impl StoryNotes {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Places of the shots before the one at `place` in which a character of that one is, oldest first.
    pub fn related(&self, place: usize) -> Vec<usize> {
        let Some(shot) = self.shots.get(place) else {
            return Vec::new();
        };
        let shares = |earlier: &ShotNotes| {
            let mut characters = earlier.characters.iter();
            characters.any(|character| shot.characters.contains(character))
        };
        (0..place)
            .filter(|&earlier| shares(&self.shots[earlier]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shots_are_related_by_their_characters() {
        let shot = |characters: &[&str]| ShotNotes {
            characters: characters.iter().map(|&name| name.to_owned()).collect(),
            environment: Some("forest".to_owned()),
        };
        let notes = StoryNotes {
            shots: vec![
                shot(&["fox"]),
                shot(&["owl", "bear"]),
                shot(&[]),
                shot(&["bear", "fox"]),
                shot(&["hare"]),
            ],
            ..StoryNotes::default()
        };
        let related = [0, 1, 2, 3, 4, 5].map(|place| notes.related(place));
        assert_eq!(related[3], [0, 1]);
        for place in [0, 1, 2, 4, 5] {
            assert!(related[place].is_empty(), "{place}");
        }
    }

    #[test]
    fn a_pattern_has_one_name_everywhere() {
        for pattern in StoryPattern::ALL {
            let written = serde_json::to_string(&pattern).unwrap();
            assert_eq!(written, format!("\"{pattern}\""));
            assert_eq!(pattern.name().parse(), Ok(pattern));
        }
        let wrong = "insert-recal".parse::<StoryPattern>().unwrap_err();
        assert!(
            wrong.ends_with("did you mean \"insert_recall\"?"),
            "{wrong}"
        );
    }
}
