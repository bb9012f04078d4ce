//! Names of stories and shots.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// The name of a story inside a run; also the name of its folder.
///
/// One to [`StoryId::MAX_LEN`] characters from `A-Z a-z 0-9 . _ -`, not starting with a dot or a
/// dash, so that it is always one plain path component on any file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoryId(String);

/// Why a text is not a story id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoryIdError {
    /// Nothing, or more than [`StoryId::MAX_LEN`] characters.
    #[error("a story id has 1 to {max} characters, this one has {len}", max = StoryId::MAX_LEN)]
    Length {
        /// The number of characters found.
        len: usize,
    },
    /// A character that could leave the run folder or confuse a shell.
    #[error(
        "the story id {id:?} has the character {found:?} in it; use letters, digits, '.', '_' and '-'"
    )]
    Character {
        /// The rejected id.
        id: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// It starts with a dot or a dash.
    #[error("the story id {id:?} must start with a letter, a digit or '_'")]
    Start {
        /// The rejected id.
        id: String,
    },
}

impl StoryId {
    /// The longest id that is accepted, in characters.
    pub const MAX_LEN: usize = 100;

    /// Checks `id` and wraps it.
    pub fn new(id: impl Into<String>) -> Result<Self, StoryIdError> {
        let id = id.into();
        let len = id.chars().count();
        if len == 0 || len > Self::MAX_LEN {
            return Err(StoryIdError::Length { len });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(found) = id.chars().find(|&c| !allowed(c)) {
            return Err(StoryIdError::Character { id, found });
        }
        if id.starts_with(['.', '-']) {
            return Err(StoryIdError::Start { id });
        }
        Ok(Self(id))
    }

    /// The id of a story whose file is called `stem`: the name itself where it is an id. Of any
    /// other name, such as one with blanks or Chinese letters, what can be read of it and a part of
    /// its digest, so that names that differ give ids that differ.
    ///
    /// It depends on nothing but the name, and not on how the letters of the name are composed.
    pub fn of_file(stem: &str) -> Self {
        const READ: usize = 80;
        if let Ok(id) = Self::new(stem) {
            return id;
        }
        let name: String = stem.nfc().collect();
        let digest = blake3::hash(name.as_bytes()).to_hex();
        let mut readable: String = readable(&name).chars().take(READ).collect();
        if readable.is_empty() {
            "story".clone_into(&mut readable);
        }
        Self(format!(
            "{}-{}",
            readable.trim_end_matches('-'),
            &digest[..8]
        ))
    }

    /// The id as storage sees it that takes `A` and `a` for one letter.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What to do about ids that [differ in case](differ_in_case).
pub(crate) const GIVE_ANOTHER_ID: &str =
    "give one of them another id, so that the run folder can lie anywhere";

/// What two ids are to storage that does not tell cases apart; `place` says where the other stands.
pub(crate) fn differ_in_case(id: &StoryId, other: &StoryId, place: &str) -> String {
    format!(
        "the ids {:?} and {:?}{place} differ only in case: some storage takes them for one name",
        id.as_str(),
        other.as_str()
    )
}

/// The letters of `name` that an id may have, accents left out, with dashes for all that is between.
fn readable(name: &str) -> String {
    let mut readable = String::with_capacity(name.len());
    for c in name.nfkd() {
        match c {
            _ if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') => readable.push(c),
            'ß' => readable.push_str("ss"),
            'æ' | 'Æ' => readable.push_str("ae"),
            'œ' | 'Œ' => readable.push_str("oe"),
            'ø' | 'Ø' => readable.push('o'),
            'ł' | 'Ł' => readable.push('l'),
            _ if unicode_normalization::char::is_combining_mark(c) => {}
            _ if readable.ends_with('-') => {}
            _ => readable.push('-'),
        }
    }
    readable.trim_matches(['-', '.']).to_owned()
}

impl fmt::Display for StoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for StoryId {
    type Error = StoryIdError;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(id)
    }
}

impl From<StoryId> for String {
    fn from(id: StoryId) -> Self {
        id.0
    }
}

/// A shot inside a story: scene number and position in the scene, both counted from 1.
///
/// Written `SS_HH` (at least two digits each), which is also the stem of the shot's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShotId {
    /// Scene number, from 1.
    pub scene: u32,
    /// Position inside the scene, from 1.
    pub shot: u32,
}

/// A text that is not of the form `SS_HH`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name a shot; write scene and shot as in 01_02")]
pub struct ShotIdError(String);

impl fmt::Display for ShotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}_{:02}", self.scene, self.shot)
    }
}

impl FromStr for ShotId {
    type Err = ShotIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits
                .then(|| part.parse::<u32>().ok())
                .flatten()
                .filter(|&n| n > 0)
        };
        text.split_once('_')
            .and_then(|(scene, shot)| {
                Some(Self {
                    scene: number(scene)?,
                    shot: number(shot)?,
                })
            })
            .ok_or_else(|| ShotIdError(text.to_owned()))
    }
}

impl TryFrom<String> for ShotId {
    type Error = ShotIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ShotId> for String {
    fn from(id: ShotId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_stay_inside_the_run_folder() {
        for bad in [
            "", "..", ".hidden", "a/b", "a\\b", "a b", "-rf", "é", "a\0b", "../x",
        ] {
            assert!(StoryId::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["neo", "ad-0001", "little_prince", "v1.2"] {
            assert_eq!(StoryId::new(good).unwrap().as_str(), good);
        }
        assert!(StoryId::new("x".repeat(101)).is_err());
    }

    #[test]
    fn names_of_files_give_ids_that_can_be_read() {
        let id = |stem: &str| StoryId::of_file(stem).to_string();
        assert_eq!(id("tale"), "tale");
        // Ids of runs that were begun: they must never change.
        for (stem, start) in [
            ("the red mug", "the-red-mug-"),
            ("Süßer Krug (2)", "Susser-Krug-2-"),
            ("小王子", "story-"),
            ("-rf", "rf-"),
            (".hidden", "hidden-"),
        ] {
            let made = id(stem);
            assert!(made.starts_with(start), "{stem} gives {made}");
            assert_eq!(made.len(), start.len() + 8, "{made}");
        }
        assert_ne!(id("小王子"), id("大王子"));
        assert_ne!(id("a b"), id("a  b"));
        assert_eq!(id("Kru\u{308}ge"), id("Kr\u{fc}ge"));
    }

    proptest! {
        #[test]
        fn any_name_of_a_file_gives_an_id(stem in ".{0,120}", other in ".{0,20}") {
            let id = StoryId::of_file(&stem);
            prop_assert_eq!(StoryId::new(id.as_str()).unwrap(), id.clone());
            prop_assert_eq!(StoryId::of_file(&stem), id.clone());
            let same = stem.nfc().eq(other.nfc());
            prop_assert_eq!(StoryId::of_file(&other) == id, same);
        }

        #[test]
        fn shot_ids_survive_the_way_to_text_and_back(scene in 1_u32.., shot in 1_u32..) {
            let id = ShotId { scene, shot };
            prop_assert_eq!(id.to_string().parse::<ShotId>().unwrap(), id);
        }

        #[test]
        fn parsing_a_shot_id_never_panics(text in ".{0,12}") {
            let _ = text.parse::<ShotId>();
        }
    }

    #[test]
    fn zero_is_no_shot() {
        assert!("00_01".parse::<ShotId>().is_err());
        assert!("01_".parse::<ShotId>().is_err());
        assert!("+1_01".parse::<ShotId>().is_err());
    }
}
