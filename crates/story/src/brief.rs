//! What a planner makes a script from: a product and how to sell it, or a story idea.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clean::plain_text;
use crate::fit::{Fit, Ground};
use crate::ids::StoryId;
use crate::manifest::StoryEntry;
use crate::method::Method;
use crate::script::StoryScript;
use crate::video::Resolution;

/// One brief, checked. Serialises to the line that
/// [`parse_lines`](crate::manifest_reader::parse_lines) reads.
///
/// A brief has either an [`idea`](Self::idea), or a product: a [`title`](Self::title), a
/// [`product_image`](Self::product_image), or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// Name of the story in the run, unique.
    pub id: StoryId,
    /// The product's name, or the title that the story of an idea shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What speaks for the product, the strongest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selling_points: Vec<String>,
    /// The offer that the last shot may mention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promo: Option<String>,
    /// What the planner is asked for, in free words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// Path of a picture of the product, relative to the file of the briefs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_image: Option<String>,
    /// The SHA-256 that the picture must have, in 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_image_sha256: Option<String>,
    /// What the story is about; excludes the fields of a product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idea: Option<String>,
    /// Number of shots, from 1 to [`Brief::MAX_SHOTS`].
    #[serde(default = "Brief::default_shots")]
    pub shots: u32,
    /// How the pictures shall look, in free words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// Language of the prompts.
    #[serde(default, skip_serializing_if = "Language::is_english")]
    pub language: Language,
    /// Size of its film in pixels, written `[width, height]`; the run's if absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::video::pair"
    )]
    pub size: Option<Resolution>,
    /// How its picture is put into the film's shape, if not as the run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// The colour behind its picture, if not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// Method, if not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Run seed, if not the run's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Who it is for; free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Larger is sooner; 0 if not given.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
}

/// What kind of script a brief asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BriefKind {
    /// An advertisement for a product.
    Ad,
    /// A story from an idea.
    Story,
}

impl Brief {
    /// Shots of a brief that does not say how many: the mean of EAVSD's samples less their
    /// reference image (Narrative Weaver specification, section 1.1).
    pub const DEFAULT_SHOTS: u32 = 8;
    /// More shots than this are refused.
    pub const MAX_SHOTS: u32 = 64;
    /// More selling points than this are refused.
    pub const MAX_SELLING_POINTS: usize = 16;
    /// The smallest and the largest side of a video, in pixels.
    pub const SIDES: (u32, u32) = (64, 4096);

    /// A brief with nothing but its name and the defaults; not yet one that can be planned.
    pub fn new(id: StoryId) -> Self {
        Self {
            id,
            title: None,
            selling_points: Vec::new(),
            promo: None,
            instruction: None,
            product_image: None,
            product_image_sha256: None,
            idea: None,
            shots: Self::DEFAULT_SHOTS,
            style: None,
            language: Language::default(),
            size: None,
            fit: None,
            ground: None,
            method: None,
            seed: None,
            tenant: None,
            priority: 0,
        }
    }

    /// What kind of script it asks for.
    pub fn kind(&self) -> BriefKind {
        if self.idea.is_some() {
            BriefKind::Story
        } else {
            BriefKind::Ad
        }
    }

    /// The brief without the markup that its words may have if an earlier version read them.
    pub fn in_plain_words(&self) -> Self {
        let plain = |text: &String| plain_text(text).into_owned();
        Self {
            title: self.title.as_ref().map(plain),
            selling_points: self.selling_points.iter().map(plain).collect(),
            promo: self.promo.as_ref().map(plain),
            instruction: self.instruction.as_ref().map(plain),
            idea: self.idea.as_ref().map(plain),
            style: self.style.as_ref().map(plain),
            ..self.clone()
        }
    }

    /// The story that this brief becomes with `script`. The picture of the product stands in its
    /// memory before the first shot.
    pub fn story(&self, script: StoryScript) -> StoryEntry {
        StoryEntry {
            method: self.method,
            seed: self.seed,
            tenant: self.tenant.clone(),
            priority: self.priority,
            size: self.size,
            fit: self.fit,
            ground: self.ground,
            reference_images: self.product_image.iter().cloned().collect(),
            ..StoryEntry::new(self.id.clone(), script)
        }
    }

    fn default_shots() -> u32 {
        Self::DEFAULT_SHOTS
    }
}

pub(crate) fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A language by its BCP 47 tag, such as `en` or `zh-Hans`; English by default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language(String);

/// A text that is not a language tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no language tag")]
pub struct LanguageError(String);

impl Language {
    /// Takes a tag of two or three letters, and after dashes up to three parts of two to eight
    /// letters or digits.
    ///
    /// # Errors
    /// A text of another form, such as the language's name.
    pub fn new(tag: impl Into<String>) -> Result<Self, LanguageError> {
        let tag = tag.into();
        let mut parts = tag.split('-');
        let primary = parts.next().unwrap_or_default();
        let letters = primary.bytes().all(|byte| byte.is_ascii_alphabetic());
        let subtag = |part: &str| {
            (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let rest: Vec<_> = parts.collect();
        if letters
            && (2..=3).contains(&primary.len())
            && rest.len() <= 3
            && rest.into_iter().all(subtag)
        {
            Ok(Self(tag))
        } else {
            Err(LanguageError(tag))
        }
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.0
    }

    /// The language without region and script, in lower case: `pt` of `pt-BR`.
    pub fn primary(&self) -> String {
        let primary = self.0.split('-').next().unwrap_or_default();
        primary.to_ascii_lowercase()
    }

    fn is_english(&self) -> bool {
        self.0 == "en"
    }
}

impl Default for Language {
    fn default() -> Self {
        Self("en".to_owned())
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Language {
    type Error = LanguageError;

    fn try_from(tag: String) -> Result<Self, Self::Error> {
        Self::new(tag)
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_read_is_the_same_brief() {
        let brief = |title: &str, point: &str| Brief {
            title: Some(title.to_owned()),
            selling_points: vec![point.to_owned()],
            ..Brief::new(StoryId::new("a").unwrap())
        };
        let before = brief("<b>Lamp</b> &amp; Shade", "soft");
        assert_eq!(before.in_plain_words(), brief("Lamp & Shade", "soft"));
        let plain = brief("Lamp  &  Shade", "5 < 6");
        assert_eq!(plain.in_plain_words(), plain);
    }

    #[test]
    fn languages_are_tags_and_not_names() {
        for good in ["en", "zh-Hans", "pt-BR", "deu", "zh-Hant-TW"] {
            assert_eq!(Language::new(good).unwrap().tag(), good);
        }
        for bad in [
            "", "e", "english", "en_GB", "en-", "-en", "e1", "en-x y", "é",
        ] {
            assert!(Language::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(Language::new("PT-br").unwrap().primary(), "pt");
    }
}
